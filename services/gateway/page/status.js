/** The status page: looks at `/v1/status` and `/metrics` every two seconds while it is seen. */

import { json, request } from "./api.js";
import { announce } from "./components/announce.js";
import { byId, fill } from "./components/dom.js";
import { errorBox } from "./components/errors.js";
import { installKeyDialog } from "./key.js";
import { Chronicle, EVERY, PLACES, isWork, merged } from "./status/chronicle.js";
import { parse } from "./status/exposition.js";
import { duration, figure, latency } from "./status/figures.js";
import { Pools } from "./status/pools.js";
import { growth, observed, quantile } from "./status/rates.js";
import { sparkline } from "./status/sparkline.js";
import { LiveTable, setContent } from "./status/table.js";
import { Tiles } from "./status/tiles.js";

/** Looks over which a rate is averaged: ten seconds. */
const RECENT = 10 / EVERY;

const chronicle = new Chronicle();
const tiles = new Tiles(byId("tiles"));
const jobs = new Tiles(byId("jobs"));
const pools = new Pools(byId("pools"));
const routes = new LiveTable(byId("routes"), "Requests and latencies by route", [
  { title: "Route" },
  { title: "Requests", numeric: true, hint: "Within the window" },
  { title: "Per second", numeric: true },
  { title: "Failed", numeric: true, hint: "Answered with a status of 500 or more" },
  { title: "p50", numeric: true, hint: "Half of the requests took no longer" },
  { title: "p95", numeric: true },
  { title: "p99", numeric: true },
  { title: "p95, last two minutes" },
]);
const models = new LiveTable(byId("models"), "Images, evaluations and batches by model", [
  { title: "Model" },
  { title: "Finished", numeric: true, hint: "Images and answers within the window" },
  { title: "Evaluations", numeric: true, hint: "Batched network evaluations within the window" },
  { title: "Rows per batch", numeric: true, hint: "The mean" },
  { title: "Waited, p95", numeric: true, hint: "Seconds that a row stood in the queue" },
]);

let timer = 0;
let verdict = "";

installKeyDialog(byId("status"));
byId("pause").addEventListener("click", togglePause);
byId("window").addEventListener("change", show);
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : look()));
look();

async function look() {
  stop();
  try {
    const [status, page] = await Promise.all([json("/v1/status"), request("/metrics", { accept: "text/plain" })]);
    chronicle.add({ at: Date.now(), pools: status.pools, samples: parse(await page.text()) });
    fill(byId("trouble"));
    judge(status.ready ? "Ready" : "Not ready", status.ready ? "good" : "bad");
    show();
  } catch (error) {
    judge(error.status === 401 ? "Needs a key" : "Cannot be reached", "bad");
    fill(byId("trouble"), errorBox(error, { retry: look }));
    if (error.status === 401) return; // who gave no key is not asked again every two seconds
  }
  if (!document.hidden && !paused()) timer = setTimeout(look, EVERY * 1000);
}

function stop() {
  clearTimeout(timer);
}

function paused() {
  return byId("pause").getAttribute("aria-pressed") === "true";
}

function togglePause() {
  const pausing = !paused();
  byId("pause").setAttribute("aria-pressed", String(pausing));
  announce(pausing ? "Paused" : "Looking again", { urgent: true });
  if (pausing) stop();
  else look();
  tellFreshness();
}

function judge(text, kind) {
  const badge = byId("verdict");
  badge.className = `badge ${kind}`;
  setContent(badge, text);
  if (verdict && verdict !== text) announce(`The service: ${text}`, { urgent: true });
  verdict = text;
}

function show() {
  if (!chronicle.now) return;
  tellFreshness();
  pools.update(chronicle);
  showTiles();
  showRoutes(Number(byId("window").value));
  showModels(Number(byId("window").value));
  showJobs();
}

function tellFreshness() {
  const time = chronicle.now ? new Date(chronicle.now.at).toLocaleTimeString() : "";
  setContent(byId("freshness"), paused() ? `Paused at ${time}` : `As of ${time}, every ${EVERY} seconds`);
}

