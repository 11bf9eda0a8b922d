"use strict";
// A before/after slider for every image that has both, laid over copies of the panels on the page.
for (const image of document.querySelectorAll(".image")) {
  const panel = (name) => image.querySelector(`.wholes [data-panel="${name}"] img`);
  const before = panel("noisy") ? "noisy" : "input";
  const [noisy, after] = [panel(before), panel("denoised") || panel("clean")];
  if (!noisy || !after) continue;
  const box = document.createElement("div");
  box.className = "compare";
  const under = after.cloneNode(), over = noisy.cloneNode();
  over.className = "over";
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: 100, step: 0.1, value: 50 });
  slider.setAttribute("aria-label", `${before} or ${panel("denoised") ? "denoised" : "clean"}`);
  slider.addEventListener("input", () => box.style.setProperty("--at", slider.value + "%"));
  const handle = document.createElement("div");
  handle.className = "handle";
  const labels = [["left", before], ["right", panel("denoised") ? "denoised" : "clean"]].map(([side, text]) => {
    const label = document.createElement("span");
    label.className = `label ${side}`;
    label.textContent = text;
    return label;
  });
  box.append(under, over, slider, handle, ...labels);
  box.style.maxWidth = `${28 * noisy.getAttribute("width") / noisy.getAttribute("height")}rem`;
  const whole = image.querySelector(".whole");
  whole.classList.add("compared");
  whole.prepend(box);
}
// Zoom to pixels: all crops of one image move together; a click zooms in, a drag moves.
for (const crops of document.querySelectorAll(".crops")) {
  const frames = [...crops.querySelectorAll(".frame")];
  const buttons = [...crops.previousElementSibling.querySelectorAll("button")];
  let zoom = 1, x = 0.5, y = 0.5, drag = null;
  const show = () => {
    const half = 0.5 / zoom;
    x = Math.min(1 - half, Math.max(half, x));
    y = Math.min(1 - half, Math.max(half, y));
    for (const frame of frames)
      frame.firstElementChild.style.transform = `scale(${zoom}) translate(${(half - x) * 100}%, ${(half - y) * 100}%)`;
    for (const button of buttons) button.setAttribute("aria-pressed", String(Number(button.value) === zoom));
    crops.classList.toggle("zoomed", zoom > 1);
  };
  for (const button of buttons)
    button.addEventListener("click", () => { zoom = Number(button.value); show(); });
  for (const frame of frames) {
    const at = (event) => {
      const box = frame.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    frame.addEventListener("pointerdown", (event) => {
      drag = { from: at(event), x, y, moved: false };
      frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const [right, down] = at(event).map((value, axis) => value - drag.from[axis]);
      drag.moved ||= Math.hypot(right, down) > 0.02;
      if (drag.moved && zoom > 1) { x = drag.x - right / zoom; y = drag.y - down / zoom; show(); }
    });
    frame.addEventListener("pointerup", (event) => {
      if (drag && !drag.moved) {
        const [right, down] = at(event);
        x += (right - 0.5) / zoom;
        y += (down - 0.5) / zoom;
        zoom = zoom === 8 ? 1 : zoom * 2;
        show();
      }
      drag = null;
    });
  }
}
