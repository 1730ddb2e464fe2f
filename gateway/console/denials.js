// The latest denied requests, and new ones as they happen.

import { explained } from "./explain.js";
import { announce, button, code, failure, field, form, h, hint, input, prose, state, submit, table } from "./dom.js";
import { time } from "./format.js";

export const title = "Denials";

/** The filters, and what they are called. */
const FILTERS = {
  request_id: "Request id", reason: "Reason", issuer: "Issuer", route: "Route", subject: "Subject or hash", client: "Client",
};
const SHOWN = 200;
const PAGE = 100;
/** Ids by which a denial of both the list and the stream is known again: the list has the latest alone. */
const REMEMBERED = 2000;
const LONGEST_PAUSE = 15;

export function show({ main, api, query, signal, remember }) {
  const filters = Object.fromEntries(Object.keys(FILTERS).map((name) => [name, query.get(name) ?? ""]));
  const reasons = h("datalist", { id: "reasons" });
  const stream = h("span", { role: "status" });
  const trouble = h("div", {});
  const answer = h("section", { "aria-label": "Answer", class: "stack" });
  const { element, body, add } = table("Denials, the latest first", [
    { label: "Time", class: "when" }, "Reason", "Request", "Issuer and subject", "Client and id",
  ], []);
  const empty = h("p", { class: "empty" }, "No request has been denied. New denials appear here automatically.");
  const fields = Object.entries(filters).map(([name, value]) =>
    field(FILTERS[name], input(name, value, { list: name === "reason" ? "reasons" : null })));
  const pause = button("Pause", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    if (!paused) waiting.splice(0).forEach(insert);
    told();
  });

  let seen = new Set();
  let connected = false;
  let paused = false;
  const waiting = [];

  main.append(
    form({ class: "filters", "aria-label": "Filter" }, (values) => { Object.assign(filters, values); restart(); },
      fields, reasons, submit("Filter", null)),
    answer, h("div", { class: "row" }, pause, stream), trouble, h("div", { class: "panel flush" }, element, empty),
  );

  const told = () => {
    const held = paused && waiting.length ? `, ${waiting.length} held back` : "";
    stream.replaceChildren(state(connected ? `live${held}` : "connecting …", connected ? "good" : "fair"));
    empty.hidden = seen.size > 0;
    element.hidden = seen.size === 0;
  };

  /** Show a denial above all that are older: the list of those before comes when some of the stream may be there. */
  const insert = (denial) => {
    const made = add(row(denial), { first: true });
    made.dataset.id = denial.id;
    let below = made.nextElementSibling;
    while (below && below.dataset.id > denial.id) below = below.nextElementSibling;
    body.insertBefore(made, below);
    if (connected) made.classList.add("new");
    while (body.rows.length > SHOWN) body.lastChild.remove();
  };

  const arrived = (denial) => {
    if (seen.has(denial.id)) return;
    seen.add(denial.id);
    if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
    const known = [...reasons.options].some(({ value }) => value === denial.reason);
    if (!known) reasons.append(h("option", { value: denial.reason }));
    if (paused) waiting.push(denial);
    else insert(denial);
    // There may be more held denials than the page shows.
    if (waiting.length > SHOWN) waiting.shift();
    told();
  };

  let current = null;
  const restart = () => {
    current?.abort();
    current = new AbortController();
    signal.addEventListener("abort", () => current.abort(), { once: true });
    remember(filters);
    seen = new Set();
    waiting.length = 0;
    body.replaceChildren();
    follow(parameters(filters), current.signal);
    explain(filters.request_id.trim(), current.signal);
  };

  /** Explain the one request that is asked for, as far as what the gateway keeps of it tells. */
  const explain = async (request, until) => {
    answer.replaceChildren();
    if (!request) return;
    try {
      const { explanation } = await api.get(`denials/explanation?${new URLSearchParams({ request_id: request })}`, until);
      answer.replaceChildren(...explained(explanation, { api, signal: until, about: { request_id: request }, answer }));
      announce(explanation.summary);
    } catch (error) {
      if (!until.aborted) answer.replaceChildren(failure(error));
    }
  };

  /** Open the stream, then read what there was before it: nothing falls between the two. */
  const follow = async (wanted, until) => {
    for (let attempt = 0; !until.aborted; attempt += 1) {
      try {
        const opened = () => { attempt = 0; catchUp(wanted, until); };
        for await (const denial of api.events(`denials?${wanted}`, until, opened)) arrived(denial);
      } catch (error) {
        if (until.aborted) return;
        trouble.replaceChildren(failure(error));
      }
      if (until.aborted) return;
      connected = false;
      told();
      await pauseFor(Math.min(2 ** attempt, LONGEST_PAUSE));
    }
  };

  const catchUp = async (wanted, until) => {
    trouble.replaceChildren();
    try {
      const { items } = await api.get(`denials?limit=${PAGE}&${wanted}`, until);
      items.reverse().forEach(arrived);
      connected = true;
      announce(`${items.length} denials`);
    } catch (error) {
      if (!until.aborted) trouble.replaceChildren(failure(error));
    }
    told();
  };

  told();
  restart();
}

function parameters(filters) {
  return new URLSearchParams(Object.entries(filters).filter(([, value]) => value)).toString();
}

function pauseFor(seconds) {
  return new Promise((resolve) => { setTimeout(resolve, seconds * 1000); });
}

/** An id, in one line where there is room. */
function id(text) {
  return h("p", { class: "hint id" }, code(text));
}

function row(denial) {
  const tone = denial.status >= 500 ? "bad" : "fair";
  return [
    time(denial.at),
    h("div", {}, state(denial.reason, tone), denial.detail ? hint(prose(denial.detail)) : null),
    h("div", {}, code(`${denial.method} ${denial.path}`), hint(`route ${denial.route}, answered ${denial.status}`)),
    h("div", {}, denial.issuer, denial.subject_hash ? id(denial.subject_hash) : null),
    h("div", {}, denial.client, h("p", { class: "hint id" },
      h("a", { href: `#/denials?${new URLSearchParams({ request_id: denial.request_id })}` }, code(denial.request_id)))),
  ];
}
