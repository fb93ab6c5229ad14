/** Numbers as people read them. */

/** @param {number} seconds @returns {string} such as "850 ms" or "2.4 s". */
export function duration(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(0)} ms`;
  return `${seconds.toFixed(seconds < 9.95 ? 1 : 0)} s`;
}

/** @param {number} value @returns {string} a rate or a count, with as many digits as tell something. */
export function figure(value) {
  if (value === 0) return "0";
  if (value < 0.095) return value.toFixed(2);
  if (value < 9.95) return value.toFixed(1).replace(/\.0$/, "");
  return Math.round(value).toLocaleString("en");
}

/**
 * @param {{value: number, beyond: boolean}|null} found of `quantile`.
 * @returns {string} a dash where there was nothing.
 */
export function latency(found) {
  if (!found) return "–";
  return found.beyond ? `> ${duration(found.value)}` : duration(found.value);
}
