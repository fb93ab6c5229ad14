/** What happens, told to screen readers through the page's one live region. */

let last = 0;
let pending = 0;

/**
 * Say something politely. Progress is told at most every two seconds, and always its latest state.
 *
 * @param {string} text
 * @param {{urgent?: boolean}} [options] urgent things are told at once.
 */
export function announce(text, { urgent = false } = {}) {
  const region = document.getElementById("live");
  if (!region) return;
  clearTimeout(pending);
  const wait = urgent ? 0 : Math.max(0, 2000 - (Date.now() - last));
  pending = setTimeout(() => {
    last = Date.now();
    region.textContent = text;
  }, wait);
}
