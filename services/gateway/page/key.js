/** Asking for an API key: when the service wants one, or when the person chooses to give one. */

import { apiKey, onUnauthorized, setApiKey } from "./api.js";
import { h, uniqueId } from "./components/dom.js";
import { openDialog } from "./components/dialog.js";
import { forgetAll } from "./remembered.js";

/** Put the dialog behind its button, and before every call that is answered 401. */
export function installKeyDialog() {
  onUnauthorized(() => ask(apiKey() ? "The service does not take this key." : "This service asks for a key."));
  document.addEventListener("click", async (event) => {
    if (!event.target.closest?.("[data-action=key]")) return;
    if (await ask("The key is sent with every request, in a header only.")) location.reload();
  });
}

/**
 * @param {string} why
 * @returns {Promise<boolean>} whether a key was given.
 */
async function ask(why) {
  const id = uniqueId("key");
  const given = await openDialog("API key", (close) => {
    const input = h("input", {
      id,
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      autofocus: true,
      value: apiKey(),
      "aria-describedby": `${id}-why`,
    });
    const submit = (event) => {
      event.preventDefault();
      close({ key: input.value.trim() });
    };
    return h(
      "form.stack",
      { onsubmit: submit },
      h("p.hint", { id: `${id}-why` }, why, " It is kept until you close this tab."),
      h("label", { for: id }, "Key"),
      input,
      h(
        "div.row.end",
        {},
        apiKey() ? h("button", { type: "button", onclick: () => close({ key: "" }) }, "Forget it") : null,
        h("button.primary", { type: "submit" }, "Use this key"),
      ),
    );
  });
  if (!given) return false;
  if (apiKey() && given.key !== apiKey()) forgetAll();
  setApiKey(given.key);
  return true;
}
