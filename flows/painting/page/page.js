// The page: opens photos, asks the server to fill holes, and shows the edits.

import {comparing} from "./compare.js";
import {factsOf} from "./facts.js";
import {chosen, droppedOrPasted} from "./files.js";
import {Hole} from "./hole.js";
import {listen} from "./keys.js";
import {Painter} from "./painter.js";
import {blob, image, json, save} from "./server.js";
import {View} from "./view.js";

const $ = (id) => document.getElementById(id);
const view = new View($("stage"));
const painter = new Painter(view, {tell, changed: tellHole});
const compare = comparing(view, {
  slider: $("split"), divider: $("divider"), button: $("original"), may: () => last(), tell,
});
const patches = new Map(); // "edit/answer" -> <img> of what was filled in
let start = {systems: [], presets: {}, photo_bytes: Infinity};
let photo = null; // the server's state of the open photo
let system = null; // the server's facts of the chosen one
let saved = ""; // the edits, as `made` says it, when the picture was saved
let busy = null; // a promise while something is done

function tell(text) {
  $("alert").hidden = true;
  $("status").textContent = text;
}

function warn(error) {
  $("status").textContent = "";
  $("alert").textContent = error.message;
  $("alert").hidden = false;
}

// Do one thing at a time; what goes wrong is said. What had the focus has it again at the end.
async function act(work) {
  if (busy) return;
  let end;
  busy = new Promise((done) => end = done);
  const focused = document.activeElement;
  const instead = focused.closest("#choice") ? "#choice :checked" : "#history [aria-current]";
  document.body.setAttribute("aria-busy", "true");
  refresh();
  try {
    await work();
  } catch (error) {
    warn(error);
  } finally {
    busy = null;
    end();
    document.body.removeAttribute("aria-busy");
    refresh();
    if (document.activeElement === document.body && focused !== document.body)
      (focused.isConnected && !focused.disabled ? focused : document.querySelector(instead))?.focus();
  }
}

function tellHole() {
  const share = view.hole.share();
  tell(view.hole.done.length && share ? `The hole covers ${percent(share)} of the photo.` : "There is no hole.");
  refresh();
}

// ---- opening a photo

async function open(file) {
  while (busy) await busy;
  if (photo && made() !== saved && !confirm("Your edits are not saved. Open another photo?")) return;
  await act(async () => {
    if (file.size > start.photo_bytes) throw new Error(`${file.name}: larger than ${start.photo_bytes >> 20} MiB.`);
    tell(`Opening ${file.name}…`);
    await file.slice(0, 1).arrayBuffer().catch(() => {
      throw new Error(`${file.name}: the browser cannot read this file.`);
    });
    const opened = await json("POST", "photos", {name: file.name.slice(-255) || "photo"}, file);
    let shown = opened.shown ? await image(file).catch(() => null) : null;
    if (shown?.naturalWidth !== opened.width || shown.naturalHeight !== opened.height)
      shown = await image(await blob("GET", `photos/${opened.id}/view.jpg`)); // this browser cannot show the file
    const hole = new Hole(opened.width, opened.height);
    if (photo) json("DELETE", `photos/${photo.id}`).catch(() => {});
    [photo, saved] = [opened, ""];
    patches.clear();
    shown.id = "photo";
    shown.alt = `The photo ${opened.name}`;
    $("photo").replaceWith(shown);
    $("empty").hidden = true;
    $("name").textContent = `${opened.name} (${opened.width} × ${opened.height})`;
    compare.split(0);
    view.show(hole);
    painter.resize(Math.min(opened.width, opened.height) / 16);
    await showEdits();
    tell("Paint over what is to be filled, or add a ready-made hole. Then choose Fill.");
  });
}

// ---- the hole

const addPreset = (kind) => act(async () => {
  tell(`Looking where it goes: ${start.presets[kind]}…`);
  const seed = Math.floor(Math.random() * 2 ** 32);
  await addHole(await blob("GET", `photos/${photo.id}/preset`, {kind, seed}));
});

async function addHole(file) {
  if (!await view.hole.addPicture(file)) throw new Error("This hole is black everywhere; white marks what is missing.");
  view.draw();
  tellHole();
}

function change(kind) {
  view.hole.add({kind});
  view.draw();
  tellHole();
}

function undo(which) {
  if (painter.cancel()) return tell("Forgotten.");
  if (!view.hole[which]()) return tell(`There is nothing to ${which}.`);
  view.draw();
  tellHole();
}

