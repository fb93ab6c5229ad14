/** The form of an operation, without what a tool asks for in its own way. */

import { buildForm } from "../form.js";
import { fieldsOf } from "../schema.js";

/**
 * @typedef {import("../form.js").Form & {asked: () => Record<string, any>}} OperationForm `asked`
 *   gives every parameter, with the operation's defaults for those that were left alone.
 */

/**
 * @param {import("../registry.js").Context} context
 * @param {string} operation
 * @param {{without?: string[], first?: string[], onchange?: () => void}} [options] `without` fields
 *   that are asked for elsewhere; `first` those that this tool is about.
 * @returns {OperationForm}
 */
export function operationForm({ model, parameters }, operation, { without = [], first = [], onchange } = {}) {
  const schema = model.operations[operation];
  const fields = fieldsOf(schema, model, { without });
  const matters = ({ name }) => first.includes(name);
  const ordered = [
    ...fields.filter(matters).map((field) => ({ ...field, advanced: false })),
    ...fields.filter((field) => !matters(field)),
  ];
  const form = buildForm(ordered, { values: parameters, onchange });
  const defaults = Object.entries(schema.properties ?? {}).map(([name, property]) => [name, property.default ?? null]);
  return { ...form, asked: () => ({ ...Object.fromEntries(defaults), ...form.values() }) };
}
