// The latest denied requests, and new ones as they happen.

import { explained } from "./explain.js";
import { announce, button, code, facts, failure, field, form, h, hint, input, pageSize, prose, select, state, submit, table } from "./dom.js";
import { instantIn, instantInput, time, zoneLabel } from "./format.js";
import { userPage } from "./users.js";

export const title = "Denials";

/** The filters, and what they are called. */
const FILTERS = {
  request_id: "Request id", reason: "Reason", issuer: "Issuer", route: "Route", subject: "Subject or hash",
  user_id: "User id", since: "Since", client: "Client", shadow: "Verdict",
};
/** What was refused, or what only was counted, because something is in shadow. */
const VERDICTS = [["", "refused"], ["true", "passed, in shadow"]];
/** Denials that are listed at first; each “Show older” adds as many. */
const SHOWN = pageSize();
const HELD = 200;
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
  const empty = h("p", { class: "empty" });
  const since = instantInput("since", filters.since);
  const verdict = select("shadow", VERDICTS, filters.shadow);
  const fields = Object.entries(filters).map(([name, value]) => {
    if (name === "since") return field(["Since (", zoneLabel(), ")"], since);
    if (name === "shadow") return field(FILTERS[name], verdict);
    return field(FILTERS[name], input(name, value, { list: name === "reason" ? "reasons" : null }));
  });
  const pause = button("Pause", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    if (!paused) waiting.splice(0).forEach(insert);
    tell();
  });

  const older = button("Show older", () => showOlder(), { hidden: true });
  let seen = new Set();
  /** Where older denials continue, and how many rows the page may have. */
  let next = null;
  let room = SHOWN;
  let connected = false;
  let paused = false;
  const waiting = [];

  main.append(
    form({ class: "filters", "aria-label": "Filter" }, (values) => { Object.assign(filters, trimmed(values), { since: instantIn(since) }); restart(); },
      fields, reasons, submit("Filter", null)),
    answer, h("div", { class: "row" }, pause, stream), trouble,
    h("div", { class: "panel flush" }, element, empty, older),
  );

  const tell = () => {
    const held = paused && waiting.length ? `, ${waiting.length} held back` : "";
    stream.replaceChildren(state(connected ? `live${held}` : "connecting …", connected ? "good" : "fair"));
    empty.textContent = nothing(filters);
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
    while (body.rows.length > room) {
      // What falls off the end is found again below it.
      next = body.lastChild.previousElementSibling.dataset.id;
      older.hidden = false;
      body.lastChild.remove();
    }
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
    if (waiting.length > HELD) waiting.shift();
    tell();
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
    next = null;
    room = SHOWN;
    older.hidden = true;
    follow(parameters(filters), current.signal);
    explain(filters.request_id, current.signal);
  };

  /** Explain the one request that is asked for, as far as what the gateway keeps of it tells. */
  const explain = async (request, until) => {
    answer.replaceChildren();
    if (!request) return;
    try {
      const { denial, explanation } = await api.get(
        `denials/explanation?${new URLSearchParams({ request_id: request })}`, until);
      if (denial.shadow !== (filters.shadow === "true")) {
        // The list is to have it, too.
        filters.shadow = verdict.value = denial.shadow ? "true" : "";
        restart();
        return;
      }
      answer.replaceChildren(
        ...explained(explanation, { api, signal: until, about: { request_id: request }, answer }), told(denial));
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
      tell();
      await pauseFor(Math.min(2 ** attempt, LONGEST_PAUSE));
    }
  };

  const catchUp = async (wanted, until) => {
    trouble.replaceChildren();
    try {
      const page = await api.get(`denials?limit=${SHOWN}&${wanted}`, until);
      const { items } = page;
      items.reverse().forEach(arrived);
      next ??= page.next;
      older.hidden = !next;
      connected = true;
      announce(`${items.length} denials`);
    } catch (error) {
      if (!until.aborted) trouble.replaceChildren(failure(error));
    }
    tell();
  };

  const showOlder = async () => {
    const until = current.signal;
    try {
      const page = await api.get(`denials?limit=${SHOWN}&after=${next}&${parameters(filters)}`, until);
      room += page.items.length;
      for (const denial of page.items) {
        seen.add(denial.id);
        add(row(denial)).dataset.id = denial.id;
      }
      next = page.next;
      older.hidden = !next;
      announce(`${page.items.length} older denials`);
    } catch (error) {
      if (!until.aborted) trouble.replaceChildren(failure(error));
    }
  };

  tell();
  restart();
}

