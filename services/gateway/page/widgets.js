/** One widget for each kind of field. */

import { amountsWidget, choiceWidget, factorsWidget, labelWidget } from "./choices.js";
import { h, icon } from "./components/dom.js";

/**
 * @typedef {object} Widget
 * @property {HTMLElement} element
 * @property {HTMLElement} input what a complaint marks.
 * @property {() => any} get the value; undefined where the model is left to decide.
 * @property {(value: any) => void} set undefined resets it.
 * @property {() => string} problem why the value cannot be sent; empty where it can.
 * @property {() => void} focus
 * @property {(ids: string) => void} describe ties it to its help and its complaint.
 * @property {boolean} [isGroup] whether it is several elements under one label.
 * @property {HTMLElement} [aside] stands beside the label, at the end of the line.
 * @property {boolean} [clears] whether it has a way of its own to be reset.
 */

/** Seeds are whole numbers that JSON in a browser carries exactly. */
export const MAX_SEED = Number.MAX_SAFE_INTEGER;
const DRAWN_BELOW = 2 ** 32;

/** A seed that nobody chose. */
export function drawSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % DRAWN_BELOW;
}

const KINDS = {
  text: textWidget,
  integer: numberWidget,
  number: numberWidget,
  seed: seedWidget,
  boolean: switchWidget,
  choice: choiceWidget,
  label: labelWidget,
  factors: factorsWidget,
  pair: pairWidget,
  amounts: amountsWidget,
  json: jsonWidget,
};

/**
 * @param {import("./schema.js").Field} field
 * @param {string} id of the element that the label names.
 * @param {() => void} onchange
 * @returns {Widget}
 */
export function widgetFor(field, id, onchange) {
  const { input, ...widget } = KINDS[field.kind](field, id, onchange);
  return {
    element: input,
    input,
    problem: () => (input.validity && !input.validity.valid ? input.validationMessage : ""),
    focus: () => (widget.isGroup ? input.querySelector("input, select, textarea") ?? input : input).focus(),
    describe: (ids) => input.setAttribute("aria-describedby", ids),
    ...widget,
  };
}

function textWidget(field, id, onchange) {
  const input = h("textarea", {
    id,
    rows: field.name === "prompt" ? 3 : 1,
    maxlength: field.maxLength,
    placeholder: field.name === "prompt" ? "Describe the image …" : null,
    oninput: onchange,
    dataset: { name: field.name },
  });
  return {
    input,
    clears: true,
    get: () => input.value || undefined,
    set: (value) => {
      input.value = typeof value === "string" ? value : "";
    },
  };
}

/** A number beside its label, and a slider where its range is known: over its useful part if it is wide. */
function numberWidget(field, id, onchange) {
  const isWhole = field.kind === "integer";
  const step = isWhole ? 1 : "any";
  const number = h("input.number", {
    id,
    type: "number",
    inputmode: isWhole ? "numeric" : "decimal",
    min: field.minimum,
    max: field.maximum,
    step,
    placeholder: field.initial ?? "auto",
    oninput: () => changed(number.value),
  });
  const top = sliderTop(field);
  const slider = top === null ? null : h("input", {
    type: "range",
    min: field.minimum,
    max: top,
    step: isWhole ? 1 : niceStep(top - field.minimum),
    tabindex: -1,
    "aria-hidden": "true",
    oninput: () => {
      number.value = slider.value;
      changed(slider.value);
    },
  });
  const show = () => {
    if (!slider) return;
    slider.value = number.value === "" ? field.initial ?? field.minimum : number.value;
    const share = (slider.value - slider.min) / (slider.max - slider.min || 1);
    slider.style.setProperty("--share", `${100 * share}%`);
    slider.classList.toggle("unset", number.value === "");
  };
  const changed = () => {
    show();
    onchange();
  };
  return {
    input: number,
    element: slider ?? h("span", { hidden: true }),
    aside: number,
    get: () => (number.value === "" ? undefined : Number(number.value)),
    set: (value) => {
      number.value = Number.isFinite(value) ? String(value) : "";
      show();
    },
    problem: () => {
      if (field.above && number.value !== "" && Number(number.value) <= field.minimum) return `Must be above ${field.minimum}.`;
      return number.validity.valid ? "" : number.validationMessage;
    },
  };
}

