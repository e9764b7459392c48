"use strict";
// A scatter on canvas and a heat map as a table; both know nothing of filters.

const PALETTE = ["#3d6fb6", "#e09f3e", "#2a9d8f", "#8e5ea2", "#6c8f3c", "#b5651d", "#4d4d4d", "#c06c9b"];
const RAMP = [[38, 70, 120], [42, 128, 140], [94, 185, 130], [240, 225, 120]];

function ramp(share) {
  const at = Math.max(0, Math.min(1, share)) * (RAMP.length - 1), low = Math.min(RAMP.length - 2, Math.floor(at));
  return RAMP[low].map((from, i) => Math.round(from + (RAMP[low + 1][i] - from) * (at - low)));
}
const css = (rgb) => `rgb(${rgb.join(",")})`;

// A scale from data to pixels with its ticks; logarithmic where asked for and possible.
function scale(values, log, from, to) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
  if (!(low <= high)) { low = 0; high = 1; }
  const bend = log && low > 0 ? Math.log10 : (v) => v;
  let a = bend(low), b = bend(high);
  const room = a === b ? Math.max(Math.abs(a) * 0.1, 0.1) : (b - a) * 0.05;
  if (bend === Math.log10 || a < 0 || a - room > 0) a -= room; else a = Math.min(0, a);
  b += room;
  const ticks = [];
  if (bend === Math.log10) {
    const wide = b - a;
    const steps = wide > 3 ? [1] : wide > 1.2 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
    for (let power = Math.floor(a); power <= b; power += 1)
      for (const step of steps) { const t = Number((step * 10 ** power).toPrecision(3)); if (bend(t) >= a && bend(t) <= b) ticks.push(t); }
  }
  if (ticks.length < 2) {
    ticks.length = 0;
    const [first, last] = bend === Math.log10 ? [10 ** a, 10 ** b] : [a, b];
    const raw = (last - first) / 6, base = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * base).find((s) => s >= raw);
    for (let t = Math.ceil(first / step) * step; t <= last; t += step) ticks.push(Number(t.toPrecision(12)));
  }
  return { at: (v) => from + (bend(v) - a) / (b - a) * (to - from), ticks };
}

// points: [{x, y, colour, front, picked, index}]; returns the screen positions for hovering.
function drawScatter(canvas, points, xName, yName, log) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio; canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const left = 84, right = width - 16, top = 12, bottom = height - 52;
  const x = scale(points.map((p) => p.x), log, left, right), y = scale(points.map((p) => p.y), log, bottom, top);
  pen.font = "12px system-ui, 'DejaVu Sans', sans-serif"; pen.lineWidth = 1;
  pen.textAlign = "center"; pen.textBaseline = "top";
  let free = -Infinity;
  for (const t of x.ticks) {
    const px = x.at(t), text = show(xName, t), half = pen.measureText(text).width / 2;
    pen.strokeStyle = "#edf0f2"; pen.beginPath(); pen.moveTo(px, top); pen.lineTo(px, bottom); pen.stroke();
    pen.fillStyle = "#5c6b7a";
    if (px - half > free) { pen.fillText(text, px, bottom + 7); free = px + half + 10; }
  }
  pen.textAlign = "right"; pen.textBaseline = "middle";
  free = Infinity;
  for (const t of y.ticks) {
    const py = y.at(t);
    pen.strokeStyle = "#edf0f2"; pen.beginPath(); pen.moveTo(left, py); pen.lineTo(right, py); pen.stroke();
    pen.fillStyle = "#5c6b7a";
    if (py < free) { pen.fillText(show(yName, t), left - 8, py); free = py - 16; }
  }
  pen.strokeStyle = "#b9c2ca"; pen.beginPath(); pen.moveTo(left, top); pen.lineTo(left, bottom); pen.lineTo(right, bottom); pen.stroke();
  pen.fillStyle = "#1d2733"; pen.font = "600 13px system-ui, 'DejaVu Sans', sans-serif"; pen.textAlign = "center";
  pen.fillText(axisLabel(xName), (left + right) / 2, height - 12);
  pen.save(); pen.translate(14, (top + bottom) / 2); pen.rotate(-Math.PI / 2); pen.fillText(axisLabel(yName), 0, 0); pen.restore();
  const placed = points.map((p) => ({ index: p.index, px: x.at(p.x), py: y.at(p.y), point: p }));
  const disc = (p, radius) => { pen.beginPath(); pen.arc(p.px, p.py, radius, 0, 7); };
  pen.globalAlpha = points.length > 5000 ? 0.35 : 0.6;
  for (const p of placed) if (!p.point.front) { pen.fillStyle = p.point.colour; disc(p, 3.5); pen.fill(); }
  pen.globalAlpha = 1;
  for (const p of placed) if (p.point.front) {
    pen.fillStyle = p.point.colour; disc(p, 4.5); pen.fill();
    pen.strokeStyle = "#d1495b"; pen.lineWidth = 2; pen.stroke();
  }
  for (const p of placed) if (p.point.picked) { pen.strokeStyle = "#1d2733"; pen.lineWidth = 3; disc(p, 9); pen.stroke(); }
  return placed;
}

// cells: Map of "x\ty" -> best value; xs, ys in order, the first of ys at the bottom.
function drawHeat(home, xs, ys, cells, xName, yName, valueName, moreIsBetter) {
  home.replaceChildren();
  const values = [...cells.values()].filter((v) => v > 0 || v < 0 || v === 0);
  const positive = values.every((v) => v > 0), bend = positive ? Math.log : (v) => v;
  const low = bend(Math.min(...values)), high = bend(Math.max(...values));
  const table = element("table"), body = element("tbody");
  [...ys].reverse().forEach((b) => {
    const line = element("tr");
    line.append(element("th", show(yName, b), "side"));
    xs.forEach((a) => {
      const value = cells.get(`${a}\t${b}`), cell = element("td", value === undefined ? "–" : show(valueName, value));
      if (value === undefined) cell.className = "none";
      else {
        let share = high > low ? (bend(value) - low) / (high - low) : 1;
        if (!moreIsBetter && high > low) share = 1 - share;
        const rgb = ramp(share);
        cell.style.background = css(rgb);
        cell.style.color = rgb[0] * 0.3 + rgb[1] * 0.6 + rgb[2] * 0.1 > 140 ? "#1d2733" : "#fff";
      }
      line.append(cell);
    });
    body.append(line);
  });
  const foot = element("tr");
  foot.append(element("th", `${labelOf(yName)} ↑  ${labelOf(xName)} →`, "side"));
  xs.forEach((a) => foot.append(element("th", show(xName, a))));
  body.append(foot);
  table.append(body);
  home.append(table);
}
