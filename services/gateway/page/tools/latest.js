/** Work that follows a moving hand: the newest wish is fulfilled, older ones are given up. */

import { isAbort } from "../api.js";

/**
 * @param {(signal: AbortSignal) => Promise<void>} work
 * @param {{wait: number, signal: AbortSignal, fail: (error: Error) => void}} options `wait` in
 *   milliseconds after the last wish.
 * @returns {() => void} wishes for it.
 */
export function latest(work, { wait, signal, fail }) {
  let timer = 0;
  let current = new AbortController();
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    current.abort();
  });
  return () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      current.abort();
      const mine = new AbortController();
      current = mine;
      try {
        await work(mine.signal);
      } catch (error) {
        if (!mine.signal.aborted && !isAbort(error)) fail(error);
      }
    }, wait);
  };
}
