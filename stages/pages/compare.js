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
  const list = get(".list"), room = get(".room"), panes = get(".panes"), figures = [...panes.children];
  const VIEWS = { slider: ["slider"], side: ["left", "right", "difference"], difference: ["difference"], right: ["right"] };
  const CELL = { width: 108, height: 148, picture: 92 }; // of the list, CSS pixels
  const LARGEST = 560, SMALLEST = 150; // sides of a pane, CSS pixels
  const CLOSEST = 32; // times the whole picture
  let found = data.holes; // what the filters leave, in the chosen order
  let chosen = data.holes[0];
  let across = 1; // cells in a row of the list
  const cells = new Map(); // those of the list that are drawn, by their place in `found`

  fields.right.value = fields.system.value;
  const usual = new URLSearchParams(new FormData(form));
  const name = (hole) => hole.file.match(/([0-9a-f]+)\.png$/)[1];
  const picture = (hole) => data.pictures[hole.picture];
  const column = (hole, label) => data.layouts[hole.layout].indexOf(data.shown.indexOf(label));
  const score = (hole, label, metric) => hole.scores[metrics.indexOf(metric)]?.[column(hole, label) - data.before] ?? null;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  const element = (tag, text = "", more = {}) => Object.assign(document.createElement(tag), { textContent: text, ...more });

  // Let an element show a tile; whether there is one.
  function paint(tile, hole, label) {
    const place = column(hole, label), count = data.layouts[hole.layout].length;
    tile.style.backgroundImage = place < 0 ? "none" : `url("${hole.file}")`;
    tile.style.backgroundSize = `${100 * count}% 100%`;
    tile.style.backgroundPosition = `${(100 * place) / (count - 1)}% 0`;
    return place >= 0;
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
    get(".found").textContent = `${found.length} of ${data.holes.length} holes`;
    for (const cell of cells.values()) cell.remove();
    cells.clear();
    list.scrollTop = 0;
  }

  function cell(place) {
    const hole = found[place], { path, dataset } = picture(hole), { height, width } = data.datasets[dataset];
    const value = score(hole, fields.system.value, fields.score.value) ?? "–";
    const made = element("div", "", { role: "option", id: `hole-${place}`, title: path });
    made.setAttribute("aria-setsize", found.length);
    made.setAttribute("aria-posinset", place + 1);
    const tile = element("div", "", { className: "tile" }), side = CELL.picture / Math.max(height, width);
    Object.assign(tile.style, { width: `${width * side}px`, height: `${height * side}px` });
    paint(tile, hole, fields.system.value);
    made.append(tile, element("span", path), element("span", hole.kind), element("span", value));
    Object.assign(made.style, { left: `${(place % across) * CELL.width}px`, top: `${Math.floor(place / across) * CELL.height}px` });
    return made;
  }

  // Draw those cells alone that are in view, with a row to spare: there may be thousands.
  function showList() {
    const columns = Math.max(1, Math.floor(list.clientWidth / CELL.width));
    if (columns !== across) room.replaceChildren(cells.clear());
    across = columns;
    room.style.height = `${Math.ceil(found.length / across) * CELL.height}px`;
    const first = Math.max(0, Math.floor(list.scrollTop / CELL.height) - 1) * across;
    const end = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / CELL.height + 1) * across);
    for (const [place, drawn] of cells) if (place < first || place >= end) drawn.remove(cells.delete(place));
    for (let place = first; place < end; place++) {
      if (!cells.has(place)) cells.set(place, room.appendChild(cell(place)));
      cells.get(place).ariaSelected = found[place] === chosen;
    }
    const active = cells.get(found.indexOf(chosen));
    if (active) list.setAttribute("aria-activedescendant", active.id);
    else list.removeAttribute("aria-activedescendant");
  }

  function choose(place) {
    if (!found.length) return;
    place = clamp(place, 0, found.length - 1);
    chosen = found[place];
    const top = Math.floor(place / across) * CELL.height;
    list.scrollTop = clamp(list.scrollTop, top + CELL.height - list.clientHeight, top);
    changed();
  }

  // ---- how they are shown

  function told(label) {
    if (column(chosen, label) < 0) return `${label}: has not completed this hole`;
    const scores = metrics.map((metric) => [data.metrics[metric].heading, score(chosen, label, metric)]);
    return [label, ...scores.filter(([, value]) => value !== null).map(([heading, value]) => `${heading} ${value}`)].join(" · ");
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
    const texts = { left: [told(left)], right: [told(right)], slider: [told(left), told(right)],
      difference: [`the difference of ${left} and ${right}, times ${times}`] };
    figures.forEach((figure, number) => {
      figure.hidden = number >= shows.length;
      if (figure.hidden) return;
      const frame = figure.firstElementChild, show = shows[number];
      frame.dataset.shows = show;
      frame.ariaLabel = texts[show].join("; ");
      paint(frame.querySelector(".left .tile"), chosen, left);
      paint(frame.querySelector(".right .tile"), chosen, right);
      figure.lastElementChild.replaceChildren(...texts[show].map((text) => element("span", text)));
    });
    for (const label of form.querySelectorAll(".range")) label.hidden = !label.dataset.for.split(" ").includes(view);
    get("output").textContent = times;
    const { path, dataset } = picture(chosen);
    get(".said").textContent = `${path} of ${dataset}, hole ${chosen.kind}: ${left} and ${right}`;
  }

  function showSource() {
    const { id, path } = picture(chosen), rows = [["picture", path, "sha256", id, `palimpsest audit image ${id}`]];
    for (const label of new Set([fields.right.value, fields.left.value])) {
      const system = label.replace(/ (raw|blended)$/, ""), source = data.systems[system];
      if (!source || data.shown.indexOf(label) < data.before || rows.some(([first]) => first === system)) continue;
      if (!source.checkpoint) rows.push([system, `completes by ${source["completes by"]}, without a checkpoint`]);
      else {
        const among = source["of these"] && (source["of these"].includes(id) ? "this picture is one of them" : "this picture is none of them");
        const said = `${source.checkpoint}: ${source.read} pictures were read in its training${among ? `; ${among}` : ""}`;
        rows.push([system, said, "sha256", source.sha256, source.audit]);
      }
    }
    const parts = rows.map(([first, said, what, digest, command]) => {
      const made = element("dl");
      made.append(element("dt", first), element("dd", said));
      if (!command) return made;
      const code = element("code", command), button = element("button", "Copy", { type: "button", ariaLabel: `Copy ${command}` });
      button.dataset.copy = command;
      const line = element("dd"), number = element("dd", `${what} `);
      number.append(element("code", digest));
      line.append(code, " ", button);
      made.append(number, line);
      return made;
    });
    get(".source").replaceChildren(...parts);
  }

  let asked = 0, later = 0;
  function show() {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      showList();
      showPanes();
    });
  }

  // Something was chosen: show it, and keep it in the address.
  function changed() {
    fields.picture.value = name(chosen);
    showSource();
    show();
    clearTimeout(later); // browsers refuse an address that changes too often
    later = setTimeout(() => history.replaceState(null, "", address()), 200);
  }

  function address() {
    const now = new URLSearchParams(new FormData(form));
    for (const [key, value] of usual) if (now.get(key) === value) now.delete(key);
    return `#compare?${now}`;
  }

  // What the address says, if it is of a view. Of names that are no more, the usual ones are taken.
  function follow() {
    const said = location.hash.startsWith("#compare?") ? new URLSearchParams(location.hash.slice(9)) : null;
    for (const [key, value] of usual) {
      fields[key].value = said?.get(key) ?? value;
      if (fields[key].value === "") fields[key].value = value;
    }
    search();
    chosen = data.holes.find((hole) => name(hole) === fields.picture.value) ?? found[0] ?? data.holes[0];
    move(+fields.x.value || 0, +fields.y.value || 0, +fields.zoom.value || 1);
    showSource();
    if (said) form.closest("section").scrollIntoView();
    if (found.includes(chosen)) list.scrollTop = Math.floor(found.indexOf(chosen) / across) * CELL.height;
  }

  // ---- zoom, slider and keys

  // `x` and `y` are where the picture's corner lies, as parts of the pane.
  function move(x, y, zoom = +fields.zoom.value) {
    zoom = clamp(zoom, 1, CLOSEST);
    Object.entries({ zoom, x: clamp(x, 1 - zoom, 0), y: clamp(y, 1 - zoom, 0) }).forEach(([key, value]) => {
      fields[key].value = +value.toFixed(4);
    });
    show();
  }

  function magnify(by, [across, down] = [0.5, 0.5]) {
    const old = +fields.zoom.value, zoom = by ? clamp(old * by, 1, CLOSEST) : 1;
    move(across - ((across - fields.x.value) * zoom) / old, down - ((down - fields.y.value) * zoom) / old, zoom);
    changed();
  }

  const held = new Map(); // fingers or the mouse, where they were last, as parts of the pane
  let sliding = false;

  function within(event) {
    const box = event.target.closest(".frame").getBoundingClientRect();
    return [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
  }

  function slide([place]) {
    fields.at.value = Math.round(100 * place);
  }

  panes.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".frame") || event.button) return;
    event.target.setPointerCapture(event.pointerId);
    const place = within(event);
    held.set(event.pointerId, place);
    const near = Math.abs(place[0] - fields.at.value / 100) < 0.05;
    sliding = held.size === 1 && fields.view.value === "slider" && (fields.zoom.value === "1" || near);
    if (sliding) slide(place), changed();
  });

  panes.addEventListener("pointermove", (event) => {
    if (!held.has(event.pointerId)) return;
    const [now, before] = [within(event), held.get(event.pointerId)];
    const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
    held.set(event.pointerId, now);
    if (other) {
      const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]) || 1;
      magnify(apart(now) / apart(before), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
    } else if (sliding) slide(now);
    else move(+fields.x.value + now[0] - before[0], +fields.y.value + now[1] - before[1]);
    changed();
  });

  for (const end of ["pointerup", "pointercancel"]) panes.addEventListener(end, (event) => held.delete(event.pointerId));

  panes.addEventListener("dblclick", (event) => {
    if (event.target.closest(".frame")) magnify(fields.zoom.value === "1" ? 4 : 0, within(event));
  });

  panes.addEventListener("wheel", (event) => {
    if (!event.target.closest(".frame") || !(event.ctrlKey || document.activeElement === panes)) return;
    if (event.deltaY > 0 && fields.zoom.value === "1") return; // the page scrolls on
    event.preventDefault();
    magnify(2 ** (-event.deltaY / 240), within(event));
  }, { passive: false });

  // A number key: the truth, the hole, then the systems; a system's key chooses its raw and blended pictures in turn.
  function pick(digit, side) {
    const place = (digit + 9) % 10, system = Object.keys(data.systems)[place - data.before];
    const labels = place < data.before ? [data.shown[place]] : [`${system} raw`, `${system} blended`];
    const there = labels.filter((label) => data.shown.includes(label));
    if (there.length) fields[side].value = there[(there.indexOf(fields[side].value) + 1) % there.length];
  }

  const place = () => found.indexOf(chosen);
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  const inList = {
    ArrowLeft: () => choose(place() - 1),
    ArrowRight: () => choose(place() + 1),
    ArrowUp: () => place() >= across && choose(place() - across),
    ArrowDown: () => place() + across < found.length && choose(place() + across),
    Home: () => choose(0),
    End: () => choose(found.length - 1),
    PageUp: () => choose(place() - across * Math.floor(list.clientHeight / CELL.height)),
    PageDown: () => choose(place() + across * Math.floor(list.clientHeight / CELL.height)),
  };

  const anywhere = {
    n: () => choose(place() + 1),
    p: () => choose(place() - 1),
    x: () => ([fields.left.value, fields.right.value] = [fields.right.value, fields.left.value]),
    f: () => magnify(0),
    "+": () => magnify(2),
    "-": () => magnify(0.5),
  };

  form.addEventListener("keydown", (event) => {
    const typing = event.target.matches("select, [type=number]");
    if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
    const digit = event.code.match(/^(?:Digit|Numpad)(\d)$/)?.[1], arrow = ARROWS[event.key];
    if (digit) pick(+digit, event.shiftKey ? "left" : "right");
    else if (event.target === list && inList[event.key]) inList[event.key]();
    else if (event.target === panes && arrow) {
      if (fields.view.value === "slider" && fields.zoom.value === "1") fields.at.value = +fields.at.value + 2 * arrow[0];
      else move(fields.x.value - arrow[0] / 10, fields.y.value - arrow[1] / 10);
    } else if (anywhere[event.key]) anywhere[event.key]();
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
    if (option) choose(+option.id.slice(5));
    if (button?.dataset.zoom) magnify(+button.dataset.zoom);
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
