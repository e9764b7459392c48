"use strict";
// Paints the frames of a tile; what is in them was read out of the stepped twin's registers.
(() => {
  const tile = JSON.parse(document.getElementById("frames").textContent);
  const { frames, rows, cols, flow } = tile;
  const array = document.getElementById("array"), slider = document.getElementById("cycle");
  const play = document.getElementById("play"), strip = document.querySelectorAll(".strip i");
  const STEP_MS = 650;
  let at = 0, followed = -1, timer = null;

  const cells = [];
  for (let index = 0; index < rows * cols; index++) {
    const cell = document.createElement("div");
    cell.className = "pe";
    cell.setAttribute("role", "gridcell");
    cell.addEventListener("click", () => { followed = followed === index ? -1 : index; show(at); });
    array.append(cell);
    cells.push(cell);
  }

  const pair = (number, width) => [Math.floor(number / width), number % width];
  // The number of a resting operand is 1 + its place in its matrix: [k, n] of a weight, [m, k] of an input.
  const resting = (number) => number > 0 ? pair(number - 1, flow === "is" ? tile.k : tile.n) : null;
  const line = (kind, places, more = "") => {
    const span = document.createElement("span");
    span.className = `${kind} ${more}`.trim();
    span.textContent = `${kind === "s" ? "Σ" : kind} ${places.join(",")}`;
    return span;
  };
  // Every vector of the stream has a hue, so that the wave it makes through the array is seen.
  const hue = (frame, product) => (flow === "ws" ? product[0] : flow === "is" ? product[2] : product[1]) * 47 % 360;

  const paint = (frame, index, cell) => {
    const product = frame.p[index];
    const parts = [];
    const works = product.length > 0 && product[0] >= 0 && product[2] >= 0;
    cell.classList.toggle("on", product.length > 0);
    cell.classList.toggle("followed", index === followed);
    if (product.length > 0) {
      const [m, k, n, input, weight, first, lanes] = product;
      cell.style.setProperty("--h", hue(frame, product));
      if (m >= 0) parts.push(line("a", [m, k], input ? "" : "zero"));
      if (n >= 0) parts.push(line("w", [k, n], weight ? "" : "zero"));
      if (works) parts.push(line("s", [m, n]));
      if (lanes > 1 && works) {
        const mux = document.createElement("span");
        mux.className = "mux";
        for (let lane = 0; lane < lanes; lane++) {
          const place = document.createElement("i");
          if (first + lane === k) place.className = "chosen";
          mux.append(place);
        }
        parts.push(mux);
      }
    }
    const kind = flow === "is" ? "a" : "w";
    const held = frame.b.map((bank) => bank[index]);
    if (!works) {
      const here = held.filter((number) => number >= 0);
      here.forEach((number, nth) => {
        const more = nth ? "next" : "rest";
        parts.push(number ? line(kind, resting(number), more) : line(kind, ["0"], `${more} zero`));
      });
    } else if (held.length > 1) {
      // The other bank: what will be used next, or what was used last.
      const used = flow === "is" ? product[0] * tile.k + product[1] + 1 : product[1] * tile.n + product[2] + 1;
      const other = held.find((number) => number > 0 && number !== used);
      if (other !== undefined) parts.push(line(kind, resting(other), "next"));
    }
    if (frame.l[index] >= 0) {
      const leaving = line("s", pair(frame.l[index], tile.n), works ? "next" : "rest");
      leaving.textContent += " ↓";
      parts.push(leaving);
    }
    cell.replaceChildren(...parts);
  };

  const say = (frame) => {
    const [row, col] = pair(followed, cols), product = frame.p[followed];
    if (product.length === 0 || product[0] < 0 || product[2] < 0) return `Element (${row}, ${col}): no product in this cycle.`;
    const [m, k, n, input, weight, first, lanes] = product;
    const mux = lanes > 1 ? ` The mux has the inputs of k = ${first} to ${first + lanes - 1} and takes k = ${k}.` : "";
    const zero = input && weight ? "" : " One of them is zero: the product is.";
    return `Element (${row}, ${col}): a(${m}, ${k}) × w(${k}, ${n}) is added to Σ(${m}, ${n}).${mux}${zero}`;
  };

  const show = (cycle) => {
    at = Math.max(0, Math.min(frames.length - 1, cycle));
    const frame = frames[at];
    slider.value = String(at);
    slider.setAttribute("aria-valuetext", `cycle ${at}: ${frame.cause}`);
    cells.forEach((cell, index) => paint(frame, index, cell));
    strip.forEach((mark, index) => mark.classList.toggle("at", index === at));
    const now = document.getElementById("now"), cause = document.createElement("small");
    const chip = document.createElement("span"), dot = document.createElement("i");
    chip.className = "chip"; dot.className = frame.class;
    chip.append(dot, frame.cause);
    cause.append(chip);
    now.replaceChildren(`cycle ${at} of ${frames.length - 1}`, cause);
    document.getElementById("left").textContent = frame.left.length === 0 ? "No result leaves in this cycle."
      : `Results that leave: ${frame.left.map(([m, n]) => `Σ(${m}, ${n})`).join(" ")}`;
    document.getElementById("said").textContent = followed < 0 ? "Choose an element to follow it." : say(frame);
  };

  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶";
    play.setAttribute("aria-pressed", "false");
  };
  const step = () => { if (at + 1 < frames.length) show(at + 1); if (at + 1 >= frames.length) stop(); };
  const toggle = () => {
    if (timer !== null) { stop(); return; }
    if (at + 1 >= frames.length) show(0);
    play.textContent = "❚❚";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(step, STEP_MS);
  };
  const go = (cycle) => { stop(); show(cycle); };

  slider.addEventListener("input", () => go(Number(slider.value)));
  play.addEventListener("click", toggle);
  document.getElementById("first").addEventListener("click", () => go(0));
  document.getElementById("back").addEventListener("click", () => go(at - 1));
  document.getElementById("next").addEventListener("click", () => go(at + 1));
  document.getElementById("last").addEventListener("click", () => go(frames.length - 1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = { ArrowLeft: () => go(at - 1), ArrowRight: () => go(at + 1), Home: () => go(0), End: () => go(frames.length - 1),
      " ": toggle };
    if (!(event.key in keys) || event.target instanceof Element && event.target.closest("summary")) return;
    event.preventDefault();
    // A button that has the focus would be pressed by the space bar too.
    if (event.target instanceof HTMLButtonElement) event.target.blur();
    keys[event.key]();
  });
  stop();
  // tile.html#20 opens at cycle 20.
  show(Number.parseInt(location.hash.slice(1), 10) || 0);
})();
