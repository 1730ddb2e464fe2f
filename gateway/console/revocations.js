// Revocations: of one token, of a user’s tokens, of an issuer’s tokens.

import {
  announce, button, code, confirm, failure, field, form, h, hint, input, notify, pageSize, select, submit, success, table,
} from "./dom.js";
import { instantIn, instantInput, time, zoneLabel } from "./format.js";
import { userPage } from "./users.js";

export const title = "Revocations";

const PAGE = pageSize();
/** What is not a kind, but leads to one: the gateway reads the `jti` of the token that it is given. */
const PASTED = ["token", "one token, pasted"];
const KINDS = { jti: "one token, by its jti", user: "a user’s tokens", issuer: "an issuer’s tokens" };

export function show({ main, api, query, signal, remember }) {
  const expired = h("input", { type: "checkbox", id: "expired", checked: query.get("expired") === "true" });
  const outcome = h("div", {});
  const list = h("section", { "aria-label": "Revocations", class: "panel flush" });

  const load = async () => {
    remember({ expired: expired.checked ? "true" : "" });
    const page = await api.get(`revocations?limit=${PAGE}&expired=${expired.checked}`, signal);
    list.replaceChildren(...listed(page));
    announce(`${page.items.length}${page.next ? " or more" : ""} revocations`);
  };

  const act = async (work, done) => {
    try {
      await work();
      await load();
      if (done) notify(outcome, success(done));
      return true;
    } catch (error) {
      if (!signal.aborted) notify(outcome, failure(error));
      return false;
    }
  };

  const lift = async (key) => {
    const sure = await confirm("Lift this revocation?",
      "All gateways admit its tokens again, unless something else refuses them.", "Lift");
    const which = new URLSearchParams(Object.entries(key).filter(([, given]) => given));
    if (sure === null) return;
    await act(() => api.send("DELETE", `revocations?${which}`, undefined, { signal }), "The revocation has been lifted.");
  };

  const row = ({ kind, issuer, value, revoked_at: at, expires_at: until, reason, revoked_by: by }) => [
    KINDS[kind] ?? kind,
    h("div", {}, kind === "user" ? h("a", { href: userPage(value) }, code(value)) : code(value ?? "every token"),
      issuer ? hint(issuer) : null),
    time(at), time(until) ?? "for ever", reason ?? "–", by ?? "–",
    button("Lift", () => lift({ kind, issuer, value }),
      { kind: "quiet acts", "aria-label": `Lift the revocation of ${value ?? issuer}` }),
  ];

  const listed = ({ items, next }) => {
    if (items.length === 0) return [h("p", { class: "empty" }, "There are no revocations.")];
    const { element, add } = table("Revocations", [
      "What", "Which", "Since", "Until", "Reason", "By", { label: "Change", class: "acts" },
    ], items.map(row));
    const more = button("Show more", async () => {
      const wanted = new URLSearchParams({ limit: PAGE, expired: expired.checked, after: next });
      try {
        const page = await api.get(`revocations?${wanted}`, signal);
        page.items.forEach((item) => add(row(item)));
        next = page.next;
        more.hidden = !next;
      } catch (error) {
        if (!signal.aborted) outcome.replaceChildren(failure(error));
      }
    }, { hidden: !next });
    return [element, more];
  };

  expired.addEventListener("change", () => act(() => {}, null));
  main.append(revoking(api, act, outcome, signal), outcome,
    h("div", { class: "row" }, expired, h("label", { for: "expired" }, "Show expired revocations")), list);
  return act(() => {}, null);
}

function revoking(api, act, outcome, signal) {
  const kind = select("kind", [PASTED, ...Object.entries(KINDS)], "token");
  const token = h("textarea", {
    name: "token", rows: 4, class: "mono", spellcheck: "false", autocomplete: "off", autocapitalize: "none",
  });
  const until = instantInput("until");
  const issuer = h("select", { name: "issuer" });
  const value = input("value");
  const fields = {
    token: field("Token", token, "With or without “Bearer”. It is sent to the gateway alone, and not kept.", { class: "field wide" }),
    issuer: field("Issuer", issuer), value: field("Which", value),
  };
  const fit = () => {
    fields.token.hidden = kind.value !== "token";
    fields.issuer.hidden = ["token", "user"].includes(kind.value);
    fields.value.hidden = ["token", "issuer"].includes(kind.value);
    token.required = kind.value === "token";
    value.required = !fields.value.hidden;
    fields.value.querySelector("label").textContent = kind.value === "user" ? "User id" : "jti";
  };
  kind.addEventListener("change", fit);
  fit();
  api.get("issuers", signal).then(
    (issuers) => issuer.append(...issuers.map(({ name }) => h("option", { value: name }, name))),
    (error) => { if (!signal.aborted) outcome.replaceChildren(failure(error)); },
  );
  const element = form({ class: "stack" }, async (values) => {
    const pasted = values.kind === "token";
    const sure = pasted || values.kind === "jti" || await confirm(`Revoke all tokens of this ${values.kind}?`,
      "All gateways refuse the tokens issued until now, within milliseconds.", "Revoke tokens") !== null;
    if (!sure) return;
    const body = revocation({ ...values, until: instantIn(until) });
    const send = () => api.send("POST", pasted ? "revocations/token" : "revocations", body, { signal });
    if (await act(send, "The revocation counts in all gateways.")) {
      element.reset();
      fit();
    }
  },
  h("div", { class: "fields" }, field("What", kind), fields.token, fields.issuer, fields.value,
    field(["Until (optional, ", zoneLabel(), ")"], until),
    field("Reason (optional)", input("reason"))),
  h("div", { class: "row" }, submit("Revoke", "danger")));
  return h("details", { class: "panel acts" }, h("summary", {}, "Revoke"), element);
}

function revocation({ kind, token, issuer, value, until, reason }) {
  return {
    ...(kind === "token" ? { token: token.trim() } : {
      kind,
      ...(kind === "user" ? {} : { issuer }),
      ...(kind === "issuer" ? {} : { value: value.trim() }),
    }),
    ...(until ? { until } : {}),
    ...(reason ? { reason } : {}),
  };
}