/** The latest denials of one user, for its page. */
export async function latestDenials(api, userId, signal) {
  const which = new URLSearchParams({ user_id: userId });
  const { items } = await api.get(`denials?limit=5&${which}`, signal);
  if (items.length === 0) return h("p", { class: "empty" }, "None of the latest denials was this user’s.");
  const { element } = table("Recent denials", [
    { label: "Time", class: "when" }, "Reason", "Request", "Client and id",
  ], items.map((denial) => {
    const [at, reason, request, , client] = row(denial);
    return [at, reason, request, client];
  }));
  return h("div", {}, element, h("p", { class: "more" }, h("a", { href: `#/denials?${which}` }, "All denials of this user")));
}

/** The request that was denied, and the ways from it. */
function told(denial) {
  const subject = denial.subject_hash && new URLSearchParams({ subject: denial.subject_hash });
  return h("div", { class: "panel" }, h("h2", {}, "The request"),
    facts([
      ["Time", time(denial.at)], ["Request", code(`${denial.method} ${denial.path}`)], ["Route", denial.route],
      ["Verdict", denial.shadow ? "passed, in shadow" : `refused, ${denial.status}`],
      ["Issuer", denial.issuer], ["Client", denial.client],
      ["User", denial.user_id && h("a", { href: userPage(denial.user_id) }, code(denial.user_id))],
      ["Subject", subject && h("a", { href: `#/denials?${subject}` }, code(denial.subject_hash))],
    ]));
}

/** What was written, without the space around it that copying brings; a subject may have some of its own. */
function trimmed({ subject, ...values }) {
  return { subject, ...Object.fromEntries(Object.entries(values).map(([name, value]) => [name, value.trim()])) };
}

function parameters(filters) {
  return new URLSearchParams(Object.entries(filters).filter(([, value]) => value)).toString();
}

/** What an empty list says. */
function nothing({ shadow, ...filters }) {
  if (Object.values(filters).some(Boolean)) return "No such request is among the latest denials. New ones appear here automatically.";
  return shadow
    ? "No request has passed in shadow that would be refused. New ones appear here automatically."
    : "No request has been denied. New denials appear here automatically.";
}

function pauseFor(seconds) {
  return new Promise((resolve) => { setTimeout(resolve, seconds * 1000); });
}

/** An id, in one line where there is room. */
function id(text) {
  return h("p", { class: "hint id" }, code(text));
}

function row(denial) {
  const tone = denial.shadow ? "plain" : denial.status >= 500 ? "bad" : "fair";
  const answered = denial.shadow ? `passed in shadow, else ${denial.status}` : `answered ${denial.status}`;
  const shown = { request_id: denial.request_id, ...(denial.shadow ? { shadow: "true" } : {}) };
  return [
    time(denial.at),
    h("div", {}, state(denial.reason, tone), denial.detail ? hint(prose(denial.detail)) : null),
    h("div", {}, code(`${denial.method} ${denial.path}`), hint(`route ${denial.route}, ${answered}`)),
    h("div", {}, denial.issuer, denial.subject_hash ? id(denial.subject_hash) : null,
      denial.user_id ? h("p", { class: "hint" }, h("a", { href: userPage(denial.user_id) }, "user")) : null),
    h("div", {}, denial.client, h("p", { class: "hint id" },
      h("a", { href: `#/denials?${new URLSearchParams(shown)}` }, code(denial.request_id)))),
  ];
}
