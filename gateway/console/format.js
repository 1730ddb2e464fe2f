// Numbers and times for people. Times are in the zone that the reader chose, which the header names.

import { h, input } from "./dom.js";

const KEPT = "gateway.time_zone";
/** Told that the reader chose another zone; its `change` comes after the times on the page were rewritten. */
export const zone = new EventTarget();

let utc = localStorage.getItem(KEPT) === "utc";
let clock, minutes, day;

function choose() {
  const timeZone = utc ? "UTC" : undefined;
  clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZone });
  minutes = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone });
  day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone });
}
choose();

/** The zone of all times: "UTC", or this computer's with its offset of today. */
export function zoneName() {
  return utc ? "UTC" : `local, ${localName()}`;
}

function localName() {
  const ahead = -new Date().getTimezoneOffset();
  const [hours, rest] = [Math.floor(Math.abs(ahead) / 60), Math.abs(ahead) % 60];
  return `UTC${ahead < 0 ? "−" : "+"}${hours}${rest ? `:${String(rest).padStart(2, "0")}` : ""}`;
}

/** A choice of the zone, for the header. */
export function zoneChoice() {
  const choice = h("select", { id: "zone", "aria-label": "Time zone of all times" },
    h("option", { value: "local", selected: !utc }, `Local, ${localName()}`),
    h("option", { value: "utc", selected: utc }, "UTC"));
  choice.addEventListener("change", () => {
    const instants = [...document.querySelectorAll("input[type=datetime-local]")].map((each) => [each, instantIn(each)]);
    utc = choice.value === "utc";
    localStorage.setItem(KEPT, choice.value);
    choose();
    for (const element of document.querySelectorAll("time")) element.textContent = told(new Date(element.dateTime));
    for (const element of document.querySelectorAll(".zone")) element.textContent = zoneName();
    for (const [element, instant] of instants) element.value = instant ? wall(instant) : "";
    zone.dispatchEvent(new Event("change"));
  });
  return choice;
}

function told(instant) {
  const today = day.format(instant) === day.format(new Date());
  return today ? clock.format(instant) : `${day.format(instant)}, ${clock.format(instant)}`;
}

/** An instant; the exact one in UTC is its title. */
export function time(rfc3339) {
  if (!rfc3339) return null;
  const instant = new Date(rfc3339);
  if (Number.isNaN(instant.getTime())) return rfc3339;
  return h("time", { datetime: rfc3339, title: instant.toISOString() }, told(instant));
}

/** Hours and minutes of an instant in seconds. */
export function hour(seconds) {
  return minutes.format(new Date(seconds * 1000));
}

/** A line for an instant, which the page's zone applies to; `rfc3339` is what it begins with. */
export function instantInput(name, rfc3339 = null) {
  const instant = rfc3339 ? new Date(rfc3339) : null;
  const value = instant && !Number.isNaN(instant.getTime()) ? wall(instant.toISOString()) : null;
  return input(name, value, { type: "datetime-local", step: 1 });
}

/** The instant in such a line as RFC 3339 in UTC; empty if there is none. */
export function instantIn(element) {
  if (!element.value) return "";
  const instant = new Date(utc ? `${element.value}Z` : element.value);
  return Number.isNaN(instant.getTime()) ? "" : instant.toISOString();
}

/** The name of the zone, for a label; it changes with the zone. */
export function zoneLabel() {
  return h("span", { class: "zone" }, zoneName());
}

/** An instant as the line wants it: the time on the wall. */
function wall(rfc3339) {
  const instant = new Date(rfc3339);
  const ahead = utc ? 0 : -instant.getTimezoneOffset();
  return new Date(instant.getTime() + ahead * 60000).toISOString().slice(0, 19);
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
