/**
 * The address of what is shown: `#MODEL/TOOL?name=value&...`. A link to the page with it brings back
 * the model, the tool and the parameters.
 *
 * A text stands as it is unless it reads as JSON; everything else is JSON. So `seed=7` is a number
 * and `label="7"` a text.
 */

const LONGEST_VALUE = 4000;

/**
 * @typedef {{model: string|null, tool: string|null, parameters: Record<string, any>}} Address
 */

/** @returns {Address} */
export function address(hash = location.hash) {
  const [path, query = ""] = split(hash.replace(/^#/, ""), "?");
  const [model, tool] = path.split("/").map(decoded);
  const parameters = Object.fromEntries(
    [...new URLSearchParams(query)].map(([name, value]) => [name, read(value)]),
  );
  return { model: model || null, tool: tool || null, parameters };
}

/**
 * Write the address. What is too long for one, such as an image, is left out.
 *
 * @param {Address} to
 * @param {{newEntry?: boolean}} [options] whether the browser's Back leads to what is shown now.
 */
export function setAddress({ model, tool, parameters }, { newEntry = false } = {}) {
  const hash = written({ model, tool, parameters });
  if (hash === location.hash) return;
  if (newEntry) history.pushState(null, "", hash);
  else history.replaceState(null, "", hash);
}

/** The hash of an address. */
export function written({ model, tool, parameters }) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters ?? {})) {
    if (value === undefined || value === null) continue;
    const text = write(value);
    if (text.length <= LONGEST_VALUE) query.set(name, text);
  }
  const path = [model, tool].map((part) => encodeURIComponent(part ?? "")).join("/");
  return `#${path}${query.size ? `?${query}` : ""}`;
}

/** Be told when the person goes back, forward, or edits the address. */
export function onAddress(listener) {
  addEventListener("popstate", listener);
}

function split(text, mark) {
  const at = text.indexOf(mark);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function write(value) {
  if (typeof value !== "string") return JSON.stringify(value);
  return read(value) === value ? value : JSON.stringify(value);
}
