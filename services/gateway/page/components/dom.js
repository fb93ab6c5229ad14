/**
 * Building elements. Text always becomes a text node: nothing that came from a model, a prompt or
 * the network is ever parsed as HTML.
 */

/**
 * Make an element.
 *
 * @param {string} tag such as `"button"`, or `"button.primary.wide"` with classes.
 * @param {Record<string, any>} [attributes] `onclick` and its like are listeners, `dataset` an
 *   object of data attributes; `true` sets an attribute without a value, `false`, `null` and
 *   `undefined` leave it out. All others are attributes, but for `value`, `checked` and `disabled`,
 *   which are set as properties.
 * @param {...any} children nodes, text, or nested arrays of these; empty values are left out.
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  setAttributes(element, attributes);
  append(element, children);
  return element;
}

/**
 * Make an SVG element; attributes as in `h`.
 *
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...any} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(element, attributes);
  append(element, children);
  return element;
}

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open", "indeterminate"]);

function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "class") element.setAttribute("class", `${element.getAttribute("class") ?? ""} ${value}`.trim());
    else if (PROPERTIES.has(name) && name in element) element[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Put children in place of those that an element has.
 *
 * @template {Element} E
 * @param {E} element
 * @param {...any} children
 * @returns {E}
 */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/**
 * The element of an id that the document is known to have.
 *
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the document has no element #${id}`);
  return found;
}

let counter = 0;

/**
 * An id that no other element has, to tie labels and descriptions to their fields.
 *
 * @param {string} stem
 * @returns {string}
 */
export function uniqueId(stem) {
  counter += 1;
  return `${stem}-${counter}`;
}

/**
 * An icon of the sprite in `icons.svg`, hidden from screen readers: the button around it has the name.
 *
 * @param {string} name
 * @returns {SVGElement}
 */
export function icon(name) {
  const source = new URL("../icons.svg", import.meta.url).pathname;
  const href = `${source}#${name}`;
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href }));
}
