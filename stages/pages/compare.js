// Pictures compared one by one. The form's fields are the whole state, so an address that holds them leads back to it.
// Every file is a row of tiles, and a tile is shown by moving the file behind a window: nothing reads pixels, which a
// browser forbids of pages that were opened as files. The difference is CSS's blend mode of that name.
"use strict";
(() => {
  const form = document.querySelector("#compare");
  if (!form) return;
  const data = JSON.parse(document.querySelector("#compared").textContent);
  const get = (selector) => form.querySelector(selector);
  const fields = form.elements;
  const metrics = Object.keys(data.metrics);
  const list = get(".list"), panes = get(".panes"), figures = [...panes.children];
  const VIEWS = { slider: ["slider"], side: ["left", "right", "difference"], difference: ["difference"], right: ["right"] };
  const THUMB = 92; // the longer side of a picture in the list, CSS pixels
  const NAMED = ["system", "score", "left", "right"]; // always in the address: what is usual changes with the systems
  const LARGEST = 560, SMALLEST = 150; // sides of a pane, CSS pixels
  let found = data.holes; // what the filters leave, in the chosen order
  let chosen = data.holes[0];
  const cells = grid(list, { width: 108, height: 148 }, cell);
  const lens = zoomable(panes, fields, changed);

  fields.right.value = fields.system.value;
  const usual = new URLSearchParams(new FormData(form));
  const place = () => found.indexOf(chosen);
  const name = (hole) => hole.file.match(/([0-9a-f]+)\.png$/)[1];
  const picture = (hole) => data.pictures[hole.picture];
  const column = (hole, label) => data.layouts[hole.layout].indexOf(data.shown.indexOf(label));
  const score = (hole, label, metric) => hole.scores[metrics.indexOf(metric)]?.[column(hole, label) - data.before] ?? null;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const written = (value, metric) => (value === null ? "–" : value.toFixed(data.metrics[metric].digits));

  const element = (tag, text = "", more = {}) => Object.assign(document.createElement(tag), { textContent: text, ...more });

  // Let an element show a tile, or nothing where there is none.
  function paint(tile, hole, label) {
    const number = column(hole, label), count = data.layouts[hole.layout].length;
    tile.style.backgroundImage = number < 0 ? "none" : `url("${hole.file}")`;
    tile.style.backgroundSize = `${100 * count}% 100%`;
    tile.style.backgroundPosition = `${(100 * number) / (count - 1)}% 0`;
  }

  // ---- which pictures

  // Larger is better, whatever the metric.
  function goodness(value) {
    const best = data.metrics[fields.score.value].best;
    return best === "high" ? value : best === "low" ? -value : -Math.abs(Math.log(Math.max(value, 1e-9)));
  }

  function search() {
    const { dataset, kind, system, order, from, to, score: metric } = Object.fromEntries(new FormData(form));
    const scored = data.holes.map((hole) => ({ hole, value: score(hole, system, metric) })).filter(({ hole, value }) =>
      column(hole, system) >= 0 && (!dataset || picture(hole).dataset === dataset) && (!kind || hole.kind === kind) &&
      (!from || (value !== null && value >= +from)) && (!to || (value !== null && value <= +to)));
    if (order) {
      const sign = order === "best" ? -1 : 1;
      scored.sort((a, b) => (a.value === null) - (b.value === null) || sign * (goodness(a.value) - goodness(b.value)));
    }
    found = scored.map(({ hole }) => hole);
    if (!found.includes(chosen) && found.length) chosen = found[0];
    get(".found").textContent = `${found.length} of ${data.holes.length} completed holes`;
    cells.empty();
    list.scrollTop = 0;
  }

  // What the list shows of a hole: a picture, its name, the kind of hole and the score.
  function cell(number) {
    const hole = found[number], { path, dataset } = picture(hole), { height, width } = data.datasets[dataset];
    const metric = fields.score.value, value = written(score(hole, fields.system.value, metric), metric);
    const tile = element("div", "", { className: "tile" }), scale = THUMB / Math.max(height, width);
    Object.assign(tile.style, { width: `${width * scale}px`, height: `${height * scale}px` });
    paint(tile, hole, fields.system.value);
    return [tile, element("span", path, { title: path }), element("span", hole.kind), element("span", value)];
  }

  function choose(number) {
    if (!found.length) return;
    chosen = found[clamp(number, 0, found.length - 1)];
    cells.reveal(place());
    changed();
  }

  // ---- how they are shown

  const lacks = (label) => column(chosen, label) < 0;

  function told(label) {
    if (lacks(label)) return `${label}: has not completed this hole`;
    const there = metrics.filter((metric) => score(chosen, label, metric) !== null);
    const said = there.map((metric) => `${data.metrics[metric].heading} ${written(score(chosen, label, metric), metric)}`);
    return [label, ...said].join(" · ");
  }

  function showPanes() {
    const { left, right, view, at, times, zoom, x, y } = Object.fromEntries(new FormData(form));
    const shows = VIEWS[view], { height, width } = data.datasets[picture(chosen).dataset];
    const columns = Math.min(shows.length, Math.max(1, Math.floor(panes.clientWidth / SMALLEST)));
    const side = Math.min(panes.clientWidth / columns - 12, LARGEST, innerHeight * 0.75);
    const scale = side / Math.max(height, width), whole = scale > 1 ? Math.floor(scale) : scale; // sharp pixels
    const set = { w: `${width * whole}px`, h: `${height * whole}px`, at: `${at}%`, times, zoom, x: `${x * 100}%`, y: `${y * 100}%` };
    for (const [key, value] of Object.entries(set)) panes.style.setProperty(`--${key}`, value);
    panes.classList.toggle("zoomed", zoom > 1);
    const lacking = [left, right].filter(lacks);
    const difference = lacking.length ? lacking.map(told) : [`the difference of ${left} and ${right}, times ${times}`];
    const texts = { left: [told(left)], right: [told(right)], slider: [told(left), told(right)], difference };
    figures.forEach((figure, number) => {
      figure.hidden = number >= shows.length;
      if (figure.hidden) return;
      const frame = figure.firstElementChild, show = shows[number];
      frame.dataset.shows = show;
      frame.classList.toggle("lacking", lacking.length > 0);
      frame.setAttribute("aria-label", texts[show].join("; "));
      paint(frame.querySelector(".left .tile"), chosen, left);
      paint(frame.querySelector(".right .tile"), chosen, right);
      figure.lastElementChild.replaceChildren(...texts[show].map((text) => element("span", text)));
    });
    for (const label of form.querySelectorAll(".range")) label.hidden = !label.dataset.for.split(" ").includes(view);
    get("output").textContent = times;
  }

  // What the picture is called, and what made what is shown of it.
  function showSource() {
    const { left, right } = Object.fromEntries(new FormData(form));
    const { id, path, dataset } = picture(chosen), said = `${path} of ${dataset}, hole ${chosen.kind}: ${left} and ${right}`;
    if (get(".said").textContent === said) return; // a screen reader says it again else
    get(".said").textContent = said;
    const parts = [source(path, "", id, `palimpsest audit image ${id}`)];
    const systems = [right, left].map((label) => data.made[label]).filter((system) => system !== undefined);
    for (const system of new Set(systems)) {
      const { by, checkpoint, sha256, read, these, audit } = data.systems[system];
      if (!checkpoint) parts.push(source(system, `completes by ${by}, without a checkpoint`));
      else {
        const among = these ? `, and this picture is ${these.includes(id) ? "" : "not "}one of them` : "";
        parts.push(source(system, `${checkpoint}: ${read} pictures were read in its training${among}`, sha256, audit));
      }
    }
    get(".source").replaceChildren(...parts);
  }

  function source(title, said, sha256, command) {
    const made = element("dl");
    made.append(element("dt", title));
    if (said) made.append(element("dd", said));
    if (!command) return made;
    const digest = element("dd", "sha256 "), line = element("dd"), button = element("button", "Copy", { type: "button" });
    digest.append(element("code", sha256));
    button.dataset.copy = command;
    button.setAttribute("aria-label", `Copy ${command}`);
    line.append(element("code", command), " ", button);
    made.append(digest, line);
    return made;
  }

  let asked = 0, later = 0;
  function show() {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      cells.show(found.length, place());
      showPanes();
      showSource();
    });
  }

  // Something was chosen: show it, and keep it in the address.
  function changed() {
    fields.picture.value = name(chosen);
    show();
    clearTimeout(later); // browsers refuse an address that changes too often
    later = setTimeout(() => history.replaceState(null, "", address()), 200);
  }

  function address() {
    const now = new URLSearchParams(new FormData(form));
    for (const [key, value] of usual) if (now.get(key) === value && !NAMED.includes(key)) now.delete(key);
    return `#compare?${now}`;
  }

  // What the address says, if it is of a view. Of names that are no more, the usual ones are taken.
  function follow() {
    const said = location.hash.startsWith("#compare?") ? new URLSearchParams(location.hash.slice(9)) : null;
    for (const [key, value] of usual) {
      fields[key].value = value;
      if (said?.has(key)) fields[key].value = said.get(key);
      if (fields[key].value === "") fields[key].value = value;
    }
    search();
    chosen = data.holes.find((hole) => name(hole) === fields.picture.value) ?? found[0] ?? data.holes[0];
    if (said) form.closest("section").scrollIntoView();
    cells.show(found.length, place());
    cells.reveal(Math.max(0, place()));
    if (said) lens.reset(); // what the address says may be out of range
    else show();
  }

  // ---- keys

  // A number key: the truth, the hole, then the systems; a system's key chooses its raw and its blended pictures in turn.
  function pick(digit, side) {
    const number = (digit + 9) % 10, system = Object.keys(data.systems)[number - data.before];
    const there = data.shown.filter((label, at) => (number < data.before ? at === number : data.made[label] === system));
    if (there.length) fields[side].value = there[(there.indexOf(fields[side].value) + 1) % there.length];
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  const anywhere = {
    n: () => choose(place() + 1),
    p: () => choose(place() - 1),
    x: () => ([fields.left.value, fields.right.value] = [fields.right.value, fields.left.value]),
    f: () => lens.magnify(0),
    "+": () => lens.magnify(2),
    "-": () => lens.magnify(0.5),
  };

  form.addEventListener("keydown", (event) => {
    const typing = event.target.matches("select, [type=number]");
    if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
    const digit = event.code.match(/^(?:Digit|Numpad)(\d)$/)?.[1], arrow = ARROWS[event.key];
    const next = event.target === list ? cells.step(event.key, place(), found.length) : undefined;
    if (digit) pick(+digit, event.shiftKey ? "left" : "right");
    else if (next !== undefined) choose(next);
    else if (event.target === panes && arrow) lens.arrow(...arrow);
    else if (anywhere[event.key]) anywhere[event.key]();
    else return;
    event.preventDefault();
    changed();
  });

  // ---- everything else

  form.addEventListener("input", (event) => {
    if (event.target.name === "system") fields.right.value = fields.system.value;
    if (["dataset", "kind", "system", "score", "from", "to", "order"].includes(event.target.name)) search();
    changed();
  });

  form.addEventListener("click", async (event) => {
    const button = event.target.closest("button"), option = event.target.closest("[role=option]");
    if (option) choose(+option.dataset.number);
    if (button?.dataset.zoom) lens.magnify(+button.dataset.zoom);
    if (!button?.dataset.copy) return;
    const text = button.dataset.copy === "address" ? location.href.split("#")[0] + address() : button.dataset.copy;
    const copied = navigator.clipboard?.writeText(text) ?? Promise.reject();
    await copied.then(() => (get(".copied").textContent = "Copied."), () => prompt("To copy:", text));
  });

  form.addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("scroll", show, { passive: true });
  addEventListener("hashchange", () => location.hash.startsWith("#compare?") && follow());
  form.hidden = false;
  new ResizeObserver(show).observe(form);
  follow();
})();
