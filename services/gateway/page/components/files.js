/** Giving things to the person: files and the clipboard. */

import { announce } from "./announce.js";

/** Save a blob under a name. */
export function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The browser has begun to read it by then.
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/**
 * Copy a text and say so on the button that asked for it.
 *
 * @param {string} text
 * @param {HTMLElement} button
 */
export async function copyText(text, button) {
  const copied = await write(text);
  announce(copied ? "Copied." : "The browser does not let this page copy.", { urgent: true });
  button.classList.add(copied ? "copied" : "failed");
  setTimeout(() => button.classList.remove("copied", "failed"), 1500);
}

async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return writeByHand(text); // there is no clipboard on pages that came over plain HTTP
  }
}

function writeByHand(text) {
  const area = document.createElement("textarea");
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}
