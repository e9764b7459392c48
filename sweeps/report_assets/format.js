"use strict";
// Numbers and names as people write them: 1.2 ms, 64 KiB, 83 %.  The data keep base units.

const UNITS = { _s: "s", _j: "J", _hz: "Hz", _mm2: "mm²", _bytes: "B", _cycles: "cycles", _bits: "bits" };
const SMALL = ["", "m", "µ", "n", "p", "f"];
const LARGE = ["", "k", "M", "G", "T", "P"];

function unitOf(name) {
  if (name.endsWith("_pj")) return "pJ";
  if (name.endsWith("_per_cycle")) return name.replace(/^.*?_?(bytes|bits)_per_cycle$/, "$1/cycle");
  const ending = Object.keys(UNITS).find((end) => name.endsWith(end));
  return ending ? UNITS[ending] : "";
}

function labelOf(name) {
  const unit = unitOf(name);
  let words = name;
  if (name.endsWith("_per_cycle")) words = name.replace(/_(bytes|bits)_per_cycle$/, " bandwidth");
  else if (unit) words = name.replace(/_[a-z0-9]+$/, "");
  words = words.replace(/_/g, " ").replace(/\bdram\b/g, "DRAM").replace(/\bsram\b/g, "SRAM").replace(/\bmacs\b/g, "MACs");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// Label for a chart's axis, whose ticks carry their own prefix.
function axisLabel(name) {
  const unit = unitOf(name);
  return unit && unit !== "mm²" && unit !== "bytes/cycle" ? labelOf(name) : labelOf(name) + (unit ? ` (${unit})` : "");
}

function digits(value, count = 3) {
  if (value === 0) return "0";
  if (Math.abs(value) >= 1e15 || Math.abs(value) < 1e-3) return value.toExponential(2);
  return Number(value.toPrecision(Math.max(count, Math.ceil(Math.log10(Math.abs(value) + 1))))).toLocaleString("en");
}

function prefixed(value, unit) {
  if (value === 0) return `0 ${unit}`.trim();
  let size = Math.abs(value), step = 0;
  if (size < 1) while (size < 0.9995 && step < SMALL.length - 1) { size *= 1e3; step += 1; }
  else while (size >= 999.5 && step < LARGE.length - 1) { size /= 1e3; step += 1; }
  const prefix = Math.abs(value) < 1 ? SMALL[step] : LARGE[step];
  return `${value < 0 ? "-" : ""}${digits(size)} ${prefix}${unit}`.trim();
}

function show(name, value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (name === "utilisation" || name.endsWith("_density")) return `${digits(100 * value)} %`;
  const unit = unitOf(name);
  if (unit === "B") {
    const power = value >= 1024 ? Math.min(4, Math.floor(Math.log2(value) / 10)) : 0;
    return `${digits(value / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
  }
  if (unit === "pJ") return prefixed(value * 1e-12, "J");
  if (["s", "J", "Hz"].includes(unit)) return prefixed(value, unit);
  if (name.endsWith("cycles") || name.endsWith("_macs")) return prefixed(value, "");
  return digits(value) + (name === "speedup" || name === "energy_ratio" ? "×" : "");
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;  // text only: nothing from the data becomes markup
  if (className) made.className = className;
  return made;
}
