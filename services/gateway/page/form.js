/** A form for the fields of an operation: what it holds, and where it shows a complaint. */

import { fill, h, uniqueId } from "./components/dom.js";
import { sentence } from "./components/errors.js";
import { widgetFor } from "./widgets.js";

/**
 * @typedef {object} Form
 * @property {HTMLElement} element
 * @property {() => Record<string, any>} values what differs from leaving a field alone.
 * @property {(values: Record<string, any>) => void} set all fields; those that are absent are reset.
 * @property {(error: {param?: string|null, message: string}) => boolean} complain shows an error at
 *   the field that it names; false where there is no such field.
 * @property {() => boolean} check whether every field holds what it may; complains where not.
 * @property {() => void} clear the complaints.
 */

/**
 * @param {import("./schema.js").Field[]} fields
 * @param {{values?: Record<string, any>, onchange?: () => void}} [options]
 * @returns {Form}
 */
export function buildForm(fields, { values = {}, onchange = () => {} } = {}) {
  const rows = fields.map((field) => buildRow(field, onchange));
  const row = (name) => rows.find(({ field }) => field.name === name);
  const folded = rows.filter(({ field }) => field.advanced);
  const more = h("summary", {}, "Advanced");
  const advanced = h("details.advanced", {}, more, h("div.fields", {}, folded.map(({ element }) => element)));
  const element = h(
    "div.fields",
    {},
    rows.filter(({ field }) => !field.advanced).map(({ element: shown }) => shown),
    folded.length ? advanced : null,
  );
  const current = () =>
    Object.fromEntries(rows.map(({ field, widget }) => [field.name, widget.get()]).filter(([, value]) => value !== undefined));
  const set = (given) => {
    for (const { field, widget, changed } of rows) {
      widget.set(given[field.name]);
      changed();
    }
    if (folded.some(({ widget }) => widget.get() !== undefined)) advanced.open = true;
  };
  const complain = ({ param, message }) => {
    const found = param && row(param.split(/[.[]/)[0]);
    if (!found) return false;
    if (found.field.advanced) advanced.open = true;
    found.complain(sentence(message));
    found.widget.focus();
    return true;
  };
  const clear = () => rows.forEach((each) => each.clear());
  const check = () => {
    clear();
    const wrong = rows.find(({ widget }) => widget.problem());
    if (wrong) complain({ param: wrong.field.name, message: wrong.widget.problem() });
    return !wrong;
  };
  set(values);
  return { element, values: current, set, complain, check, clear };
}

function buildRow(field, onchange) {
  const id = uniqueId(`field-${field.name}`);
  const edited = () => {
    clear();
    changed();
    onchange();
  };
  const widget = widgetFor(field, id, edited);
  const reset = h(
    "button.quiet.reset",
    {
      type: "button",
      hidden: true,
      "aria-label": `Reset ${field.title.toLowerCase()}`,
      onclick: () => {
        widget.set(undefined);
        edited();
        widget.focus();
      },
    },
    "reset",
  );
  const changed = () => {
    reset.hidden = Boolean(widget.clears) || widget.get() === undefined;
  };
  const clear = () => {
    error.hidden = true;
    widget.input.removeAttribute("aria-invalid");
  };
  const error = h("p.field-error", { id: `${id}-error`, hidden: true });
  const help = field.description ? h("p.help", { id: `${id}-help`, hidden: true }, field.description) : null;
  const element = h(
    "div.field",
    { dataset: { field: field.name, kind: field.kind } },
    h(
      "div.field-head",
      {},
      widget.isGroup
        ? h("span.label", { id: `${id}-label` }, field.title)
        : h("label.label", { id: `${id}-label`, for: id }, field.title),
      help ? helpButton(field, help) : null,
      reset,
      widget.aside ?? null,
    ),
    help,
    widget.element,
    error,
  );
  widget.describe([help && `${id}-help`, `${id}-error`].filter(Boolean).join(" "));
  return {
    field,
    widget,
    element,
    complain(message) {
      fill(error, message);
      error.hidden = false;
      widget.input.setAttribute("aria-invalid", "true");
    },
    clear,
    changed,
  };
}

function helpButton(field, help) {
  const button = h(
    "button.help-button",
    {
      type: "button",
      "aria-expanded": "false",
      "aria-controls": help.id,
      "aria-label": `About ${field.title.toLowerCase()}`,
      onclick: () => {
        help.hidden = !help.hidden;
        button.setAttribute("aria-expanded", String(!help.hidden));
      },
    },
    "?",
  );
  return button;
}
