// A list box of cells in rows, of which those alone are drawn that are in view: there may be thousands. `size` is a
// cell's, in CSS pixels; `make(number)` makes the content of one.
"use strict";
function grid(list, size, make) {
  const room = list.firstElementChild; // as tall as all cells together
  const drawn = new Map(); // cells by their number
  let across = 1; // cells in a row
  const top = (number) => Math.floor(number / across) * size.height;

  // Draw what is in view of `count` cells, the cell `chosen` as such (-1: none of them).
  function show(count, chosen) {
    const columns = Math.max(1, Math.floor(list.clientWidth / size.width));
    if (columns !== across) empty();
    across = columns;
    room.style.width = `${Math.min(across, count) * size.width}px`;
    room.style.height = `${Math.ceil(count / across) * size.height}px`;
    const first = Math.max(0, Math.floor(list.scrollTop / size.height) - 1) * across; // a row to spare, as below
    const end = Math.min(count, Math.ceil((list.scrollTop + list.clientHeight) / size.height + 1) * across);
    for (const [number, cell] of drawn) {
      if (number >= first && number < end) continue;
      cell.remove();
      drawn.delete(number);
    }
    for (let number = first; number < end; number++) {
      if (!drawn.has(number)) drawn.set(number, room.appendChild(draw(number, count)));
      drawn.get(number).setAttribute("aria-selected", number === chosen);
    }
    if (drawn.has(chosen)) list.setAttribute("aria-activedescendant", drawn.get(chosen).id);
    else list.removeAttribute("aria-activedescendant");
  }

  function draw(number, count) {
    const cell = Object.assign(document.createElement("div"), { id: `cell-${number}` });
    const said = { role: "option", "data-number": number, "aria-posinset": number + 1, "aria-setsize": count };
    for (const [name, value] of Object.entries(said)) cell.setAttribute(name, value);
    const place = { left: (number % across) * size.width, top: top(number), ...size };
    for (const [name, value] of Object.entries(place)) cell.style[name] = `${value}px`;
    cell.append(...make(number));
    return cell;
  }

  // Other cells come.
  function empty() {
    room.replaceChildren();
    drawn.clear();
  }

  // Scroll as little as shows this cell.
  function reveal(number) {
    const least = top(number) + size.height - list.clientHeight;
    list.scrollTop = Math.min(Math.max(list.scrollTop, least), top(number));
  }

  // Where a key leads from the cell `number` of `count`; undefined for another key.
  function step(key, number, count) {
    const page = across * Math.max(1, Math.floor(list.clientHeight / size.height));
    const ways = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, PageUp: -page, PageDown: page,
      Home: -number, End: count - 1 - number };
    return key in ways ? Math.min(Math.max(number + ways[key], 0), count - 1) : undefined;
  }

  return { show, empty, reveal, step };
}
