// Limits: how much of each budget is spent, who is refused now, and how often each limit refused.

import { Chart } from "./chart.js";
import {
  announce, button, code, confirm, failure, field, form, h, hint, inUse, input, notify, pageSize, select, state, submit, success, table,
} from "./dom.js";
import { duration, number, time, zone } from "./format.js";
import { meter, ranges } from "./overview.js";
import { userPage } from "./users.js";

export const title = "Limits";

/** Milliseconds between two looks at who is refused. */
const STEP = 5000;
/** The column of what operators alone may do. */
const CHANGE = { label: "Change", class: "acts" };
/** Whose requests a limit counts, if not those of all. */
const COUNTED = { authenticated: "requests with a user", anonymous: "requests without a token", failed: "failed authentications" };

export async function show({ main, api, history, query, signal, remember }) {
  const filters = Object.fromEntries(["range", "limit", "subject"].map((name) => [name, query.get(name) ?? ""]));
  const keep = (given) => remember(Object.assign(filters, given));
  const trouble = h("div", {});
  const outcome = h("div", {});
  const standing = h("p", {});
  const chart = new Chart("Over a limit", [
    { label: "refused", tone: "fair" }, { label: "passed, in shadow", tone: "plain" },
  ], { stacked: true, format: number, note: "requests per second" });
  const throttled = h("section", { class: "panel flush", "aria-label": "Refused now" });
  const limits = h("section", { class: "panel flush", "aria-label": "All limits" });
  const spent = h("section", { class: "panel flush", "aria-label": "Budgets spent most" });

  let states;
  try {
    states = await api.get("limits/state", signal);
  } catch (error) {
    if (!signal.aborted) main.append(failure(error));
    return;
  }
  if (states.limits.length === 0) {
    main.append(h("p", { class: "empty" }, "No limits are configured. Add ", h("code", {}, "limits"), " to the configuration."));
    return;
  }

  /** Give a subject its budget anew, once an operator has agreed. */
  const giveAnew = async (limit, subject) => {
    const answer = await confirm("Give this budget anew?",
      ["All gateways admit requests of ", code(subject), ` again, as if the limit ${limit} had counted none.`],
      "Give anew", field("Reason (optional)", input("reason", null, { maxlength: 1000 }), "For the audit log."));
    if (answer === null) return;
    const reason = answer.reason.trim();
    try {
      await api.send("POST", "limits/reset", { limit, subject, ...(reason ? { reason } : {}) }, { signal });
      await load(draw);
      if (filters.subject) one.look({});
      notify(outcome, success("The budget has been given anew."));
    } catch (error) {
      if (!signal.aborted) notify(outcome, failure(error));
    }
  };

  const one = lookup(states.limits, { api, signal, filters, keep, giveAnew });
  const draw = () => {
    const by = Object.fromEntries(states.limits.map((limit) => [limit.name, limit]));
    standing.replaceChildren(state(states.shared
      ? `${number(states.workers)} ${states.workers === 1 ? "worker shares" : "workers share"} the budgets in Redis`
      : "Redis does not answer each worker: those go on with their share of each budget", states.shared ? "good" : "fair"));
    throttled.replaceChildren(h("h2", {}, "Refused now"), refused(states, by, giveAnew));
    limits.replaceChildren(h("h2", {}, "All limits"), listed(states.limits, history));
    spent.replaceChildren(h("h2", {}, "Budgets spent most"), spentMost(states.spent));
  };
  const drawChart = () => {
    const now = history.latest?.at;
    if (now === undefined) return;
    const names = states.limits.map(({ name }) => name);
    const [over, passed] = ["limited", "overlooked"].map((counter) => history.rates(counter, names));
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    chart.show(over.map(({ at, values }, place) => ({ at, values: [sum(values), sum(passed[place].values)] })),
      now, history.range.seconds);
  };
  /** Draw again, unless that would take away what the reader is about to press. */
  const redraw = () => {
    if (![throttled, limits, spent].some(inUse) && !document.querySelector("dialog")) draw();
  };
  const load = async (show) => {
    states = await api.get("limits/state", signal);
    trouble.replaceChildren();
    show();
  };
  const follow = async () => {
    while (!signal.aborted) {
      await new Promise((resolve) => { setTimeout(resolve, STEP); });
      if (signal.aborted || document.hidden) continue;
      try {
        await load(redraw);
      } catch (error) {
        if (!signal.aborted) trouble.replaceChildren(failure(error));
      }
    }
  };

  main.append(trouble, outcome, standing, throttled, ranges(history, filters.range, keep, trouble), chart.element, limits, spent,
    one.element);
  history.addEventListener("change", () => { drawChart(); redraw(); }, { signal });
  zone.addEventListener("change", drawChart, { signal });
  draw();
  drawChart();
  announce(`${states.throttled.length} subjects are refused`);
  follow();
}

/** What a limit allows, in words. */
function allowance({ kind, amount, period_seconds: period, burst, unit, time_zone: where }) {
  if (kind === "concurrency") return `${number(amount)} at the same time`;
  if (kind === "quota") return `${number(amount)} a ${unit}, ${where}`;
  return `${number(amount)} in ${duration(period)}${burst === amount ? "" : `, ${number(burst)} at once`}`;
}

/** Which requests it counts, in words. */
function counted({ counts, routes, conditional }) {
  const words = [COUNTED[counts], routes.length ? `routes ${routes.join(", ")}` : null, conditional ? "those that meet its condition" : null];
  return words.filter(Boolean).join("; ") || "all requests";
}

/** A subject, and the way to what else is known of it. */
function whom(per, subject) {
  if (per === "user" && !subject.includes(":")) return h("a", { href: userPage(subject) }, code(subject));
  // Denials have the address of a client, and not its network.
  if (per === "client" && !subject.includes("/")) {
    return h("a", { href: `#/denials?${new URLSearchParams({ client: subject })}` }, code(subject));
  }
  return code(subject);
}

