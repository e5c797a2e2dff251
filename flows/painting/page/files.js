// How files come in: chosen, dropped anywhere, or pasted.

// Let a hidden <input type=file> give its file to `use`.
export function chosen(input, use) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = ""; // so that the same file may be chosen again
    if (file) use(file);
  });
}

// Let files that are dropped or pasted go to `use`; `stage` is marked while one hovers.
export function droppedOrPasted(stage, use) {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("drop");
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? stage.classList.remove("drop"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("drop");
    if (event.dataTransfer.files[0]) use(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => event.clipboardData.files[0] && use(event.clipboardData.files[0]));
}
