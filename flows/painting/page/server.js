// Requests to the server that this page came from. The key lies in the address's fragment, and travels as a header.

const KEY = location.hash.slice(1);

// The server's answer; throws an Error whose message is for people.
async function ask(method, path, query = {}, body = null) {
  const words = new URLSearchParams(query).toString();
  let answer;
  try {
    answer = await fetch(`/api/${path}${words && "?" + words}`, {method, body, headers: {"X-Palimpsest-Key": KEY}});
  } catch {
    throw new Error("The server does not answer. Is `palimpsest restore --serve` still running?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ?? `The server answers with ${answer.status}.`);
}

export const json = async (...words) => (await ask(...words)).json();
export const blob = async (...words) => (await ask(...words)).blob();

// The bytes as an <img> that can be shown. Its address is given back once it is decoded, so that nothing piles up.
export async function image(data) {
  const picture = new Image();
  picture.alt = "";
  picture.draggable = false;
  picture.src = URL.createObjectURL(data);
  try {
    await picture.decode();
  } finally {
    setTimeout(() => URL.revokeObjectURL(picture.src), 1000);
  }
  return picture;
}

// Let the browser save a file. Only the last part of `name` counts, without signs that a file name may not have.
export function save(data, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(data);
  link.download = name.replace(/[\x00-\x1f\x7f<>:"|?*/\\]/g, "_").replace(/^\.+/, "") || "photo";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