function refused({ at, limits, throttled }, by, giveAnew) {
  if (throttled.length === 0) return h("p", { class: "empty" }, "No limit refuses a request at this moment.");
  const all = Math.max(throttled.length, limits.reduce((total, limit) => total + limit.throttled, 0));
  const shown = throttled.slice(0, pageSize());
  const { element } = table("Refused now, the longest first", [
    { label: "Whom", class: "break" }, "Limit", { label: "Since", class: "when" }, { label: "Again", class: "when" }, CHANGE,
  ], shown.map(({ limit, per, subject, since, until }) => [
    h("div", {}, whom(per, subject), hint(per)),
    h("div", {}, limit, hint(by[limit].counts === "failed" ? COUNTED.failed : allowance(by[limit])),
      by[limit].mode === "shadow" ? hint("in shadow: its requests pass") : null),
    time(since),
    Date.parse(until) > Date.parse(at) ? time(until) : "now",
    // What is longer than a subject may be is only its beginning.
    subject.length > 255 ? "" : button("Give anew …", () => giveAnew(limit, subject),
      { kind: "quiet acts", "aria-label": `Give ${subject} its budget of ${limit} anew` }),
  ]));
  return h("div", {}, element,
    all > shown.length ? h("p", { class: "more" }, `At least ${number(all)} are refused; these the longest.`) : null);
}

function listed(limits, history) {
  const [limited, overlooked] = [history.growth("limited"), history.growth("overlooked")];
  const over = (refusals, passed) => h("div", {}, number(refusals), passed ? hint(`${number(passed)} passed in shadow`) : null);
  const { element } = table("All limits", [
    "Limit", { label: "Counts", class: "break" }, { label: "In advance", numeric: true },
    { label: `Refused, ${history.range.label}`, numeric: true }, { label: "Since start", numeric: true },
  ], limits.map((limit) => [
    h("div", {}, limit.name, hint(allowance(limit)), limit.mode === "shadow" ? hint("in shadow") : null),
    h("div", {}, `per ${limit.per}`, hint(counted(limit))),
    h("div", {}, number(limit.held), hint([
      `${number(limit.subjects)} known`, limit.throttled ? `${number(limit.throttled)} refused` : null,
      limit.kind === "concurrency" ? `${number(limit.running)} running` : null,
    ].filter(Boolean).join(", "))),
    over(limited[limit.name] ?? 0, overlooked[limit.name]),
    h("div", {}, over(limit.refused, limit.overlooked), hint(`of ${number(limit.allowed + limit.refused + limit.overlooked)}`)),
  ]));
  return element;
}

function spentMost(budgets) {
  if (budgets.length === 0) return h("p", { class: "empty" }, "Nothing is spent of any budget, as far as the workers know.");
  const shown = budgets.toSorted((one, other) => other.spent / other.capacity - one.spent / one.capacity).slice(0, pageSize());
  const { element } = table("Budgets spent most, as far as the workers of this gateway know", [
    { label: "Whom", class: "break" }, "Limit", { label: "Share", class: "share" }, { label: "Spent", numeric: true },
    { label: "In advance", numeric: true },
  ], shown.map(({ limit, per, subject, capacity, spent, held }) => [
    h("div", {}, whom(per, subject), hint(per)), limit, meter(Math.min(1, spent / capacity)),
    `${number(spent)} of ${number(capacity)}`, number(held),
  ]));
  return element;
}

/** One subject's budget, as Redis has it. */
function lookup(limits, { api, signal, filters, keep, giveAnew }) {
  const found = h("div", { class: "stack" });
  const look = async (values) => {
    keep(values);
    found.replaceChildren();
    try {
      const which = new URLSearchParams(Object.entries({ limit: filters.limit, subject: filters.subject }).filter(([, value]) => value));
      const { limits: told } = await api.get(`limits?${which}`, signal);
      const capacity = ({ kind, amount, burst }) => (kind === "rate" ? burst : amount);
      // What is as new says nothing of a subject: most limits are not for it.
      const used = told.filter((limit) => filters.limit || limit.budget.left < capacity(limit));
      announce(`${used.length} budgets`);
      if (used.length === 0) {
        found.replaceChildren(h("p", { class: "empty" }, "Nothing is spent of any of its budgets."));
        return;
      }
      const { element: shown } = table(`Budgets of ${filters.subject}`, [
        "Limit", { label: "Counted for", class: "break" }, { label: "Left", numeric: true },
        { label: "Held", numeric: true }, CHANGE,
      ], used.map((limit) => [
        limit.name, code(limit.budget.subject), `${number(limit.budget.left)} of ${number(capacity(limit))}`,
        number(limit.budget.held), button("Give anew …", () => giveAnew(limit.name, filters.subject),
          { kind: "quiet acts", "aria-label": `Give ${filters.subject} its budget of ${limit.name} anew, as Redis has it` }),
      ]));
      shown.classList.add("compact");
      found.replaceChildren(shown);
    } catch (error) {
      if (!signal.aborted) found.replaceChildren(failure(error));
    }
  };
  if (filters.subject) look({});
  const element = h("section", { class: "panel stack", "aria-label": "One budget" }, h("h2", {}, "One budget"),
    form({ class: "filters", role: "search", "aria-label": "Budgets" }, look,
      field("Limit", select("limit", [["", "all"], ...limits.map(({ name }) => name)], filters.limit)),
      field("Subject", input("subject", filters.subject, { required: true, placeholder: "a user’s id, an address, …" }), null,
        { class: "field wide" }),
      submit("Look up", null)),
    found);
  return { element, look };
}