function sliderTop({ minimum, maximum, initial }) {
  if (minimum === undefined || maximum === undefined || maximum - minimum > 100000) return null;
  if (maximum <= 20) return maximum;
  const useful = Math.max(5 * (initial ?? maximum / 10), minimum + 10);
  return Math.min(maximum, useful);
}

function niceStep(span) {
  return 10 ** Math.floor(Math.log10(span / 50));
}

function seedWidget(field, id, onchange) {
  const input = h("input.number", {
    id,
    type: "number",
    inputmode: "numeric",
    min: 0,
    max: MAX_SEED,
    step: 1,
    placeholder: field.name === "seed" ? "a new one each time" : "none",
    oninput: onchange,
  });
  const dice = h(
    "button.quiet.icon-only",
    {
      type: "button",
      "aria-label": "Draw a seed and keep it",
      title: "Draw a seed and keep it (R)",
      dataset: field.name === "seed" ? { key: "dice" } : {},
      onclick: () => {
        input.value = String(drawSeed());
        onchange();
      },
    },
    icon("dice"),
  );
  const forget = h(
    "button.quiet.icon-only",
    {
      type: "button",
      "aria-label": `Forget the ${field.title.toLowerCase()}`,
      title: "Forget it",
      onclick: () => {
        input.value = "";
        onchange();
      },
    },
    icon("close"),
  );
  return {
    input,
    element: h("div.joined", {}, input, dice, forget),
    clears: true,
    get: () => (input.value === "" ? undefined : Number(input.value)),
    set: (value) => {
      input.value = Number.isSafeInteger(value) ? String(value) : "";
    },
  };
}

function switchWidget(field, id, onchange) {
  const input = h("input.switch", { id, type: "checkbox", role: "switch", onchange });
  return {
    input,
    get: () => (input.checked === Boolean(field.initial) ? undefined : input.checked),
    set: (value) => {
      input.checked = Boolean(value ?? field.initial);
    },
  };
}

function pairWidget(field, id, onchange) {
  const number = (what) =>
    h("input.number", { type: "number", step: "any", min: field.minimum, max: field.maximum, "aria-label": `${field.title}, ${what}`, placeholder: what, oninput: onchange });
  const [from, to] = [number("from"), number("to")];
  const input = h("div.pair", { id, role: "group", "aria-labelledby": `${id}-label` }, from, to);
  return {
    input,
    isGroup: true,
    get: () => (from.value === "" && to.value === "" ? undefined : [Number(from.value), Number(to.value)]),
    set: (value) => {
      [from.value, to.value] = Array.isArray(value) ? value.map(String) : ["", ""];
    },
    problem: () => {
      if ((from.value === "") !== (to.value === "")) return "Give both numbers, or none.";
      return from.validationMessage || to.validationMessage;
    },
  };
}

/** What has no widget of its own is written as JSON. */
function jsonWidget(field, id, onchange) {
  const input = h("textarea.code", { id, rows: 2, spellcheck: "false", placeholder: "JSON", oninput: onchange });
  const read = () => JSON.parse(input.value);
  return {
    input,
    get: () => {
      try {
        return input.value.trim() ? read() : undefined;
      } catch {
        return undefined;
      }
    },
    set: (value) => {
      input.value = value === undefined || value === null ? "" : JSON.stringify(value);
    },
    problem: () => {
      try {
        if (input.value.trim()) read();
        return "";
      } catch (error) {
        return `This is not JSON: ${error.message}`;
      }
    },
  };
}
