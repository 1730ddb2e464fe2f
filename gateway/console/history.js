// The counters of the last minutes, or of the last hours, and the rates from them.

import { readings } from "./readings.js";

/** What the charts can span. The shortest is live; the others are what the gateway kept, minute by minute. */
export const RANGES = {
  "5m": { label: "5 minutes", seconds: 300, minutes: 6, step: 1 },
  "1h": { label: "1 hour", seconds: 3600, minutes: 60, step: 1 },
  "6h": { label: "6 hours", seconds: 21600, minutes: 360, step: 5 },
  "24h": { label: "24 hours", seconds: 86400, minutes: 1440, step: 15 },
};
export const LIVE = "5m";
/** Seconds between two questions. */
const STEP = 2;
/** Milliseconds between two looks at what the gateway kept. */
const PAST_STEP = 60000;
/** Seconds over which a rate is taken, and a quantile, which needs more requests to mean something. */
const RATE_SPAN = 10;
const QUANTILE_SPAN = 30;

/** Asks for the overview while the page is looked at, and keeps a window of the answers. */
export class History extends EventTarget {
  #api;
  #stop = new AbortController();
  #timer = null;
  #range = null;
  /** What the gateway kept: {at, seconds, requests, denials, lookups, latency, limited, overlooked}, oldest first. */
  #past = [];
  #bounds = [];
  #lookedAt = -Infinity;

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

  get range() {
    return RANGES[this.#range ?? LIVE];
  }

  /** Let the points below span a key of RANGES. */
  async choose(range) {
    if (this.#range === range) return;
    this.#range = range;
    this.#past = [];
    await this.#look();
    this.dispatchEvent(new Event("change"));
  }

  /** Ask now, and from now on every other second. */
  async ask() {
    clearTimeout(this.#timer);
    try {
      const overview = await this.#api.get("overview", this.#stop.signal);
      this.samples.push({ at: Date.parse(overview.at) / 1000, ...readings(overview) });
      const oldest = this.latest.at - RANGES[LIVE].seconds - QUANTILE_SPAN;
      while (this.samples[0].at < oldest) this.samples.shift();
      if (this.#range !== null && performance.now() - this.#lookedAt >= PAST_STEP) await this.#look();
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
    return this.#points(RATE_SPAN, (grown, seconds) => keys.map((key) => (grown[counter][key] ?? 0) / seconds));
  }

  /** Points {at, values} of quantiles of the latency, in seconds; NaN where nothing was asked. */
  quantiles(shares) {
    return this.#points(QUANTILE_SPAN, ({ latency, bounds }) => shares.map((share) => quantile(share, bounds, latency)));
  }

  /** How much each key of a counter grew within the range. */
  growth(counter) {
    const { past, live } = this.#parts();
    const [first, last] = [live[0], live.at(-1)];
    const sums = first ? { ...growth(first[counter], last[counter]) } : {};
    for (const span of past) {
      for (const [key, value] of Object.entries(span[counter])) sums[key] = (sums[key] ?? 0) + value;
    }
    return sums;
  }

  /** What counts: for the live range what was kept before the first answer, else all of it and what came after. */
  #parts() {
    const oldest = (this.latest?.at ?? 0) - this.range.seconds;
    const inRange = this.#past.filter(({ at }) => at > oldest);
    if (this.range === RANGES[LIVE]) {
      const began = this.samples[0]?.at ?? Infinity;
      return { past: inRange.filter(({ at }) => at <= began), live: this.samples.filter(({ at }) => at >= oldest) };
    }
    const ended = inRange.at(-1)?.at ?? -Infinity;
    return { past: inRange, live: this.samples.filter(({ at }) => at >= ended) };
  }

  #points(span, values) {
    const { past } = this.#parts();
    const points = past.map(({ at, seconds, ...grown }) => ({ at, values: values({ ...grown, bounds: this.#bounds }, seconds) }));
    if (this.range !== RANGES[LIVE]) return points;
    let start = 0;
    for (const [index, after] of this.samples.entries()) {
      while (this.samples[start].at < after.at - span - STEP / 2) start += 1;
      const before = this.samples[Math.min(start, Math.max(index - 1, 0))];
      if (before === after) continue;
      const grown = {
        requests: growth(before.requests, after.requests), lookups: growth(before.lookups, after.lookups),
        limited: growth(before.limited, after.limited), overlooked: growth(before.overlooked, after.overlooked),
        latency: after.latency.counts.map((count, place) => grownBy(before.latency.counts[place] ?? 0, count)),
        bounds: after.latency.bounds,
      };
      points.push({ at: after.at, values: values(grown, after.at - before.at) });
    }
    return points;
  }

  /** Read what the gateway kept. Throws when it cannot be read. */
  async #look() {
    const { minutes, step } = this.range;
    const range = this.#range;
    this.#lookedAt = performance.now();
    const { bounds, points } = await this.#api.get(`history?minutes=${minutes}&step=${step}`, this.#stop.signal);
    if (range !== this.#range) return;
    this.#bounds = bounds;
    this.#past = points.map((point) => ({ ...point, at: Date.parse(point.at) / 1000 }));
  }
}

function growth(before, after) {
  return Object.fromEntries(Object.entries(after).map(([key, value]) => [key, grownBy(before[key] ?? 0, value)]));
}

/** A counter that fell began again, with the gateway. */
function grownBy(before, after) {
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
