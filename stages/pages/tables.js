// Tables of scores are sorted by a click on a heading: first the largest on top, then the smallest.
"use strict";
(() => {
  const value = (row, column) => {
    const text = row.cells[column].firstChild.textContent.trim();
    return column ? parseFloat(text) : text; // a dash, where there is no score, is NaN
  };
  const compare = (a, b) => {
    if (typeof a === "string") return b.localeCompare(a);
    return Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : b - a;
  };
  for (const table of document.querySelectorAll("table.sorted")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "sort by this";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") !== "descending";
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((one, other) => {
          const [a, b] = [value(one, column), value(other, column)];
          const missing = Number.isNaN(a) || Number.isNaN(b); // stays at the end
          return down || missing ? compare(a, b) : compare(b, a);
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
