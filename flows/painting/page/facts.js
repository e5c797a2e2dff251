// What is known of a system, as a list that can be read: names and values, one inside the other.

export function factsOf(value) {
  if (Array.isArray(value)) {
    const list = document.createElement("ul");
    list.append(...value.map((one) => {
      const item = document.createElement("li");
      item.append(factsOf(one));
      return item;
    }));
    return value.length && value.every((one) => typeof one !== "object") ? text(value.join(", ")) : list;
  }
  if (value === null || typeof value !== "object") return text(value ?? "not known");
  const list = document.createElement("dl");
  for (const [name, one] of Object.entries(value)) {
    const [term, said] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name.replaceAll("_", " ");
    said.append(factsOf(one));
    list.append(term, said);
  }
  return list;
}

const text = (value) => document.createTextNode(String(value));
