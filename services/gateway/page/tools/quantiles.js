/** Distributions known by their quantiles, as `GET /v1/models/{id}/reference` gives them. */

/**
 * @typedef {object} Bin
 * @property {number} from
 * @property {number} to
 * @property {number} share of the whole, in [0, 1]
 */

/**
 * A histogram of equal bins. Between two quantiles the mass is spread evenly, as it is in the
 * service where a percentile is read off.
 * @param {number[]} quantiles ascending, evenly spaced from the 0th to the 100th percentile
 * @param {number} count bins
 * @returns {Bin[]}
 */
export function histogram(quantiles, count) {
  const [low, high] = [quantiles[0], quantiles[quantiles.length - 1]];
  const width = (high - low) / count || 1;
  return Array.from({ length: count }, (_, index) => {
    const [from, to] = [low + index * width, low + (index + 1) * width];
    return { from, to, share: below(quantiles, to) - below(quantiles, from) };
  });
}

/**
 * @param {number[]} quantiles @param {number} value
 * @returns {number} the share of the distribution below a value, in [0, 1]
 */
export function below(quantiles, value) {
  const last = quantiles.length - 1;
  if (value < quantiles[0]) return 0;
  if (value >= quantiles[last]) return 1;
  const above = quantiles.findIndex((quantile) => quantile > value);
  const [from, to] = [quantiles[above - 1], quantiles[above]];
  return (above - 1 + (value - from) / (to - from)) / last;
}

/**
 * @param {Record<string, unknown>} settings of the reference
 * @param {Record<string, unknown>} asked every parameter of a request, defaults included
 * @returns {string[]} the settings in which a request differs; none where a percentile is given
 */
export function differing(settings, asked) {
  return Object.keys(settings).filter((name) => asked[name] !== settings[name]);
}
