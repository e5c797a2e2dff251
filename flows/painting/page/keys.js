// The page's keys. None counts in a field that takes letters or numbers itself.

const TOOLS = {b: "brush", e: "eraser", r: "rectangle", l: "line", m: "move"};
const BUTTONS = {
  i: "invert", Delete: "clear", Backspace: "clear", "+": "in", "=": "in", "-": "out", 0: "fit", ",": "back",
  ".": "forward", Escape: "cancel",
};
const WITH_CONTROL = {z: "undo", y: "redo", Enter: "run"};
const FIELDS = "input[type=number], select";

// `press(id)` presses the button of this name, `resize(steps)` makes the brush larger, `bare(on)` shows the original,
// and `choose(number)` takes an answer, from 1.
export function listen({press, resize, bare, choose}) {
  addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const inField = event.target.matches(FIELDS);
    if (event.altKey) return;
    if (event.ctrlKey || event.metaKey) {
      const id = key === "z" && event.shiftKey ? "redo" : WITH_CONTROL[key];
      if (!id || (inField && key !== "Enter")) return;
      press(id);
    } else if (key === "Escape") press("cancel");
    else if (inField) return;
    else if (BUTTONS[key]) press(BUTTONS[key]);
    else if (TOOLS[key]) document.querySelector(`#tool [value=${TOOLS[key]}]`).click();
    else if (key === "[" || key === "]") resize(key === "]" ? 1 : -1);
    else if (key === "c") bare(true);
    else if (key >= "1" && key <= "8") choose(Number(key));
    else return;
    event.preventDefault();
  });
  addEventListener("keyup", (event) => event.key.toLowerCase() === "c" && bare(false));
  addEventListener("blur", () => bare(false));
}
