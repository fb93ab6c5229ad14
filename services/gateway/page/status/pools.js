/** The pools, each as a card that changes in place. */

import { h } from "../components/dom.js";
import { PLACES } from "./chronicle.js";
import { duration, figure } from "./figures.js";
import { sparkline } from "./sparkline.js";
import { setContent } from "./table.js";

/** Seconds without a sign of life, with work in hand, after which a pool looks stuck. */
const LATE = 10;

export class Pools {
  /** @param {HTMLElement} list a `ul`. */
  constructor(list) {
    this.list = list;
    this.cards = new Map();
  }

  /** @param {import("./chronicle.js").Chronicle} chronicle */
  update(chronicle) {
    const pools = joined(chronicle.now.pools);
    for (const pool of pools) {
      const card = this.cards.get(pool.name) ?? this.#added(pool);
      const queue = chronicle.pools((then) => joined(then).find(({ name }) => name === pool.name)?.queue_seconds ?? null);
      setContent(card.verdict, verdictOf(pool));
      card.element.classList.toggle("alarming", verdictOf(pool) !== "working" && verdictOf(pool) !== "idle");
      setContent(card.replicas, `${pool.placement}, ${pool.replicas} ${pool.replicas === 1 ? "replica" : "replicas"}`);
      setContent(card.queue, duration(pool.queue_seconds));
      setContent(card.trajectories, figure(pool.trajectories));
      setContent(card.heartbeat, `${duration(pool.heartbeat_age)} ago`);
      const most = duration(Math.max(...queue.map((value) => value ?? 0)));
      const label = `Queue of ${pool.name} in the last two minutes: now ${duration(pool.queue_seconds)}, at most ${most}`;
      card.line.replaceChildren(sparkline(queue, { label, places: PLACES }));
      showLoaded(card.loaded, pool.loaded);
    }
    for (const [name, { element }] of this.cards) {
      if (pools.some((pool) => pool.name === name)) continue;
      element.remove();
      this.cards.delete(name);
    }
  }

  #added(pool) {
    const card = {
      verdict: h("span.badge"),
      replicas: h("p.pool-replicas"),
      queue: h("dd"),
      trajectories: h("dd"),
      heartbeat: h("dd"),
      line: h("div.pool-line"),
      loaded: h("ul.chips"),
    };
    const facts = [
      ["Queue", "Predicted device time of all accepted work", card.queue],
      ["In flight", "Images and answers being worked on", card.trajectories],
      ["Sign of life", "Since the loop last gave one", card.heartbeat],
    ].map(([name, hint, value]) => h("div", { title: hint }, h("dt", {}, name), value));
    card.element = h(
      "li.pool",
      {},
      h("div.pool-head", {}, h("h3", {}, pool.name), card.verdict),
      card.replicas,
      h("dl.facts", {}, facts),
      card.line,
      h("p.pool-loaded", {}, "Loaded models"),
      card.loaded,
    );
    this.cards.set(pool.name, card);
    this.list.append(card.element);
    return card;
  }
}

/** Pools of one name, as replicas of the gateway report them, as one. */
function joined(pools) {
  const byName = new Map();
  for (const pool of pools) {
    const known = byName.get(pool.name);
    if (!known) {
      byName.set(pool.name, { ...pool });
      continue;
    }
    known.replicas += pool.replicas;
    known.queue_seconds += pool.queue_seconds;
    known.trajectories += pool.trajectories;
    known.heartbeat_age = Math.max(known.heartbeat_age, pool.heartbeat_age);
    known.loaded = [...new Set([...known.loaded, ...pool.loaded])];
  }
  return [...byName.values()];
}

function verdictOf(pool) {
  if (!pool.replicas) return "no replica";
  if (pool.trajectories && pool.heartbeat_age > LATE) return "no sign of life";
  return pool.trajectories ? "working" : "idle";
}

function showLoaded(list, names) {
  const said = names.length ? [...names].sort() : ["none yet: each is loaded when first asked for"];
  if (list.dataset.shown === said.join()) return;
  list.dataset.shown = said.join();
  list.replaceChildren(...said.map((name) => h(names.length ? "li.chip" : "li.faint", {}, name)));
}
