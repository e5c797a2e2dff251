// What is known of a system, as a list that can be read: names and values, one inside the other.

const FOLDED = new Set(["arguments", "datasets", "members"]); // few want to read them

export function factsOf(value) {
  if (Array.isArray(value)) {
    if (!value.length) return text("none");
    const list = document.createElement("ul");
    list.append(...value.map((one) => {
      const item = document.createElement("li");
      item.append(factsOf(one));
      return item;
    }));
    return value.every((one) => typeof one !== "object") ? text(value.join(", ")) : list;
  }
  if (value === null || typeof value !== "object") return text(value ?? "none");
  const list = document.createElement("dl");
  for (const [name, one] of Object.entries(value)) {
    const [term, said] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name.replaceAll("_", " ");
    if (FOLDED.has(name) && one) said.append(folded(factsOf(one)));
    else said.append(factsOf(one));
    list.append(term, said);
  }
  return list;
}

const text = (value) => document.createTextNode(String(value));

function folded(content) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = "show";
  details.append(summary, content);
  return details;
}
