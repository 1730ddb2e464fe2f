// The counters of the last minutes, and the rates from them.

import { readings } from "./readings.js";

export const WINDOW = 300;
/** Seconds between two questions. */
const STEP = 2;
/** Seconds over which a rate is taken, and a quantile, which needs more requests to mean something. */
const RATE_SPAN = 10;
const QUANTILE_SPAN = 30;

/** Asks for the overview while the page is looked at, and keeps a window of the answers. */
export class History extends EventTarget {
  #api;
  #stop = new AbortController();
  #timer = null;

  constructor(api) {
    super();
    this.#api = api;
    /** Readings, oldest first, each with `at` in seconds. */
    this.samples = [];
    /** Why there was no answer to the last question, or null. */
    this.error = null;
    document.addEventListener("visibilitychange", () => document.hidden || this.ask(), { signal: this.#stop.signal });
  }

  get latest() {
    return this.samples.at(-1) ?? null;
  }

  /** Ask now, and from now on every other second. */
  async ask() {
    clearTimeout(this.#timer);
    try {
      const sample = readings(await this.#api.get("overview", this.#stop.signal));
      this.samples.push({ at: performance.now() / 1000, ...sample });
      const oldest = this.latest.at - WINDOW - QUANTILE_SPAN;
      while (this.samples[0].at < oldest) this.samples.shift();
      this.error = null;
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.error = error;
    }
    this.dispatchEvent(new Event("change"));
    clearTimeout(this.#timer);
    if (!document.hidden && !this.#stop.signal.aborted) this.#timer = setTimeout(() => this.ask(), STEP * 1000);
  }

  close() {
    this.#stop.abort();
    clearTimeout(this.#timer);
  }

  /** Points {at, values} of how much each key of a counter grew in a second. */
  rates(counter, keys) {
    return this.#points(RATE_SPAN, (before, after, seconds) =>
      keys.map((key) => grown(before[counter][key] ?? 0, after[counter][key] ?? 0) / seconds));
  }

  /** Points {at, values} of quantiles of the latency, in seconds; NaN where nothing was asked. */
  quantiles(shares) {
    return this.#points(QUANTILE_SPAN, (before, after) => {
      const counts = after.latency.counts.map((count, index) => grown(before.latency.counts[index] ?? 0, count));
      return shares.map((share) => quantile(share, after.latency.bounds, counts));
    });
  }

  /** How much each key of a counter grew within the window. */
  growth(counter) {
    const before = this.samples[0]?.[counter] ?? {};
    const entries = Object.entries(this.latest?.[counter] ?? {});
    return Object.fromEntries(entries.map(([key, value]) => [key, grown(before[key] ?? 0, value)]));
  }

  #points(span, values) {
    const points = [];
    let start = 0;
    for (const [index, after] of this.samples.entries()) {
      while (this.samples[start].at < after.at - span - STEP / 2) start += 1;
      const before = this.samples[Math.min(start, Math.max(index - 1, 0))];
      if (before !== after) points.push({ at: after.at, values: values(before, after, after.at - before.at) });
    }
    return points;
  }
}

/** A counter that fell began again, with the gateway. */
function grown(before, after) {
  return after < before ? after : after - before;
}

/** The value below which a share of the observations lies, with the even spread in a bucket that PromQL assumes. */
function quantile(share, bounds, counts) {
  const rank = share * counts.reduce((sum, count) => sum + count, 0);
  if (rank === 0) return NaN;
  let seen = 0;
  for (const [index, count] of counts.entries()) {
    if (seen + count >= rank && count > 0) {
      if (index >= bounds.length) return bounds.at(-1);
      const lower = index === 0 ? 0 : bounds[index - 1];
      return lower + (bounds[index] - lower) * ((rank - seen) / count);
    }
    seen += count;
  }
  return bounds.at(-1);
}
