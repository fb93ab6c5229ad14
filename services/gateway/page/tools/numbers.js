/** Numbers as the tools show them. */

/** @param {number|null} value in nats @returns {string} with as many digits as are read. */
export function nats(value) {
  if (value === null || value === undefined) return "not finite";
  const digits = Math.abs(value) < 10 ? 3 : Math.abs(value) < 1000 ? 1 : 0;
  return minus(value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits }));
}

/** @param {string} text @returns {string} with a minus sign that is as wide as a plus. */
export function minus(text) {
  return text.replace("-", "−");
}
