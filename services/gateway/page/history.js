/** The strip of what this visit has made; each picture brings its parameters back. */

import { h, icon } from "./components/dom.js";
import { describe } from "./gallery.js";
import { onKeep } from "./visit.js";

/**
 * @param {HTMLElement} strip
 * @param {{restore: (picture: import("./visit.js").Picture) => void}} actions
 */
export function installHistory(strip, { restore }) {
  const list = h("ol.history-list", {});
  strip.append(h("h2", {}, icon("restore"), "This visit"), list);
  onKeep((picture) => {
    strip.hidden = false;
    list.prepend(h("li", {}, entry(picture, restore)));
  });
}

function entry(picture, restore) {
  const words = `${picture.model}: ${describe(picture)}`;
  return h(
    "button.history-entry",
    { type: "button", title: `${words}. Click to bring its parameters back.`, "aria-label": `Restore ${words}`, onclick: () => restore(picture) },
    h("img", { src: picture.url, alt: "", class: "sharp" }),
  );
}
