/** From an operation's JSON schema to the fields of a form. */

/**
 * @typedef {object} Field
 * @property {string} name as the API calls it.
 * @property {string} title for people.
 * @property {string} description
 * @property {"text"|"integer"|"number"|"seed"|"boolean"|"choice"|"label"|"factors"|"pair"|"amounts"|"json"} kind
 * @property {any} initial what the model takes where nothing is said; null where it decides itself.
 * @property {number} [minimum]
 * @property {number} [maximum]
 * @property {boolean} [above] whether the minimum itself is too small.
 * @property {number} [maxLength]
 * @property {string[]} [choices]
 * @property {Record<string, string[]>} [factors] the values of each factor, where they are known.
 * @property {boolean} required
 * @property {boolean} advanced
 */

/** Fields that a form never shows: they are chosen elsewhere, or are no matter for typing. */
const ELSEWHERE = new Set(["latents", "latent_space", "model", "operation"]);

/** What is shown first, in this order; all else is folded away. */
const PRIMARY = [
  "prompt", "end_prompt", "source_prompt", "negative_prompt", "label", "attributes", "attribute", "layer",
  "strength", "steps",
  "guidance_scale", "sampler", "truncation", "temperature", "samples", "method",
  "left", "top", "right", "bottom", "canvas", "seed", "n",
];

const OF_TEXT = new Set(["prompt", "end_prompt", "source_prompt", "negative_prompt", "prompts", "factors"]);

/**
 * The fields of an operation that mean something to a model.
 *
 * @param {object} schema of one of the model's `operations`.
 * @param {import("./api.js").Model} model
 * @param {{without?: string[]}} [options] fields that are asked for elsewhere.
 * @returns {Field[]}
 */
export function fieldsOf(schema, model, { without = [] } = {}) {
  const fields = Object.entries(schema.properties ?? {})
    .filter(([name]) => !ELSEWHERE.has(name) && !without.includes(name) && isMeant(name, model))
    .map(([name, property]) => fieldOf(name, property, schema, model));
  return fields.sort((a, b) => place(a) - place(b));
}

function place({ name }) {
  const at = PRIMARY.indexOf(name);
  return at < 0 ? PRIMARY.length : at;
}

/** Families share one schema; what a model cannot use is not offered. */
function isMeant(name, model) {
  if (OF_TEXT.has(name)) return model.conditioning.includes("text") && (name !== "factors" || Boolean(model.limits.factors));
  if (name === "attributes" || name === "attribute") return Boolean(model.limits.attributes?.length);
  if (name === "label" || name === "classifier_scale") return model.labels.length > 0;
  if (name === "adapters") return has(model, "lora");
  if (name === "control") return has(model, "controlnet");
  return true;
}

function has(model, kind) {
  return (model.adapters ?? []).some((adapter) => adapter.kind === kind);
}

function fieldOf(name, property, schema, model) {
  const options = (property.anyOf ?? [property]).map((option) => resolved(option, schema));
  const main = options.find(({ type }) => type !== "null") ?? {};
  const initial = property.default ?? model.limits.defaults?.[name] ?? null;
  const field = {
    name,
    title: titleOf(name),
    description: property.description ?? main.description ?? "",
    initial,
    minimum: main.minimum ?? main.exclusiveMinimum,
    maximum: main.maximum ?? main.exclusiveMaximum,
    above: main.exclusiveMinimum !== undefined,
    maxLength: main.maxLength,
    required: (schema.required ?? []).includes(name),
    advanced: !PRIMARY.includes(name),
    nullable: options.some(({ type }) => type === "null"),
  };
  return { ...field, ...kindOf(name, main, options, model) };
}

function kindOf(name, main, options, model) {
  if (name === "seed" || name.endsWith("_seed")) return { kind: "seed" };
  if (name === "label" && model.labels.length) return { kind: "label", choices: model.labels };
  if (name === "factors") return { kind: "factors", factors: model.limits.factors };
  if (main.enum) return { kind: "choice", choices: offered(name, main.enum, model) };
  if (main.const !== undefined) return { kind: "choice", choices: [main.const] };
  if (main.type === "boolean") return { kind: "boolean" };
  if (options.some(({ type }) => type === "integer")) return { kind: "integer" };
  if (main.type === "number") return { kind: "number" };
  if (main.type === "string") return { kind: "text" };
  const isPair = main.type === "array" && main.minItems === 2 && main.maxItems === 2;
  if (isPair && ["number", "integer"].includes(main.items?.type)) {
    return { kind: "pair", minimum: main.items.minimum, maximum: main.items.maximum };
  }
  if (main.propertyNames?.enum && main.additionalProperties?.type === "number") {
    const { minimum, maximum } = main.additionalProperties;
    return { kind: "amounts", choices: main.propertyNames.enum, minimum, maximum };
  }
  return { kind: "json" };
}

/** Of a family's choices those that the model's limits name. */
function offered(name, choices, model) {
  const allowed = model.limits[`${name}s`];
  return Array.isArray(allowed) ? choices.filter((choice) => allowed.includes(choice)) : choices;
}

function resolved(option, schema) {
  const name = option.$ref?.replace("#/$defs/", "");
  return name ? { ...schema.$defs?.[name], ...option } : option;
}

const TITLES = { n: "Images", seed: "Seed", json: "JSON", dpmpp: "DPM++" };

/** `guidance_scale` as `Guidance scale`. */
export function titleOf(name) {
  const words = TITLES[name] ?? name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}
