/** The button that sets a tool to work, with what comes of it: progress, cancelling, errors. */

import { isAbort, newRequestId, withdraw } from "../api.js";
import { fill, h } from "../components/dom.js";
import { errorBox } from "../components/errors.js";
import { buildProgress } from "../components/progress.js";
import { MODIFIER } from "../shortcuts.js";

/**
 * @typedef {object} Run
 * @property {AbortSignal} signal
 * @property {string} requestId
 * @property {(event: import("../stream.js").ServerEvent) => void} tell of an event of a stream.
 */

export class Action {
  /**
   * @param {string} label of the button.
   * @param {import("../registry.js").Context} context
   * @param {(run: Run) => Promise<string>} work gives what was done in a few words; none where
   *   nothing was, since something is missing.
   * @param {import("../form.js").Form} form is checked first, and shows errors at its fields.
   */
  constructor(label, context, work, form) {
    this.work = work;
    this.form = form;
    /** @type {{controller: AbortController, requestId: string}|null} */
    this.current = null;
    this.button = h("button.primary.run", { type: "submit", dataset: { key: "run" } }, h("span", {}, label), keys(`${MODIFIER} ↵`));
    this.cancelButton = h(
      "button.run.cancel",
      { type: "button", hidden: true, dataset: { key: "cancel" }, onclick: () => this.cancel() },
      h("span", {}, "Cancel"),
      keys("Esc"),
    );
    this.progress = buildProgress();
    this.trouble = h("div.action-trouble");
    /** Stands below the fields. */
    this.foot = h("div.form-foot", {}, this.button, this.cancelButton);
    /** Stands above what comes of it. */
    this.head = h("div.action-head", {}, this.progress.element, this.trouble);
    context.signal.addEventListener("abort", () => this.cancel());
  }

  /** Begin, unless a field is wrong; what still runs is cancelled first. */
  async start() {
    this.cancel();
    fill(this.trouble);
    if (!this.form.check()) return;
    const run = { controller: new AbortController(), requestId: newRequestId() };
    this.current = run;
    this.#busy(true);
    try {
      const said = await this.work({
        signal: run.controller.signal,
        requestId: run.requestId,
        tell: (event) => this.current === run && this.progress.tell(event),
      });
      if (this.current === run) this.#end(said);
    } catch (error) {
      if (this.current === run) this.#fail(error);
    }
  }

  /** End what runs, here and in the service. */
  cancel() {
    if (!this.current) return;
    const { controller, requestId } = this.current;
    this.#end("Cancelled");
    controller.abort();
    withdraw(requestId).catch(() => {}); // it may have ended by itself meanwhile
  }

  #fail(error) {
    if (isAbort(error)) {
      this.#end("Cancelled");
      return;
    }
    this.#end("");
    if (!this.form.complain(error)) fill(this.trouble, errorBox(error));
  }

  #end(text) {
    this.current = null;
    this.#busy(false);
    if (text) this.progress.end(text);
    else this.progress.hide();
  }

  #busy(busy) {
    const hadFocus = [this.button, this.cancelButton].includes(document.activeElement);
    this.button.hidden = busy;
    this.cancelButton.hidden = !busy;
    if (hadFocus) (busy ? this.cancelButton : this.button).focus();
    if (busy) this.progress.start("Sending");
  }
}

function keys(text) {
  return h("kbd", { "aria-hidden": "true" }, text);
}
