// Frames that are zoomed and moved together, and the slider in them. The state is in the form's hidden fields: `zoom`,
// times the whole picture; `x` and `y`, where the picture's corner lies, as parts of the frame; `at`, the slider's place
// in per cent. `changed` is called after each change.
"use strict";
function zoomable(panes, fields, changed) {
  const CLOSEST = 32; // times the whole picture
  const GRIP = 0.05; // of the frame's width: how near to the slider a finger grips it
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const state = () => [+fields.zoom.value || 1, +fields.x.value || 0, +fields.y.value || 0];
  const whole = () => fields.zoom.value === "1";
  const sliderShown = () => fields.view.value === "slider";

  function set(zoom, x, y) {
    zoom = clamp(zoom, 1, CLOSEST);
    fields.zoom.value = +zoom.toFixed(4);
    fields.x.value = +clamp(x, 1 - zoom, 0).toFixed(4);
    fields.y.value = +clamp(y, 1 - zoom, 0).toFixed(4);
    changed();
  }

  // Move the pictures by parts of the frame.
  function move(right, down) {
    const [zoom, x, y] = state();
    set(zoom, x + right, y + down);
  }

  // Zoom by a factor, 0 for the whole picture; the place [across, down] in the frame stays where it is.
  function magnify(by, [across, down] = [0.5, 0.5]) {
    const [old, x, y] = state(), zoom = by ? clamp(old * by, 1, CLOSEST) : 1;
    set(zoom, across - ((across - x) * zoom) / old, down - ((down - y) * zoom) / old);
  }

  function slide(place) {
    fields.at.value = Math.round(100 * place);
    changed();
  }

  function arrow(right, down) {
    if (sliderShown() && whole()) slide(fields.at.value / 100 + right / 50);
    else move(-right / 10, -down / 10);
  }

  function within(event) {
    const box = event.target.closest(".frame").getBoundingClientRect();
    return [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
  }

  const held = new Map(); // the mouse or fingers that are down, and their last places in the frame
  let sliding = false;

  panes.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".frame") || event.button) return;
    event.target.setPointerCapture(event.pointerId);
    const place = within(event);
    held.set(event.pointerId, place);
    const grips = whole() || Math.abs(place[0] - fields.at.value / 100) < GRIP;
    sliding = held.size === 1 && sliderShown() && grips;
    if (sliding) slide(place[0]);
  });

  panes.addEventListener("pointermove", (event) => {
    if (!held.has(event.pointerId)) return;
    const now = within(event), before = held.get(event.pointerId);
    const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
    held.set(event.pointerId, now);
    if (other) {
      const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]) || 1;
      magnify(apart(now) / apart(before), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
    } else if (sliding) slide(now[0]);
    else move(now[0] - before[0], now[1] - before[1]);
  });

  for (const end of ["pointerup", "pointercancel"]) panes.addEventListener(end, (event) => held.delete(event.pointerId));

  panes.addEventListener("dblclick", (event) => {
    if (event.target.closest(".frame")) magnify(whole() ? 4 : 0, within(event));
  });

  panes.addEventListener(
    "wheel",
    (event) => {
      if (!event.target.closest(".frame") || !(event.ctrlKey || document.activeElement === panes)) return;
      if (event.deltaY > 0 && whole() && !event.ctrlKey) return; // the page scrolls on
      event.preventDefault();
      magnify(2 ** (-event.deltaY / 240), within(event));
    },
    { passive: false },
  );

  return { arrow, magnify, reset: () => set(...state()) };
}
