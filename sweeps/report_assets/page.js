"use strict";
// The page: one filter that the scatter, the heat map and the table share.

const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const columns = data.columns, total = data.ids.length;
const allAxes = ["machine", ...data.axes].filter((name) => new Set(columns[name]).size > 1);
const goals = data.objectives.map((word) => {
  const [way, name] = /^(min|max) /.test(word) ? [word.slice(0, 3), word.slice(4).trim()] : ["min", word];
  return { name, more: way === "max" };
});
const MORE_IS_BETTER = new Set(["utilisation", "speedup", "energy_ratio", "accuracy", ...goals.filter((g) => g.more).map((g) => g.name)]);
const numeric = (name) => columns[name].some((v) => typeof v === "number");
const plottable = [...new Set([...goals.map((g) => g.name), ...data.numbers, ...data.axes.filter(numeric)])];
const SHOWN_AT_FIRST = 50;
let visible = [], placed = [], picked = -1, shown = SHOWN_AT_FIRST;
let order = { name: goals[0] ? goals[0].name : "workload", down: Boolean(goals[0] && goals[0].more) };

function fill(select, names, chosen, label = labelOf) {
  names.forEach((name) => { const option = element("option", label(name)); option.value = name; select.append(option); });
  if (names.includes(chosen)) select.value = chosen;
}

// "rows>=16 dataflow=ws text": every term must hold; a term without an operator is looked for in the texts.
function parseFilter(text) {
  const terms = [], wrong = [];
  for (const word of text.trim().split(/\s+/).filter(Boolean)) {
    const match = /^([A-Za-z_]\w*)(<=|>=|!=|=|<|>)(.+)$/.exec(word);
    if (!match) { terms.push((i) => ["workload", "machine", ...data.axes].some((n) => String(columns[n][i]).toLowerCase().includes(word.toLowerCase()))); continue; }
    const [, name, sign, right] = match;
    if (!(name in columns)) { wrong.push(name); continue; }
    const number = Number(right);
    terms.push((i) => {
      const left = columns[name][i];
      if (left === null || left === undefined) return false;
      const same = typeof left === "number" ? left === number : String(left) === right;
      return { "=": same, "!=": !same, "<": left < number, ">": left > number, "<=": left <= number, ">=": left >= number }[sign];
    });
  }
  return { terms, wrong };
}

function refilter() {
  const { terms, wrong } = parseFilter(get("filter").value), workload = get("workload").value;
  get("filter").classList.toggle("wrong", wrong.length > 0);
  get("filter-help").textContent = wrong.length
    ? `There is no column ${wrong.join(", ")}. Columns: ${Object.keys(columns).join(", ")}`
    : "Terms such as rows>=16, dataflow=os, area_mm2<2, in base units (s, J, mm², bytes); all must hold.";
  visible = [];
  for (let i = 0; i < total; i += 1)
    if (columns.workload[i] === workload && (!get("front-only").checked || data.front[i]) && terms.every((t) => t(i))) visible.push(i);
  get("count").textContent = `${visible.length.toLocaleString("en")} shown`;
  shown = SHOWN_AT_FIRST;
  redraw(); heat(); table();
}

function colouring(name) {
  const values = name === "" ? [] : columns[name], legend = get("legend");
  const ring = element("span"); ring.append(element("span", undefined, "dot ring"), "on the Pareto front");
  legend.replaceChildren(ring);
  if (name === "") return () => PALETTE[0];
  const kinds = [...new Set(visible.map((i) => values[i]))];
  if (!numeric(name) || kinds.length <= PALETTE.length) {
    kinds.sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
    const colours = new Map(kinds.map((kind, at) => [kind, numeric(name) ? css(ramp(kinds.length > 1 ? at / (kinds.length - 1) : 0)) : PALETTE[at % PALETTE.length]]));
    legend.append(element("span", `${labelOf(name)}:`));
    colours.forEach((colour, kind) => { const item = element("span"), dot = element("span", undefined, "dot"); dot.style.background = colour; item.append(dot, show(name, kind)); legend.append(item); });
    return (i) => colours.get(values[i]);
  }
  const numbers = kinds.filter((v) => typeof v === "number").sort((a, b) => a - b), low = numbers[0], high = numbers[numbers.length - 1];
  const bend = low > 0 ? Math.log : (v) => v;
  const bar = element("span", undefined, "bar"); bar.style.background = `linear-gradient(90deg, ${[0, 0.33, 0.66, 1].map((s) => css(ramp(s))).join(",")})`;
  const item = element("span", `${labelOf(name)}: ${show(name, low)}`); item.append(bar, show(name, high)); legend.append(item);
  return (i) => (typeof values[i] === "number" ? css(ramp((bend(values[i]) - bend(low)) / (bend(high) - bend(low) || 1))) : "#c6ced6");
}

