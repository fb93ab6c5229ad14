/** Widgets for choosing among values; see `widgets.js` for what a widget is. */

import { h } from "./components/dom.js";

const MOST_CHIPS = 16;

/** One of a few values. */
export function choiceWidget(field, id, onchange) {
  const free = field.initial === null ? "the model’s own" : `${field.initial} (default)`;
  const input = h(
    "select",
    { id, onchange },
    field.required ? null : h("option", { value: "" }, free),
    field.choices.filter((choice) => field.required || choice !== field.initial).map((choice) => h("option", { value: choice }, choice)),
  );
  return {
    input,
    clears: true,
    get: () => input.value || undefined,
    set: (value) => {
      input.value = field.choices.includes(value) ? value : field.required ? field.choices[0] : "";
      if (input.selectedIndex < 0) input.value = "";
    },
  };
}

/** A few labels as chips, many as a field that completes. */
export function labelWidget(field, id, onchange) {
  if (field.choices.length > MOST_CHIPS) return completingLabels(field, id, onchange);
  const chip = (value, text) =>
    h("label.chip", {}, h("input", { type: "radio", name: id, value, onchange }), h("span", {}, text));
  const input = h(
    "div.chips",
    { id, role: "radiogroup", "aria-labelledby": `${id}-label` },
    chip("", "any"),
    field.choices.map((label) => chip(label, label)),
  );
  const radios = [...input.querySelectorAll("input")];
  return {
    input,
    isGroup: true,
    clears: true,
    get: () => radios.find(({ checked }) => checked)?.value || undefined,
    set: (value) => {
      const text = value === undefined || value === null ? "" : typeof value === "number" ? field.choices[value] : value;
      (radios.find((radio) => radio.value === text) ?? radios[0]).checked = true;
    },
    focus: () => (radios.find(({ checked }) => checked) ?? radios[0]).focus(),
  };
}

function completingLabels(field, id, onchange) {
  const list = h("datalist", { id: `${id}-list` }, field.choices.map((label) => h("option", { value: label })));
  const input = h("input", { id, list: list.id, placeholder: `any of ${field.choices.length}`, autocomplete: "off", oninput: onchange });
  return {
    input,
    element: h("div", {}, input, list),
    get: () => input.value || undefined,
    set: (value) => {
      input.value = typeof value === "number" ? field.choices[value] ?? "" : value ?? "";
    },
    problem: () => (input.value && !field.choices.includes(input.value) ? `“${input.value}” is no label of this model.` : ""),
  };
}

/** A slider is no good past this; larger amounts can be typed. */
const USUAL_AMOUNT = 3;

/** A number for each of some names; those at zero are left out. */
export function amountsWidget(field, id, onchange) {
  const rows = field.choices.map((name) => {
    const [number, slider] = amount(name, field, onchange);
    return { name, number, slider, element: h("label.amount", {}, h("span", {}, name.replaceAll("_", " ")), slider, number) };
  });
  const input = h("div.amounts", { id, role: "group", "aria-labelledby": `${id}-label` }, rows.map(({ element }) => element));
  return {
    input,
    isGroup: true,
    clears: true,
    get: () => {
      const given = rows.filter(({ number }) => Number(number.value)).map(({ name, number }) => [name, Number(number.value)]);
      return given.length ? Object.fromEntries(given) : undefined;
    },
    set: (value) => {
      for (const { name, number, slider } of rows) {
        number.value = Number.isFinite(value?.[name]) ? String(value[name]) : "";
        slider.value = number.value || 0;
      }
    },
    problem: () => rows.map(({ number }) => number.validationMessage).find(Boolean) ?? "",
  };
}

function amount(name, { minimum, maximum }, onchange) {
  const number = h("input.number", { type: "number", step: "any", min: minimum, max: maximum, placeholder: 0, "aria-label": name, oninput: () => changed(slider, number.value || 0) });
  const slider = h("input", {
    type: "range",
    min: Math.max(minimum, -USUAL_AMOUNT),
    max: Math.min(maximum, USUAL_AMOUNT),
    step: 0.1,
    value: 0,
    tabindex: -1,
    "aria-hidden": "true",
    oninput: () => changed(number, slider.value),
  });
  const changed = (other, value) => {
    other.value = value;
    onchange();
  };
  return [number, slider];
}

/** Each factor of a caption as a choice of its own. */
export function factorsWidget(field, id, onchange) {
  const selects = Object.entries(field.factors).map(([name, values]) => [
    name,
    h(
      "select",
      { "aria-label": name, onchange },
      h("option", { value: "" }, `any ${name.replaceAll("_", " ")}`),
      values.map((value) => h("option", { value }, value)),
    ),
  ]);
  const input = h("div.factors", { id, role: "group", "aria-labelledby": `${id}-label` }, selects.map(([, select]) => select));
  return {
    input,
    isGroup: true,
    get: () => {
      const chosen = selects.filter(([, select]) => select.value).map(([name, select]) => [name, select.value]);
      return chosen.length ? Object.fromEntries(chosen) : undefined;
    },
    set: (value) => {
      for (const [name, select] of selects) {
        select.value = value?.[name] ?? "";
        if (select.selectedIndex < 0) select.value = "";
      }
    },
  };
}