// ---- filling it

const fill = () => act(async () => {
  const query = {system: $("system").value, grain: $("grain").checked, seed: Math.floor(Math.random() * 2 ** 31)};
  if (!$("answers-label").hidden) {
    if (!$("answers").value || !$("answers").checkValidity()) throw new Error("Answers: give a whole number from 1 to 8.");
    query.answers = $("answers").value;
  }
  tell("Filling…");
  const painted = view.hole.done.length;
  photo = await json("POST", `photos/${photo.id}/run`, query, await view.hole.file());
  try {
    $("cancel").hidden = $("progress").hidden = false;
    while (["waiting", "running"].includes(photo.run.state)) {
      if (photo.run.progress) $("progress").value = photo.run.progress;
      await new Promise((done) => setTimeout(done, 150));
      photo = await json("GET", `photos/${photo.id}`);
    }
  } finally {
    $("cancel").hidden = $("progress").hidden = true;
    $("progress").removeAttribute("value");
  }
  if (photo.run.state === "failed") throw new Error(photo.run.error);
  if (photo.run.state === "cancelled") return tell("Cancelled. The hole is still there.");
  // So that the result is seen; undo brings the hole back. What was painted meanwhile stays.
  if (view.hole.done.length === painted) view.hole.add({kind: "clear"});
  await showEdits();
  const {answers} = photo.edits.at(-1);
  tell(answers > 1 ? `Filled, with ${answers} answers to choose from.` : "Filled.");
});

async function cancel() {
  if (painter.cancel() || $("cancel").hidden) return;
  tell("Cancelling…");
  await json("DELETE", `photos/${photo.id}/run`).catch(warn);
}

// ---- the edits

const step = (edits) => act(async () => {
  photo = await json("PUT", `photos/${photo.id}/applied`, {edits});
  await showEdits();
  tell(edits ? `Edit ${edits} of ${photo.edits.length}.` : "The photo as it was.");
});

const choose = (number) => act(async () => {
  photo = await json("PUT", `photos/${photo.id}/answer`, {number});
  await showEdits();
  tell(`Answer ${number + 1} of ${photo.edits.at(-1).answers}.`);
});

const percent = (share) => share < 0.001 ? "under 0.1 %" : `${(100 * share).toFixed(1)} %`;
const shareOf = (edit) => percent(edit.pixels / (photo.width * photo.height));
const counting = () => photo?.edits.slice(0, photo.applied) ?? [];
const made = () => counting().map((edit) => `${edit.number}/${edit.chosen}`).join();
const last = () => photo?.edits[photo.applied - 1];

