// The current state of the gateway, and its last hours.

import { announce, busy, button, confirm, failure, h, hint, inUse, state, success, table } from "./dom.js";
import { Chart } from "./chart.js";
import { duration, number, percent, zone } from "./format.js";
import { LIVE, RANGES } from "./history.js";

export const title = "Overview";

const STATUSES = ["2xx", "3xx", "4xx", "5xx"];
const TIERS = ["local", "redis", "postgres"];
const QUANTILES = [0.5, 0.95, 0.99];

export function show({ main, api, history, query, signal, remember }) {
  const charts = {
    requests: new Chart("Requests", [
      { label: "answered 2xx", tone: "good" }, { label: "moved 3xx", tone: "plain" },
      { label: "refused 4xx", tone: "fair" }, { label: "failed 5xx", tone: "bad" },
    ], { stacked: true, format: number, note: "per second, by status" }),
    latency: new Chart("Latency", [
      { label: "median", tone: "first" }, { label: "95 %", tone: "second" }, { label: "99 %", tone: "third" },
    ], { format: duration, note: "of all requests" }),
    lookups: new Chart("User look-ups", [
      { label: "local", tone: "first" }, { label: "redis", tone: "second" }, { label: "postgres", tone: "third" },
    ], { stacked: true, format: number, note: "per second, by the tier that answered" }),
  };
  const trouble = h("div", {});
  const figures = h("dl", { class: "figures" });
  const denials = h("section", { class: "panel", "aria-label": "Denials by reason" });
  const dependencies = h("section", { class: "panel", "aria-label": "Dependencies" });
  const caches = h("section", { class: "panel", "aria-label": "Caches" });
  main.append(trouble, figures, ranges(history, query.get("range"), remember, trouble), h("div", { class: "grid" },
    charts.requests.element, charts.latency.element, charts.lookups.element, denials, dependencies, caches));

  const cacheEntries = h("div", {});
  caches.append(h("h2", {}, "Caches"), cacheEntries, flushing(api, signal));
  let before = "";

  const draw = () => {
    trouble.replaceChildren(...(history.error ? [failure(history.error)] : []));
    const sample = history.latest;
    if (!sample) return;
    const requests = history.rates("requests", STATUSES);
    const quantiles = history.quantiles(QUANTILES);
    const lookups = history.rates("lookups", TIERS);
    charts.requests.show(requests, sample.at, history.range.seconds);
    charts.latency.show(quantiles, sample.at, history.range.seconds);
    charts.lookups.show(lookups, sample.at, history.range.seconds);
    figures.replaceChildren(...keyFigures(sample, requests, quantiles, lookups));
    if (!inUse(denials)) denials.replaceChildren(...denialsByReason(sample.denials, history));
    if (!inUse(dependencies)) dependencies.replaceChildren(...states(sample));
    cacheEntries.replaceChildren(h("dl", { class: "facts" }, Object.entries(sample.caches).map(([name, entries]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, number(entries))))));
    const standing = sample.dependencies.filter(({ status }) => status !== "up").map(({ name }) => name).join(", ");
    if (standing !== before) announce(standing ? `Down: ${standing}` : "All dependencies are up");
    before = standing;
  };
  history.addEventListener("change", draw, { signal });
  zone.addEventListener("change", draw, { signal });
  draw();
}

/** What the charts span, as the address says. */
export function ranges(history, wanted, remember, trouble) {
  const buttons = Object.entries(RANGES).map(([key, { label }]) =>
    button(label, () => choose(key), { kind: "quiet", "data-range": key, "aria-pressed": "false" }));
  const choose = async (key) => {
    for (const each of buttons) each.setAttribute("aria-pressed", String(each.dataset.range === key));
    remember({ range: key === LIVE ? "" : key });
    try {
      await history.choose(key);
    } catch (error) {
      if (error.name !== "AbortError") trouble.replaceChildren(failure(error));
    }
  };
  choose(Object.hasOwn(RANGES, wanted ?? "") ? wanted : LIVE);
  return h("div", { class: "row", role: "group", "aria-label": "What the charts span" }, buttons);
}

function keyFigures(sample, requests, quantiles, lookups) {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const rate = requests.at(-1)?.values ?? [];
  const looked = lookups.at(-1)?.values ?? [];
  return [
    ["Requests/s", number(rate.length ? sum(rate) : NaN)],
    ["Refused or failed", percent(sum(rate) ? (rate[2] + rate[3]) / sum(rate) : NaN)],
    ["95 % are faster than", duration(quantiles.at(-1)?.values[1] ?? NaN)],
    ["Users known locally", percent(sum(looked) ? looked[0] / sum(looked) : NaN)],
    ["In flight", number(sample.inFlight)],
    ["Workers", number(sample.workers)],
  ].map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value)));
}

function denialsByReason(totals, history) {
  const recent = history.growth("denials");
  const reasons = Object.entries(totals).filter(([, total]) => total > 0)
    .sort(([one, a], [other, b]) => (recent[other] ?? 0) - (recent[one] ?? 0) || b - a).slice(0, 8);
  const heading = h("h2", {}, "Denials by reason");
  if (reasons.length === 0) {
    return [heading, h("p", { class: "empty" }, "No request has been denied since the gateway started.")];
  }
  const most = Math.max(...reasons.map(([, total]) => total));
  const { element } = table("Denials by reason", [
    "Reason", { label: "Share", class: "share" },
    { label: `Last ${history.range.label}`, numeric: true }, { label: "Since start", numeric: true },
  ], reasons.map(([reason, total]) => [
    h("a", { href: `#/denials?reason=${encodeURIComponent(reason)}` }, reason),
    meter(total / most), number(recent[reason] ?? 0), number(total),
  ]));
  element.classList.add("compact", "columns");
  return [heading, element];
}

/** A bar as long as a share of one. */
export function meter(share) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "meter");
  svg.setAttribute("aria-hidden", "true");
  const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  bar.setAttribute("width", `${100 * share}%`);
  bar.setAttribute("height", "100%");
  bar.setAttribute("rx", "2");
  svg.append(bar);
  return svg;
}

function states(sample) {
  const items = sample.dependencies.map(({ name, status, detail }) =>
    h("li", {}, h("span", {}, name), state(status, { up: "good", degraded: "fair" }[status] ?? "bad"), detail ? hint(detail) : null));
  return [h("h2", {}, "Dependencies"), h("ul", { class: "states" }, items)];
}

function flushing(api, signal) {
  const outcome = h("div", {});
  const flush = button("Flush caches …", async () => {
    const sure = await confirm("Flush all caches?",
      "All workers forget the users and revocation verdicts that they remember, and ask the stores again. No data is lost; " +
      "requests are slower for a short time.", "Flush");
    if (sure === null) return;
    try {
      await busy(flush, () => api.send("POST", "cache/flush", undefined, { signal }));
      outcome.replaceChildren(success("The caches have been flushed."));
    } catch (error) {
      outcome.replaceChildren(failure(error));
    }
  });
  return h("div", { class: "row acts" }, flush, outcome);
}
