/**
 * Where tools register themselves. A tool is a tab of the workbench, shown for the models that it
 * applies to; `generate.js` is one, `tools/` holds the others.
 */

/**
 * What a tool is given. It must stop whatever it has begun when `signal` is aborted, which happens
 * when another model or another tool is chosen.
 *
 * @typedef {object} Context
 * @property {import("./api.js").Model} model
 * @property {import("./api.js").Model[]} models all of them.
 * @property {AbortSignal} signal
 * @property {import("./visit.js").Picture[]} pictures what this visit has made so far, newest first.
 * @property {(picture: import("./visit.js").Picture) => void} keep adds to what this visit has made.
 * @property {Record<string, any>} parameters of the address (see `address.js`), for this tool.
 * @property {(parameters: Record<string, any>) => void} remember writes them to the address.
 * @property {(toolId: string, picture: import("./visit.js").Picture) => void} sendTo opens another
 *   tool with a picture.
 * @property {import("./visit.js").Picture|null} picture what another tool has sent here.
 * @property {import("./visit.js").Picture|null} restored what this tool made, and the person wants
 *   back together with its `parameters`.
 */

/**
 * @typedef {object} Tool
 * @property {string} id in the address, such as `"inpaint"`.
 * @property {string} title on the tab.
 * @property {(model: import("./api.js").Model) => boolean} appliesTo
 * @property {(element: HTMLElement, context: Context) => void} mount fills the element.
 * @property {boolean} [takesPicture] whether a picture of the gallery can be sent to it.
 * @property {number} [order] smaller ones stand further left; 50 unless given.
 */

/** @type {Map<string, Tool>} */
const tools = new Map();

/** @param {Tool} tool */
export function register(tool) {
  tools.set(tool.id, tool);
}

/** @returns {Tool[]} the tools for a model, in the order of their tabs. */
export function toolsFor(model) {
  return [...tools.values()]
    .filter((tool) => tool.appliesTo(model))
    .sort((a, b) => (a.order ?? 50) - (b.order ?? 50));
}