// Show what the edits that count have filled in, and list all edits.
async function showEdits() {
  const shown = [];
  for (const edit of counting()) {
    const key = `${edit.number}/${edit.chosen}`;
    if (!patches.has(key)) {
      const picture = await image(await blob("GET", `photos/${photo.id}/edits/${key}.png`));
      const [left, top, width, height] = edit.box;
      Object.assign(picture.style, {left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px`});
      patches.set(key, picture);
    }
    shown.push(patches.get(key));
  }
  $("patches").replaceChildren(...shown);
  view.draw();
  showFacts();

  const steps = ["The photo", ...photo.edits.map((edit) => `${shareOf(edit)} by ${edit.system}`)];
  $("history").replaceChildren(...steps.map((text, place) => {
    const button = Object.assign(document.createElement("button"), {textContent: place ? `${place}: ${text}` : text, title: text});
    if (place === photo.applied) button.setAttribute("aria-current", "step");
    if (place > photo.applied) button.className = "later";
    button.addEventListener("click", () => step(place));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));

  const edit = last();
  $("choice").hidden = !(edit?.answers > 1);
  $("choice").replaceChildren($("choice").querySelector("legend"));
  for (let number = 0; number < (edit?.answers ?? 0); number++) {
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), {type: "radio", name: "answer", value: number});
    radio.checked = number === edit.chosen;
    radio.addEventListener("change", () => choose(number));
    label.append(radio, `${number + 1}`);
    $("choice").append(label);
  }
}

// ---- saving

const stem = () => photo.name.replace(/\.[^.]*$/, "");

// Save files that the server makes, each by the ending of its name.
const saveFiles = (files) => act(async () => {
  tell("Making the file…");
  for (const [ending, file] of Object.entries(files))
    save(await blob("GET", `photos/${photo.id}/${file}`), `${stem()}${ending}`);
  if (".png" in files) saved = made();
  tell("Saved where your browser keeps downloads.");
});

addEventListener("beforeunload", (event) => photo && made() !== saved && event.preventDefault());

// ---- systems

async function openSystem() {
  const name = $("system").value;
  $("answers-label").hidden = true;
  system = null;
  if (!name) return showFacts();
  tell("Opening the system…");
  system = await json("GET", "system", {name});
  $("answers-label").hidden = !system.samples;
  showFacts();
  tell(photo ? "The system is ready." : "Choose a photo, drop it anywhere, or paste it.");
}

// What is known of the systems of the edits that count, and of the chosen one.
function showFacts() {
  const facts = new Map(counting().map((edit) => [edit.system, edit.facts]));
  if (system) facts.set(system.name, system.facts);
  $("facts").replaceChildren(...[...facts].flatMap(([name, known]) => {
    const heading = Object.assign(document.createElement("h3"), {textContent: name});
    return [heading, factsOf(known)];
  }));
}

// ---- what can be pressed

function refresh() {
  const {done = [], undone = []} = view.hole ?? {};
  const able = {
    open: !busy || !photo, run: photo && done.length && !busy && system, undo: done.length, redo: undone.length,
    invert: photo, clear: photo, preset: photo && !busy, "load-hole": photo && !busy, "save-hole": photo && done.length,
    out: photo, fit: photo, in: photo, system: !busy, split: last(), original: last(),
    back: photo?.applied && !busy, forward: photo && photo.applied < photo.edits.length && !busy,
    again: last() && !busy, "save-picture": photo && !busy, "save-holes": last() && !busy,
    "save-record": last() && !busy,
  };
  for (const [id, may] of Object.entries(able)) $(id).disabled = !may;
  for (const radio of $("choice").querySelectorAll("input")) radio.disabled = busy;
}

function sizeSaid() {
  const [least, most] = painter.sizes;
  $("size").value = 100 * Math.log(painter.size / least) / Math.log(most / least);
  $("size-said").textContent = `${Math.round(painter.size)} px`;
  $("size").setAttribute("aria-valuetext", $("size-said").textContent);
}

const buttons = {
  open: () => $("photo-file").click(), undo: () => undo("undo"), redo: () => undo("redo"),
  invert: () => change("invert"), clear: () => change("clear"), "load-hole": () => $("hole-file").click(),
  "save-hole": () => act(async () => save(await view.hole.file(), `${stem()}.hole.png`)),
  out: () => view.zoom(0.8), in: () => view.zoom(1.25), fit: () => view.fit(), run: fill, cancel,
  back: () => step(photo.applied - 1), forward: () => step(photo.applied + 1),
  again: () => act(async () => addHole(await blob("GET", `photos/${photo.id}/edits/${last().number}/hole.png`))),
  "save-picture": () => saveFiles({".png": "picture.png"}), "save-holes": () => saveFiles({".hole.png": "hole.png"}),
  "save-record": () =>
    saveFiles({".json": "record.json", ...(start.signed && {".json.sig": "record.json.sig"})}), // with the user's key
};
for (const [id, work] of Object.entries(buttons)) $(id).addEventListener("click", work);

listen({
  press: (id) => $(id).disabled || buttons[id](),
  resize: (steps) => painter.larger(steps),
  bare: compare.bare,
  choose: (number) => !busy && last()?.answers >= number && choose(number - 1),
});
chosen($("photo-file"), open);
chosen($("hole-file"), (file) => act(() => addHole(file)));
droppedOrPasted($("stage"), open);

$("tool").addEventListener("change", (event) => painter.choose(event.target.value));
$("size").addEventListener("input", () => {
  const [least, most] = painter.sizes;
  painter.resize(least * (most / least) ** ($("size").value / 100));
});
painter.sized = sizeSaid;
$("preset").addEventListener("change", () => {
  const kind = $("preset").value;
  $("preset").value = "";
  if (kind) addPreset(kind);
});
$("system").addEventListener("change", () => act(openSystem));

sizeSaid();
refresh();
await act(async () => {
  start = await json("GET", "start");
  const said = ({name, title}) => title ? `${name}: ${title}` : name.replace(/.*[/\\]/, ""); // of a path its end
  $("system").replaceChildren(...start.systems.map((one) => {
    const option = new Option(said(one), one.name);
    option.title = one.name;
    return option;
  }));
  $("preset").append(...Object.entries(start.presets).map(([kind, title]) => new Option(title, kind)));
  if (start.systems.length) await openSystem();
});