function redraw() {
  const x = get("x").value, y = get("y").value, colour = colouring(get("colour").value);
  if (!x || !y) return;
  const points = visible.filter((i) => typeof columns[x][i] === "number" && typeof columns[y][i] === "number")
    .map((i) => ({ index: i, x: columns[x][i], y: columns[y][i], colour: colour(i), front: data.front[i] === 1, picked: i === picked }));
  placed = drawScatter(get("scatter"), points, x, y, get("log").checked);
}

function heat() {
  const x = get("heat-x").value, y = get("heat-y").value, name = get("heat-value").value, home = get("heat"), note = get("heat-note");
  if (!x || !y || x === y) { home.replaceChildren(); note.textContent = "Choose two different axes."; return; }
  const more = MORE_IS_BETTER.has(name), cells = new Map(), values = [new Set(), new Set()];
  for (const i of visible) {
    const value = columns[name][i];
    if (typeof value !== "number") continue;
    const key = `${columns[x][i]}\t${columns[y][i]}`, old = cells.get(key);
    values[0].add(columns[x][i]); values[1].add(columns[y][i]);
    if (old === undefined || (more ? value > old : value < old)) cells.set(key, value);
  }
  const sorted = (set) => [...set].sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
  drawHeat(home, sorted(values[0]), sorted(values[1]), cells, x, y, name, more);
  note.textContent = `Each cell is the ${more ? "highest" : "lowest"} ${labelOf(name).toLowerCase()} over all other axes, among the configurations shown.`;
}

function tableColumns() {
  const wanted = [...data.axes, ...goals.map((g) => g.name), "cycles", "utilisation", "speedup", "dram_read_bytes"];
  const rest = data.numbers.filter((n) => !wanted.includes(n) && !["energy_pj", "dense_macs", "issued_macs", "useful_macs"].includes(n));
  const names = [...(new Set(columns.machine).size > 1 ? ["machine"] : []), ...wanted, ...rest.slice(0, 4)];
  return [...new Set(names)].filter((n) => n in columns);
}

function table() {
  const names = tableColumns(), head = element("tr"), body = get("table").tBodies[0];
  names.forEach((name) => {
    const cell = element("th", axisLabel(name) + (order.name === name ? (order.down ? " ↓" : " ↑") : ""), numeric(name) ? "" : "text");
    cell.dataset.name = name; cell.title = name;
    cell.onclick = () => { order = { name, down: order.name === name && !order.down }; table(); };
    head.append(cell);
  });
  get("table").tHead.replaceChildren(head);
  const values = columns[order.name], sign = order.down ? -1 : 1;
  const sorted = [...visible].sort((a, b) => {
    const [u, v] = [values[a], values[b]];
    if (u === v) return a - b;
    if (u === null || u === undefined) return 1;
    if (v === null || v === undefined) return -1;
    return sign * (typeof u === "number" && typeof v === "number" ? u - v : String(u).localeCompare(String(v)));
  });
  body.replaceChildren();
  sorted.slice(0, shown).forEach((i) => {
    const line = element("tr", undefined, i === picked ? "picked" : "");
    names.forEach((name) => line.append(element("td", show(name, columns[name][i]), numeric(name) ? "" : "text")));
    line.onclick = () => pick(i);
    body.append(line);
  });
  get("more").hidden = visible.length <= shown;
  get("more").textContent = `Show more (${Math.max(0, visible.length - shown).toLocaleString("en")} left)`;
}

function pick(index) { picked = picked === index ? -1 : index; redraw(); table(); }

