// Compare with the original: by a divider, left of which it is shown, and as long as a key or a button is held.

// `may()` says whether there is anything to compare; `tell(text)` is for screen readers. Returns what keys.js calls.
export function comparing(view, {slider, divider, button, may, tell}) {
  const split = (share) => {
    view.split = Math.min(1, Math.max(0, share));
    slider.value = 100 * view.split;
    slider.setAttribute("aria-valuetext", `${Math.round(slider.value)} %`);
    view.draw();
  };
  const bare = (on) => {
    if (view.bare === on || (on && !may())) return;
    view.bare = on;
    button.setAttribute("aria-pressed", on);
    tell(on ? "The original." : "With the edits.");
    view.draw();
  };
  slider.addEventListener("input", () => split(slider.value / 100));
  divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
  divider.addEventListener("pointermove", (event) => {
    if (divider.hasPointerCapture(event.pointerId)) split(view.inPhoto(event)[0] / view.hole.width);
  });
  button.addEventListener("pointerdown", () => bare(true));
  button.addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && bare(true));
  for (const kind of ["pointerup", "pointerleave", "pointercancel", "blur", "keyup"])
    button.addEventListener(kind, () => bare(false));
  return {split, bare};
}
