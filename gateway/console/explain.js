// Why a token is refused, and the fix.

import {
  announce, button, confirm, copyButton, facts, failure, field, form, h, input, notify, prose, select, state, submit,
  success, table,
} from "./dom.js";
import { userPage } from "./users.js";

export const title = "Explain";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const WIDE = { class: "field wide" };
/** What an explanation calls a user by: the id, and in a step of its own any id of a source. */
const USER = /(?<=\b[Uu]ser )([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})|(?<=^user )(\S+)$/;
const OUTCOMES = { pass: "good", fail: "bad", warn: "fair", skipped: "plain" };

export function show({ main, api, query, signal, remember }) {
  const answer = h("section", { "aria-label": "Answer", class: "stack" });
  const still = { spellcheck: "false", autocomplete: "off", autocapitalize: "none" };
  const token = h("textarea", { name: "token", rows: 5, required: true, class: "mono", ...still });
  const url = input("url", query.get("url"), { placeholder: "/orders/42" });
  main.append(
    h("p", { class: "lead" }, "Paste a token. The gateway runs every step of its decision and shows the result. It changes nothing " +
      "and sends the token nowhere else."),
    form({ class: "panel stack" }, async (values) => {
      answer.replaceChildren();
      // A link may be shared: it has the request, and never the token, which a query or a user name may be.
      remember({ method: values.method === "GET" ? "" : values.method, url: withoutSecrets(values.url.trim()) });
      try {
        const about = question(values);
        const { body } = await api.send("POST", "explain", about, { signal });
        answer.replaceChildren(...explained(body, { api, signal, about, answer }));
        answer.querySelector("h2").focus();
        announce(`${body.decision === "allow" ? "Allowed" : "Denied"}. ${body.summary}`);
      } catch (error) {
        if (!signal.aborted) answer.replaceChildren(failure(error));
      }
    },
    field("Token", token,
      "Alone, or as a header or a curl command. A token grants access: if possible, use one of a test user."),
    h("div", { class: "filters" },
      field("Method", select("method", METHODS, query.get("method") ?? "GET")),
      field("URL or path (optional)", url, "With it, the route and its requirements are checked, too.", WIDE)),
    h("div", { class: "row" }, submit("Explain"))),
    answer,
  );
}

/** A URL or path without what may be secret in it. */
function withoutSecrets(url) {
  return url.replace(/[?#].*$/s, "").replace(/^([a-z][a-z0-9+.-]*:)?\/\/[^/]*@/i, "$1//");
}

/** What is asked: the text as it was pasted, because the gateway tells what a request with it would carry. */
function question({ token, method, url }) {
  return url.trim() ? { token, method, url: url.trim() } : { token };
}

/**
 * An explanation. With `offer`, its fix can be applied, if it is a change: `about` says what was explained, and
 * `answer` is where the explanation stands, and the one after the change will.
 */
export function explained({ decision, reason, cause, summary, fix, steps }, offer = null) {
  const allowed = decision === "allow";
  const codes = [["Cause", cause && h("code", {}, cause)], ["Refused as", reason && h("code", {}, reason)]];
  return [
    h("div", { class: `panel verdict ${allowed ? "good" : "bad"}` },
      h("h2", { tabindex: "-1" }, allowed ? "Allowed" : "Denied"),
      h("p", { class: "summary" }, withUsers(summary)),
      allowed && !cause && !reason ? null : facts(codes)),
    fix && h("div", { class: "panel" }, h("h2", {}, "The fix"), h("p", {}, prose(fix.text)),
      pasteable("command", fix.command), pasteable("configuration", fix.config),
      fix.change && offer ? applicable(fix.change, offer) : null),
    h("div", { class: "panel flush" }, h("h2", {}, "Step by step"), walked(steps)),
  ].filter(Boolean);
}

/** Who applied a fix last in this tab: the name for the next one. */
let operator = "";

function applicable(change, offer) {
  const outcome = h("div", {});
  const apply = button("Apply this fix …", async () => {
    const values = await confirm("Apply this change?", change.question ?? "It changes no user.", "Apply", edits(change),
      ...(offer.api.isSession ? [] : [
        field("Your name (optional)", input("operator", operator, { maxlength: 64 }), "The audit log will have it.")]));
    if (values === null) return;
    operator = (values.operator ?? "").trim();
    const body = { ...offer.about, change, ...(operator ? { operator } : {}) };
    try {
      const { body: done } = await offer.api.send("POST", "explain/apply", body, { signal: offer.signal });
      tell(done, offer);
    } catch (error) {
      if (!offer.signal.aborted) notify(outcome, failure(error));
    }
  }, { kind: "primary" });
  return h("div", { class: "stack" }, h("div", { class: "row acts" }, apply), outcome);
}

/** Show what has been done, and the explanation as it is now. */
function tell({ actor, explanation }, offer) {
  const now = explanation.decision === "allow" ? "The request passes now." : (explanation.fix?.text ?? explanation.summary);
  const told = success([`The change has been made. ${now} `, h("a", { href: "#/audit" }, `The audit log has it, by ${actor}.`)]);
  offer.answer.replaceChildren(told, ...explained(explanation, offer));
  told.focus();
}

/** The exact change: each value before and after. */
function edits({ target, edits: values }) {
  return table(`The change of ${target}`, ["Value", "Before", "After"], values.map(({ what, before, after }) => [
    what, before ?? h("span", { class: "none" }, "none"), after ?? h("span", { class: "none" }, "none"),
  ]), { showCaption: true }).element;
}

function pasteable(what, text) {
  if (!text) return null;
  const shown = h("pre", { tabindex: "0", role: "region", "aria-label": `The ${what}` }, h("code", {}, text));
  return h("div", { class: "paste" }, shown, copyButton(text, what));
}

/** A sentence, in which each user is a link. */
function withUsers(text) {
  const parts = [];
  for (let rest = text; rest;) {
    const found = USER.exec(rest);
    const end = found ? found.index : rest.length;
    parts.push(...prose(rest.slice(0, end)));
    if (found) parts.push(h("a", { href: userPage(found[0]) }, found[0]));
    rest = found ? rest.slice(end + found[0].length) : "";
  }
  return parts;
}

function walked(steps) {
  const { element } = table("The steps in order", [
    "Step", { label: "Outcome", class: "outcome" }, { label: "Expected", class: "break" },
    { label: "Found", class: "break" }, { label: "Detail", class: "break" },
  ], steps.map(({ name, outcome, ...words }) => [
    name, state(outcome, OUTCOMES[outcome] ?? "plain"),
    ...[words.expected, words.found, words.detail].map((text) => withUsers(text ?? "")),
  ]));
  element.classList.add("steps");
  return element;
}
