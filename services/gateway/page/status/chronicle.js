/** The looks of this visit, and what the status page reads off them. */

import { growth, levels, observed, quantile, total } from "./rates.js";

/**
 * @typedef {import("./rates.js").Look & {pools: object[]}} PageLook
 */

/** Seconds between two looks. */
export const EVERY = 2;
/** Looks of a sparkline: two minutes. */
export const PLACES = 60;
/** Looks that are kept: five minutes, and the one before. */
const KEPT = 300 / EVERY + 1;
const NOTHING = { at: 0, samples: [] };

const OWN_ROUTES = new Set(["/", "/status", "/page/{path:path}", "/v1/status", "/metrics", "/livez", "/readyz"]);
const TOLD = /^atelier_(requests_total|request_seconds|images_total|network_evaluations_total|batch_rows|queue_seconds|jobs)/;

/** Whether a route does work, and is not asked by pages like this one or by probes. */
export function isWork(route) {
  return !OWN_ROUTES.has(route);
}

export class Chronicle {
  constructor() {
    /** @type {PageLook[]} oldest first. */
    this.looks = [];
  }

  /** @param {PageLook} look */
  add(look) {
    const samples = look.samples.filter(({ name }) => TOLD.test(name));
    this.looks.push({ ...look, samples });
    if (this.looks.length > KEPT) this.looks.shift();
  }

  /** @returns {PageLook} */
  get now() {
    return this.looks.at(-1);
  }

  /**
   * The look from which a window reaches to now, or nothing at all for the service's whole life.
   *
   * @param {number} seconds 0 for since the start.
   */
  since(seconds) {
    if (!seconds) return NOTHING;
    return this.looks.find(({ at }) => at >= this.now.at - seconds * 1000);
  }

  /** Seconds of a window that were in fact seen. */
  seen(seconds) {
    return (this.now.at - this.since(seconds).at) / 1000;
  }

  /**
   * A number for each of the latest pairs of looks.
   *
   * @param {(before: PageLook, after: PageLook, seconds: number) => number|null} of
   * @returns {(number|null)[]} oldest first.
   */
  series(of) {
    const recent = this.looks.slice(-PLACES - 1);
    return recent.slice(1).map((after, place) => {
      const before = recent[place];
      return of(before, after, (after.at - before.at) / 1000);
    });
  }

  /** Requests per second of routes that do work, for each of the latest looks. */
  requests() {
    return this.series((before, after, seconds) => {
      const grown = growth(before, after, "atelier_requests_total", "route", ({ route }) => isWork(route));
      return total(grown) / seconds;
    });
  }

  /** Requests per second that the service failed (5xx). */
  failures() {
    const failed = ({ route, code }) => isWork(route) && code >= "500";
    return this.series(
      (before, after, seconds) => total(growth(before, after, "atelier_requests_total", "code", failed)) / seconds,
    );
  }

  /** Images per second. */
  images() {
    return this.series(
      (before, after, seconds) => total(growth(before, after, "atelier_images_total", "model")) / seconds,
    );
  }

  /** The 95th percentile of latencies in seconds; of one route or of all that do work. */
  latencies(route = null) {
    return this.series((before, after) => {
      const found = observed(before, after, "atelier_request_seconds", "route");
      const chosen = [...found].filter(([name]) => (route === null ? isWork(name) : name === route));
      return quantile(merged(chosen.map(([, buckets]) => buckets)), 0.95)?.value ?? null;
    });
  }

  /** A number of the pools, for each of the latest looks. */
  pools(of) {
    return this.looks.slice(-PLACES).map(({ pools }) => of(pools));
  }

  /** Jobs by state; empty where the service keeps none. */
  jobs() {
    return levels(this.now, "atelier_jobs", "state");
  }
}

/** Histograms of the same bounds as one. */
export function merged(histograms) {
  if (!histograms.length) return [];
  return histograms[0].map(({ le }, place) => ({
    le,
    count: histograms.reduce((sum, buckets) => sum + (buckets[place]?.count ?? 0), 0),
  }));
}
