/** What changed between two looks at `/metrics`: rates, and quantiles of histograms. */

/**
 * @typedef {import("./exposition.js").Sample} Sample
 * @typedef {object} Look one scrape.
 * @property {number} at milliseconds.
 * @property {Sample[]} samples
 */

/**
 * Cumulative buckets of a histogram, ascending; the last one's bound is infinite.
 *
 * @typedef {{le: number, count: number}[]} Buckets
 */

/**
 * How much a counter grew, summed by one of its labels. One that fell was begun anew with its
 * process, and counts from zero.
 *
 * @param {Look} before
 * @param {Look} after
 * @param {string} name
 * @param {string} label by whose values it is summed.
 * @param {(labels: Record<string, string>) => boolean} [counts] which series are.
 * @returns {Map<string, number>}
 */
export function growth(before, after, name, label, counts = () => true) {
  const known = index(before.samples, name);
  const sums = new Map();
  for (const sample of after.samples) {
    if (sample.name !== name || !counts(sample.labels)) continue;
    const was = known.get(identity(sample)) ?? 0;
    const grown = sample.value >= was ? sample.value - was : sample.value;
    const group = sample.labels[label] ?? "";
    sums.set(group, (sums.get(group) ?? 0) + grown);
  }
  return sums;
}

/**
 * What was observed between two looks, as a histogram for each value of a label.
 *
 * @param {Look} before
 * @param {Look} after
 * @param {string} name without `_bucket`.
 * @param {string} label
 * @returns {Map<string, Buckets>}
 */
export function observed(before, after, name, label) {
  const bucket = `${name}_bucket`;
  const known = index(before.samples, bucket);
  const groups = new Map();
  for (const sample of after.samples) {
    if (sample.name !== bucket) continue;
    const was = known.get(identity(sample)) ?? 0;
    const grown = sample.value >= was ? sample.value - was : sample.value;
    const bounds = groups.get(sample.labels[label]) ?? new Map();
    const le = sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le);
    bounds.set(le, (bounds.get(le) ?? 0) + grown);
    groups.set(sample.labels[label], bounds);
  }
  const sorted = ([group, bounds]) => [
    group,
    [...bounds].map(([le, count]) => ({ le, count })).sort((a, b) => a.le - b.le),
  ];
  return new Map([...groups].map(sorted));
}

/**
 * A quantile of a histogram, spread evenly within its bucket, as Prometheus's `histogram_quantile`.
 *
 * @param {Buckets} buckets
 * @param {number} share in (0, 1).
 * @returns {{value: number, beyond: boolean}|null} `beyond`: it is at least that, past the last
 *   finite bound; null where nothing was observed.
 */
export function quantile(buckets, share) {
  const total = buckets.at(-1)?.count ?? 0;
  if (!total) return null;
  const rank = share * total;
  const place = buckets.findIndex(({ count }) => count >= rank);
  const { le, count } = buckets[place];
  const [from, before] = place > 0 ? [buckets[place - 1].le, buckets[place - 1].count] : [0, 0];
  if (le === Infinity) return { value: from, beyond: true };
  return { value: from + ((le - from) * (rank - before)) / (count - before), beyond: false };
}

/**
 * A gauge now, summed by a label.
 *
 * @param {Look} look
 * @param {string} name
 * @param {string} label
 * @returns {Map<string, number>}
 */
export function levels(look, name, label) {
  const sums = new Map();
  for (const sample of look.samples) {
    if (sample.name !== name) continue;
    const group = sample.labels[label] ?? "";
    sums.set(group, (sums.get(group) ?? 0) + sample.value);
  }
  return sums;
}

/** @param {Map<string, number>} sums */
export function total(sums) {
  return [...sums.values()].reduce((sum, value) => sum + value, 0);
}

function index(samples, name) {
  const found = samples.filter((sample) => sample.name === name);
  return new Map(found.map((sample) => [identity(sample), sample.value]));
}

function identity({ labels }) {
  return JSON.stringify(Object.entries(labels).sort());
}
