/**
 * This visit's pictures in the tab's session storage: they survive a reload, and go with the tab.
 *
 * Browsers keep some megabytes for each tab; where a new picture finds no room, the oldest go.
 */

const PREFIX = "atelier.picture.1.";

/** @typedef {Omit<import("./visit.js").Picture, "blob" | "url"> & {base64: string}} Kept */

/** @param {Kept} kept */
export function remember(kept) {
  const name = `${PREFIX}${String(kept.created).padStart(16, "0")}.${kept.id}`;
  const text = JSON.stringify(kept);
  for (;;) {
    try {
      sessionStorage.setItem(name, text);
      return;
    } catch {
      const oldest = names()[0];
      if (oldest === undefined) return; // larger than all the room there is, or storage is off
      sessionStorage.removeItem(oldest);
    }
  }
}

/** @returns {Kept[]} oldest first; what cannot be read is let go. */
export function remembered() {
  const found = [];
  for (const name of names()) {
    try {
      found.push(JSON.parse(sessionStorage.getItem(name)));
    } catch {
      sessionStorage.removeItem(name);
    }
  }
  return found;
}

/** Let all go, as when somebody else sits down. */
export function forgetAll() {
  for (const name of names()) sessionStorage.removeItem(name);
}

function names() {
  return Object.keys(sessionStorage)
    .filter((name) => name.startsWith(PREFIX))
    .sort();
}
