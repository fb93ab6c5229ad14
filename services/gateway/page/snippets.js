/** The same request elsewhere: as a shell command and as Python. Each runs as it is pasted. */

import { apiKey } from "./api.js";

/**
 * @typedef {object} Snippet
 * @property {string} id
 * @property {string} title
 * @property {string} text empty where that client cannot ask for this.
 * @property {string} note what is needed first, or why there is no text.
 */

/**
 * @param {Record<string, any>} body of `POST /v1/generate`, without `response`.
 * @param {import("./api.js").Model} model
 * @param {string} [origin] of the service.
 * @returns {Snippet[]}
 */
export function snippets(body, model, origin = location.origin) {
  return [curl(body, origin), openai(body, model, origin), atelierClient(body, origin)];
}

function curl(body, origin) {
  const several = (body.n ?? 1) > 1;
  const format = body.output_format ?? "png";
  const lines = [
    `curl -sS ${quoted(`${origin}/v1/generate`)}`,
    "-H 'content-type: application/json'",
    `-H 'accept: ${several ? "application/json" : `image/${format}`}'`,
    apiKey() ? '-H "authorization: Bearer $ATELIER_API_KEY"' : null,
    `-d ${quoted(JSON.stringify(body))}`,
    `-o ${several ? "images.json" : `image.${ending(format)}`}`,
  ];
  const note = several ? "Several images come as JSON, each in base64 under data[].b64_json." : "Writes the image to a file.";
  return { id: "curl", title: "curl", text: lines.filter(Boolean).join(" \\\n  "), note };
}

/** A text in single quotes, as a POSIX shell reads it. */
export function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

const OPENAI_OWN = ["model", "prompt", "n", "output_format"];
const OPENAI_EXTRA = ["seed", "steps", "guidance_scale", "negative_prompt", "sampler"];

function openai(body, model, origin) {
  const { label, ...rest } = body;
  const beyond = Object.keys(rest).filter((name) => ![...OPENAI_OWN, ...OPENAI_EXTRA].includes(name));
  if (model.labels.length && !model.conditioning.includes("text") && label === undefined) beyond.push("any label");
  if (beyond.length) {
    const note = `OpenAI’s interface has no words for ${beyond.join(", ")}; the other two say it.`;
    return { id: "openai", title: "Python (openai)", text: "", note };
  }
  const format = body.output_format ?? "png";
  const own = { model: body.model, prompt: String(label ?? body.prompt ?? ""), n: body.n, output_format: body.output_format };
  const extra = Object.fromEntries(OPENAI_EXTRA.filter((name) => name in rest).map((name) => [name, rest[name]]));
  const text = [
    "import base64",
    apiKey() ? "import os" : null,
    "from pathlib import Path",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${python(`${origin}/v1`)}, api_key=${apiKey() ? 'os.environ["ATELIER_API_KEY"]' : '"none needed"'})`,
    "answer = client.images.generate(",
    ...named(own),
    Object.keys(extra).length ? `    extra_body=${python(extra)},` : null,
    ")",
    "for index, image in enumerate(answer.data):",
    `    Path(f"image-{index}.${ending(format)}").write_bytes(base64.b64decode(image.b64_json))`,
  ];
  return { id: "openai", title: "Python (openai)", text: lines(text), note: "Needs: pip install openai" };
}

const CLIENT_OPTIONS = [
  "prompt", "label", "factors", "seed", "steps", "n", "negative_prompt", "sampler", "guidance_scale",
  "truncation", "temperature", "output_format",
];

function atelierClient(body, origin) {
  const { model, ...parameters } = body;
  const entries = Object.entries(parameters);
  const own = Object.fromEntries(entries.filter(([name]) => CLIENT_OPTIONS.includes(name)));
  const extra = Object.fromEntries(entries.filter(([name]) => !CLIENT_OPTIONS.includes(name)));
  const key = apiKey() ? ', api_key=os.environ["ATELIER_API_KEY"]' : "";
  const text = [
    apiKey() ? "import os\n" : null,
    "from atelier_client import Client",
    "",
    `with Client(${python(origin)}${key}) as client:`,
    "    answer = client.generate(",
    ...[`    ${python(model)},`, ...named(own)].map((line) => `    ${line}`),
    Object.keys(extra).length ? `        extra=${python(extra)},` : null,
    "    )",
    "    for index, image in enumerate(answer.images):",
    `        image.save(f"image-{index}.${ending(body.output_format ?? "png")}")`,
  ];
  return { id: "client", title: "Python (atelier_client)", text: lines(text), note: "Needs: pip install ./services/client" };
}

function named(values) {
  return Object.entries(values)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `    ${name}=${python(value)},`);
}

/** A JSON value as Python writes it. */
export function python(value) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, child]) => `${python(name)}: ${python(child)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

function ending(format) {
  return format === "jpeg" ? "jpg" : format;
}

function lines(text) {
  return text.filter((line) => line !== null).join("\n");
}