function showTiles() {
  const now = chronicle.now.pools;
  const sum = (key) => (list) => list.reduce((whole, pool) => whole + pool[key], 0);
  const rate = (name, series, alarming = false) => {
    const value = mean(series.slice(-RECENT));
    return tile(name, series, (number) => `${figure(number)}/s`, value, alarming && value > 0);
  };
  tiles.update([
    rate("Requests", chronicle.requests()),
    rate("Images", chronicle.images()),
    tile("Latency, p95", chronicle.latencies(), duration, recentLatency()),
    tile("Queue", chronicle.pools(sum("queue_seconds")), duration, sum("queue_seconds")(now)),
    tile("In flight", chronicle.pools(sum("trajectories")), figure, sum("trajectories")(now)),
    rate("Failed", chronicle.failures(), true),
  ]);
}

/** Over the last minute, of all work. */
function recentLatency() {
  const found = observed(chronicle.since(60), chronicle.now, "atelier_request_seconds", "route");
  const work = [...found].filter(([route]) => isWork(route)).map(([, buckets]) => buckets);
  return quantile(merged(work), 0.95)?.value ?? null;
}

function tile(name, series, written, value, alarming = false) {
  const said = value === null ? "–" : written(value);
  const most = written(Math.max(0, ...series.map((number) => number ?? 0)));
  const label = `${name} in the last two minutes: now ${said}, at most ${most}`;
  return { name, value: said, line: sparkline(series, { label, places: PLACES }), alarming };
}

function mean(series) {
  const known = series.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : 0;
}

function showRoutes(seconds) {
  const [before, now] = [chronicle.since(seconds), chronicle.now];
  const ever = growth({ samples: [] }, now, "atelier_requests_total", "route");
  const asked = growth(before, now, "atelier_requests_total", "route");
  const failed = growth(before, now, "atelier_requests_total", "route", ({ code }) => code >= "500");
  const histograms = observed(before, now, "atelier_request_seconds", "route");
  const seen = chronicle.seen(seconds);
  const rows = [...ever.keys()].filter(isWork).sort().map((route) => {
    const buckets = histograms.get(route) ?? [];
    const count = asked.get(route) ?? 0;
    const series = chronicle.latencies(route);
    const most = duration(Math.max(0, ...series.map((value) => value ?? 0)));
    const label = `95th percentile of ${route} in the last two minutes, at most ${most}`;
    return {
      key: route,
      cells: [
        route,
        figure(count),
        seconds && seen ? figure(count / seen) : "–",
        figure(failed.get(route) ?? 0),
        ...[0.5, 0.95, 0.99].map((share) => latency(quantile(buckets, share))),
        sparkline(series, { label, places: PLACES }),
      ],
    };
  });
  routes.update(rows, "Nobody has asked for anything yet.");
}

function showModels(seconds) {
  const [before, now] = [chronicle.since(seconds), chronicle.now];
  const finished = growth(before, now, "atelier_images_total", "model");
  const evaluations = growth(before, now, "atelier_network_evaluations_total", "model");
  const rowsSum = growth(before, now, "atelier_batch_rows_sum", "model");
  const batches = growth(before, now, "atelier_batch_rows_count", "model");
  const waited = observed(before, now, "atelier_queue_seconds", "model");
  const rows = [...evaluations.keys()].sort().map((model) => {
    const count = batches.get(model) ?? 0;
    return {
      key: model,
      cells: [
        model,
        figure(finished.get(model) ?? 0),
        figure(evaluations.get(model) ?? 0),
        count ? ((rowsSum.get(model) ?? 0) / count).toFixed(1) : "–",
        latency(quantile(waited.get(model) ?? [], 0.95)),
      ],
    };
  });
  models.update(rows, "No model has worked yet.");
}

function showJobs() {
  const found = chronicle.jobs();
  byId("jobs-section").hidden = found.size === 0;
  jobs.update([...found].map(([state, count]) => ({ name: state, value: figure(count), alarming: false })));
}
