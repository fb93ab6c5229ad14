/** What an answer's seconds went into: a bar of its stages, and the numbers. */

import { h } from "./dom.js";
import { duration } from "./progress.js";

const STAGES = ["queue", "prepare", "step", "decode", "encode"];
const NAMES = { queue: "Queue", prepare: "Prepare", step: "Steps", decode: "Decode", encode: "Encode" };

/**
 * @param {Record<string, number>} timings seconds by stage.
 * @returns {HTMLElement}
 */
export function timingsBar(timings) {
  const total = STAGES.reduce((sum, stage) => sum + (timings[stage] ?? 0), 0);
  const part = (stage) => {
    const element = h("i", { dataset: { stage } });
    element.style.flexGrow = String((timings[stage] ?? 0) / (total || 1));
    return element;
  };
  return h(
    "div.timings",
    {},
    h("div.timings-bar", { "aria-hidden": "true" }, STAGES.map(part)),
    h(
      "dl.timings-list",
      {},
      STAGES.map((stage) =>
        h("div", { dataset: { stage } }, h("dt", {}, NAMES[stage]), h("dd", {}, duration(timings[stage] ?? 0))),
      ),
      h("div.timings-total", {}, h("dt", {}, "Total"), h("dd", {}, duration(total))),
    ),
  );
}