function nearestPoint(event) {
  const box = get("scatter").getBoundingClientRect(), mx = event.clientX - box.left, my = event.clientY - box.top;
  let best = null, least = 144;
  for (const p of placed) { const d = (p.px - mx) ** 2 + (p.py - my) ** 2; if (d < least || (d === least && p.point.front)) { least = d; best = p; } }
  return best;
}

function hover(event) {
  const p = nearestPoint(event), tip = get("tip");
  tip.hidden = !p;
  if (!p) return;
  const i = p.index, names = [...(allAxes.includes("machine") ? ["machine"] : []), ...data.axes, ...new Set([...goals.map((g) => g.name), get("x").value, get("y").value])];
  tip.textContent = names.map((name) => `${axisLabel(name)}  ${show(name, columns[name][i])}`).join("\n") + (data.front[i] ? "\non the Pareto front" : "") + `\ntask ${data.ids[i]}`;
  const wide = get("scatter").clientWidth;
  tip.style.left = p.px > wide / 2 ? "" : `${p.px + 14}px`;
  tip.style.right = p.px > wide / 2 ? `${wide - p.px + 14}px` : "";
  tip.style.top = `${Math.min(p.py, get("scatter").clientHeight - 40 - tip.offsetHeight / 2)}px`;
}

function failures() {
  if (!data.failed.length) return;
  get("failures").hidden = false;
  const names = ["workload", "machine", ...data.axes, "error"], head = element("tr");
  names.forEach((name) => head.append(element("th", labelOf(name), "text")));
  get("failed").tHead.append(head);
  data.failed.slice(0, 500).forEach((row) => {
    const line = element("tr");
    names.forEach((name) => line.append(element("td", show(name, row[name]), "text")));
    get("failed").tBodies[0].append(line);
  });
  if (data.failed.length > 500) get("failures").append(element("p", `${data.failed.length - 500} more are in the store.`, "note"));
}

function start() {
  get("title").textContent = data.name;
  get("description").textContent = data.description;
  const workloads = [...new Set(columns.workload)].sort(), onFront = data.front.reduce((a, b) => a + b, 0);
  for (const [name, value] of [["configurations", data.points], ["workloads", workloads.length], ["on the front", onFront], ["failed", data.failed.length]]) {
    const box = element("div"); box.append(element("dt", name), element("dd", value.toLocaleString("en"))); get("figures").append(box);
  }
  get("front-note").textContent = `Front: exact, per workload, over ${goals.map((g) => `${g.more ? "highest" : "lowest"} ${labelOf(g.name).toLowerCase()}`).join(", ")}. Click a point or a line of the table to mark it in both.`;
  failures();
  if (!total) { document.querySelectorAll("main > section:not(#failures)").forEach((s) => { s.hidden = true; }); return; }
  const same = (name) => name;
  fill(get("workload"), workloads, workloads[0], same);
  fill(get("x"), plottable, goals[0] && goals[0].name);
  fill(get("y"), plottable, (goals[1] || goals[0] || {}).name);
  fill(get("colour"), ["", ...new Set([...allAxes, ...plottable])], allAxes.find((n) => !numeric(n)) || allAxes[0] || "", (n) => (n ? labelOf(n) : "none"));
  fill(get("heat-x"), allAxes, allAxes[1] || allAxes[0]);
  fill(get("heat-y"), allAxes, allAxes[0]);
  fill(get("heat-value"), plottable.filter((n) => !data.axes.includes(n)), goals[0] && goals[0].name);
  ["workload", "front-only"].forEach((id) => get(id).addEventListener("change", refilter));
  get("filter").addEventListener("input", refilter);
  ["x", "y", "colour", "log"].forEach((id) => get(id).addEventListener("change", redraw));
  ["heat-x", "heat-y", "heat-value"].forEach((id) => get(id).addEventListener("change", heat));
  get("more").addEventListener("click", () => { shown += 200; table(); });
  get("scatter").addEventListener("mousemove", hover);
  get("scatter").addEventListener("mouseleave", () => { get("tip").hidden = true; });
  get("scatter").addEventListener("click", (event) => { const p = nearestPoint(event); if (p) pick(p.index); });
  window.addEventListener("resize", redraw);
  refilter();
}
start();
