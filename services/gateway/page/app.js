/** Starts the workbench: the model, its tools as tabs, and what this visit has made. */

import { listModels } from "./api.js";
import { address, onAddress, setAddress } from "./address.js";
import { byId, fill, h } from "./components/dom.js";
import { announce } from "./components/announce.js";
import { errorBox } from "./components/errors.js";
import { installKeyDialog } from "./key.js";
import { chooseModel, showModelOn } from "./models.js";
import { installHistory } from "./history.js";
import { installShortcuts } from "./shortcuts.js";
import { register, toolsFor } from "./registry.js";
import { drawTabs } from "./tabs.js";
import { keep, recall, visit } from "./visit.js";
import { generateTool } from "./generate.js";

const DEFAULT_MODEL = "shapes-ldm";

/** @type {{models: import("./api.js").Model[], model: import("./api.js").Model|null, tool: string}} */
const shown = { models: [], model: null, tool: "generate" };
let mounted = new AbortController();
/** What each tool was last left with, by model and tool, and by tool alone. */
const left = new Map();
/** A picture on its way from the gallery to another tool, or back to the tool that made it. */
let carried = {};

register(generateTool);
installKeyDialog();
installShortcuts({ chooseModel: openChooser });
installHistory(byId("history"), { restore });
recall();
byId("model-button").addEventListener("click", openChooser);
onAddress(follow);
// A tool that fails to load must not take the others along.
const others = import("./tools/index.js").catch((error) => console.error("some tools did not load", error));
start();

async function start() {
  try {
    shown.models = await listModels();
    await others;
  } catch (error) {
    fill(byId("tool"), errorBox(error, { retry: start }));
    return;
  }
  if (!shown.models.length) {
    fill(byId("tool"), h("p.empty", {}, "The service has no models. Add one with “atelier models add”."));
    return;
  }
  byId("model-button").disabled = false;
  follow();
}

/** Show what the address asks for. */
async function follow() {
  if (!shown.models.length) return; // `start` follows once they are there
  const asked = address();
  const model = shown.models.find(({ id }) => id === asked.model) ?? preferred();
  if (asked.model && asked.model !== model.id) announce(`There is no model ${asked.model}.`);
  show(model, asked.tool ?? "generate", asked.parameters);
}

function preferred() {
  return shown.models.find(({ id }) => id === DEFAULT_MODEL) ?? shown.models[0];
}

/**
 * @param {import("./api.js").Model} model
 * @param {string} toolId
 * @param {Record<string, any>} parameters
 */
function show(model, toolId, parameters = {}) {
  const tools = toolsFor(model);
  const tool = tools.find(({ id }) => id === toolId) ?? tools[0];
  shown.model = model;
  shown.tool = toolId;
  document.title = `${model.id} · Atelier`;
  showModelOn(byId("model-button"), model);
  redrawTabs();
  mounted.abort();
  mounted = new AbortController();
  const element = byId("tool");
  element.setAttribute("aria-label", tool?.title ?? "Tool");
  fill(element);
  if (!tool) {
    fill(element, h("p.empty", {}, `${model.id} offers nothing that this page can ask for.`));
    return;
  }
  const { picture = null, restored = null } = carried;
  carried = {};
  left.set(`${model.id}/${tool.id}`, parameters).set(tool.id, parameters);
  tool.mount(element, {
    model,
    models: shown.models,
    signal: mounted.signal,
    pictures: visit(),
    keep,
    parameters,
    remember: (changed) => remember(model.id, tool.id, changed),
    sendTo,
    picture,
    restored,
  });
}

function redrawTabs() {
  const tools = toolsFor(shown.model);
  const current = tools.find(({ id }) => id === shown.tool) ?? tools[0];
  drawTabs(byId("tabs"), tools, current?.id, (id) => open(shown.model.id, id));
}

function remember(model, tool, parameters) {
  left.set(`${model}/${tool}`, parameters).set(tool, parameters);
  setAddress({ model, tool, parameters });
}

/** Open a tool as it was left, or with what another model's was left with, so far as it applies. */
function open(model, tool, parameters = left.get(`${model}/${tool}`) ?? left.get(tool) ?? {}) {
  setAddress({ model, tool, parameters }, { newEntry: true });
  follow();
}

function sendTo(tool, picture) {
  carried = { picture };
  open(shown.model.id, tool);
}

/** Bring back the model, the tool and the parameters that made a picture. */
function restore(picture) {
  const { model, ...parameters } = picture.request;
  carried = { restored: picture };
  open(model, picture.tool, parameters);
}

async function openChooser() {
  const chosen = await chooseModel(shown.models, shown.model?.id);
  if (chosen) open(chosen, shown.tool);
}
