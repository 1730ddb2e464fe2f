// Numbers and times for people.

import { h } from "./dom.js";

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });


/** An instant, in the reader's time zone; the exact one in UTC is its title. */
export function time(rfc3339) {
  if (!rfc3339) return null;
  const instant = new Date(rfc3339);
  if (Number.isNaN(instant.getTime())) return rfc3339;
  const today = day.format(instant) === day.format(new Date());
  const text = today ? clock.format(instant) : `${day.format(instant)}, ${clock.format(instant)}`;
  return h("time", { datetime: rfc3339, title: instant.toISOString() }, text);
}

/** A number with three significant digits at most, or a dash for none. */
export function number(value) {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toLocaleString("en", { maximumSignificantDigits: Math.abs(value) >= 10 ? 3 : 2 });
}

/** A share of one, in per cent. */
export function percent(value) {
  return Number.isFinite(value) ? `${number(100 * value)} %` : "–";
}

/** Seconds, in the unit that suits them. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds === 0) return "0 ms";
  if (seconds < 1e-3) return `${number(seconds * 1e6)} µs`;
  if (seconds < 1) return `${number(seconds * 1e3)} ms`;
  if (seconds < 120) return `${number(seconds)} s`;
  if (seconds < 7200) return `${number(Math.round(seconds / 60))} min`;
  return seconds < 172800 ? `${number(Math.round(seconds / 3600))} h` : `${number(Math.round(seconds / 86400))} days`;
}
