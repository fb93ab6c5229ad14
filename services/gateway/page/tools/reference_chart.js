/** Where an image's likelihood falls among those of held-out images. */

import { h, svg } from "../components/dom.js";
import { nats } from "./numbers.js";
import { differing, histogram } from "./quantiles.js";

const BINS = 32;
/** A value further out than this share of the reference's own width is shown at the edge. */
const FAR = 0.6;

/**
 * @param {{log_likelihoods: number[], settings: Record<string, any>, anomalous_below: number, dims: number}} reference
 * @param {{log_likelihood: number|null, asked: Record<string, any>}} found
 * @returns {HTMLElement}
 */
export function referenceChart(reference, found) {
  const { log_likelihoods: quantiles, settings, anomalous_below: limit } = reference;
  const differs = differing(settings, found.asked);
  if (differs.length) return h("p.hint", {}, incomparable(settings, differs));
  const [first, last] = [quantiles[0], quantiles.at(-1)];
  const value = found.log_likelihood ?? -Infinity;
  const margin = (last - first) * FAR;
  const [low, high] = [Math.max(Math.min(first, value), first - margin), Math.min(Math.max(last, value), last + margin)];
  const at = (x) => (100 * (x - low)) / (high - low || 1);
  const marker = h("div.chart-marker", {}, h("span", {}, outside(value, low, high)));
  const place = Math.min(Math.max(at(value), 0), 100);
  marker.style.left = `${place}%`;
  marker.classList.add(place > 70 ? "right" : place < 30 ? "left" : "middle");
  const edge = h("span.chart-limit", {}, `anomalous below ${nats(limit)}`);
  return h(
    "figure.chart",
    {},
    h("div.chart-plot", {}, bars(quantiles, at, limit), marker),
    h("div.chart-axis", { "aria-hidden": "true" }, h("span", {}, nats(low)), edge, h("span", {}, nats(high))),
    h("figcaption.hint", {}, `Log-likelihoods of held-out images in nats: from ${nats(first)} to ${nats(last)}, half of them above ${nats(quantiles[Math.floor(quantiles.length / 2)])}.`),
  );
}

function bars(quantiles, at, limit) {
  const bins = histogram(quantiles, BINS);
  const most = Math.max(...bins.map(({ share }) => share));
  return svg(
    "svg",
    { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" },
    bins.map(({ from, to, share }) => {
      const height = (share / most) * 92;
      const gap = (at(to) - at(from)) * 0.08;
      return svg("rect", {
        class: to <= limit ? "chart-bar negative" : "chart-bar",
        x: (at(from) + gap).toFixed(3),
        width: Math.max(at(to) - at(from) - 2 * gap, 0.1).toFixed(3),
        y: (100 - height).toFixed(3),
        height: height.toFixed(3),
      });
    }),
    svg("line", { class: "limit", x1: at(limit), x2: at(limit), y1: 0, y2: 100 }),
  );
}

function outside(value, low, high) {
  if (value < low) return `far below: ${nats(value)}`;
  if (value > high) return `far above: ${nats(value)}`;
  return `this image: ${nats(value)}`;
}

function incomparable(settings, differs) {
  const made = differs.map((name) => `${name} ${JSON.stringify(settings[name])}`).join(" and ");
  return `There is no percentile: the reference set was measured with ${made}, this image otherwise.`;
}
