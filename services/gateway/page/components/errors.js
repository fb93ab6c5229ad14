/** How an error is shown where no field is at fault. */

import { h, icon } from "./dom.js";

/** What a person can do about it, by the code of our envelope. */
const ADVICE = {
  unreachable: "Start the service, then try again.",
  queue_full: "The service has as much work as it may take on.",
  quota_exceeded: "The key has used what it may for now.",
  invalid_api_key: "Give another key with the button at the top.",
  unavailable: "A replica is being started or restarted.",
};

/**
 * @param {import("../api.js").ApiError|Error} error
 * @param {{retry?: () => void}} [options] what a button to try again does.
 * @returns {HTMLElement}
 */
export function errorBox(error, { retry } = {}) {
  const advice = [ADVICE[error.code], error.retryAfter && `Try again in ${error.retryAfter} s.`];
  const about = [error.status && `status ${error.status}`, error.code, error.requestId && `request ${error.requestId}`];
  return h(
    "div.error-box",
    { role: "alert" },
    icon("alert"),
    h(
      "div",
      {},
      h("p.error-message", {}, sentence(error.message)),
      h("p.error-advice", {}, advice.filter(Boolean).join(" ")),
      h("p.error-about", {}, about.filter(Boolean).join(" · ")),
      retry ? h("button", { type: "button", onclick: retry }, "Try again") : null,
    ),
  );
}

/** A message of the service as a sentence: a capital first, a stop last. */
export function sentence(text) {
  const start = /^[a-z]+[ ,]/.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?]$/.test(start) ? start : `${start}.`;
}
