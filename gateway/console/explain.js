// Why a token is refused, and the fix.

import {
  announce, copyButton, facts, failure, field, form, h, input, prose, select, state, submit, table,
} from "./dom.js";

export const title = "Explain";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const WIDE = { class: "field wide" };
const OUTCOMES = { pass: "good", fail: "bad", warn: "fair", skipped: "plain" };

export function show({ main, api, signal }) {
  const answer = h("section", { "aria-label": "Answer", class: "stack" });
  const still = { spellcheck: "false", autocomplete: "off", autocapitalize: "none" };
  const token = h("textarea", { name: "token", rows: 5, required: true, class: "mono", ...still });
  const url = input("url", null, { placeholder: "/orders/42" });
  main.append(
    h("p", { class: "lead" }, "Paste a token. The gateway runs every step of its decision and shows the result. It changes nothing " +
      "and sends the token nowhere else."),
    form({ class: "panel stack" }, async (values) => {
      answer.replaceChildren();
      try {
        const { body } = await api.send("POST", "explain", question(values), { signal });
        answer.replaceChildren(...explained(body));
        answer.querySelector("h2").focus();
        announce(`${body.decision === "allow" ? "Allowed" : "Denied"}. ${body.summary}`);
      } catch (error) {
        if (!signal.aborted) answer.replaceChildren(failure(error));
      }
    },
    field("Token", token,
      "With or without “Bearer”. A token grants access: if possible, use one of a test user."),
    h("div", { class: "filters" },
      field("Method", select("method", METHODS, "GET")),
      field("URL or path (optional)", url, "With it, the route and its requirements are checked, too.", WIDE)),
    h("div", { class: "row" }, submit("Explain"))),
    answer,
  );
}

function question({ token, method, url }) {
  const bare = token.trim().replace(/^(authorization:\s*)?bearer\s+/i, "");
  return url.trim() ? { token: bare, method, url: url.trim() } : { token: bare };
}

export function explained({ decision, reason, cause, summary, fix, steps }) {
  const allowed = decision === "allow";
  const codes = [["Cause", cause && h("code", {}, cause)], ["Refused as", reason && h("code", {}, reason)]];
  return [
    h("div", { class: `panel verdict ${allowed ? "good" : "bad"}` },
      h("h2", { tabindex: "-1" }, allowed ? "Allowed" : "Denied"),
      h("p", { class: "summary" }, prose(summary)),
      allowed && !cause ? null : facts(codes)),
    fix && h("div", { class: "panel" }, h("h2", {}, "The fix"), h("p", {}, prose(fix.text)),
      pasteable("command", fix.command), pasteable("configuration", fix.config)),
    h("div", { class: "panel flush" }, h("h2", {}, "Step by step"), walked(steps)),
  ].filter(Boolean);
}

function pasteable(what, text) {
  if (!text) return null;
  const shown = h("pre", { tabindex: "0", role: "region", "aria-label": `The ${what}` }, h("code", {}, text));
  return h("div", { class: "paste" }, shown, copyButton(text, what));
}

function walked(steps) {
  const { element } = table("The steps in order", [
    "Step", { label: "Outcome", class: "outcome" }, { label: "Expected", class: "break" },
    { label: "Found", class: "break" }, { label: "Detail", class: "break" },
  ], steps.map(({ name, outcome, ...words }) => [
    name, state(outcome, OUTCOMES[outcome] ?? "plain"),
    ...[words.expected, words.found, words.detail].map((text) => prose(text ?? "")),
  ]));
  element.classList.add("steps");
  return element;
}
