"use strict";
// Tooltips and switches; the page says the same without them.
(() => {
  const tip = document.getElementById("tip");

  // A <title> is what a browser shows by itself, late and plain: take its text over.
  for (const title of document.querySelectorAll("svg.chart title")) {
    title.parentElement.dataset.tip = title.textContent.trim();
    title.remove();
  }

  const place = (event) => {
    const gap = 14, box = tip.getBoundingClientRect();
    const x = event.clientX + gap + box.width > innerWidth ? event.clientX - gap - box.width : event.clientX + gap;
    const y = event.clientY + gap + box.height > innerHeight ? event.clientY - gap - box.height : event.clientY + gap;
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${Math.max(4, y)}px`;
  };
  document.addEventListener("pointermove", (event) => {
    const over = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    tip.hidden = over === null;
    if (over !== null) {
      tip.textContent = over.dataset.tip;
      place(event);
    }
  });
  document.addEventListener("pointerleave", () => { tip.hidden = true; });

  for (const views of document.querySelectorAll(".views")) {
    const buttons = views.querySelectorAll("button[data-show]");
    const show = (view) => {
      views.dataset.view = view;
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.show === view));
    };
    for (const button of buttons) button.addEventListener("click", () => show(button.dataset.show));
    for (const group of views.querySelectorAll(".switch")) group.hidden = false;
    show(views.dataset.view);
  }
})();
