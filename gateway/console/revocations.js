// Revocations: of one token, of a user’s tokens, of an issuer’s tokens.

import {
  announce, button, code, confirm, failure, field, form, h, hint, input, notify, select, submit, success, table,
} from "./dom.js";
import { time } from "./format.js";
import { userPage } from "./users.js";

export const title = "Revocations";

const KINDS = { jti: "one token, by its jti", user: "a user’s tokens", issuer: "an issuer’s tokens" };

export function show({ main, api, query, signal, remember }) {
  const expired = h("input", { type: "checkbox", id: "expired", checked: query.get("expired") === "true" });
  const outcome = h("div", {});
  const list = h("section", { "aria-label": "Revocations", class: "panel flush" });

  const load = async () => {
    remember({ expired: expired.checked ? "true" : "" });
    const page = await api.get(`revocations?limit=100&expired=${expired.checked}`, signal);
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
      { kind: "quiet", "aria-label": `Lift the revocation of ${value ?? issuer}` }),
  ];

  const listed = ({ items, next }) => {
    if (items.length === 0) return [h("p", { class: "empty" }, "There are no revocations.")];
    const { element, add } = table("Revocations", [
      "What", "Which", "Since", "Until", "Reason", "By", "Change",
    ], items.map(row));
    const more = button("Show more", async () => {
      const wanted = new URLSearchParams({ limit: 100, expired: expired.checked, after: next });
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
  const kind = select("kind", Object.entries(KINDS), "jti");
  const issuer = h("select", { name: "issuer" });
  const value = input("value");
  const fields = { issuer: field("Issuer", issuer), value: field("Which", value) };
  const fit = () => {
    fields.issuer.hidden = kind.value === "user";
    fields.value.hidden = kind.value === "issuer";
    value.required = kind.value !== "issuer";
    fields.value.querySelector("label").textContent = kind.value === "user" ? "User id" : "jti";
  };
  kind.addEventListener("change", fit);
  fit();
  api.get("issuers", signal).then(
    (issuers) => issuer.append(...issuers.map(({ name }) => h("option", { value: name }, name))),
    (error) => { if (!signal.aborted) outcome.replaceChildren(failure(error)); },
  );
  const element = form({ class: "stack" }, async (values) => {
    const send = () => api.send("POST", "revocations", revocation(values), { signal });
    if (await act(send, "The revocation counts in all gateways.")) {
      element.reset();
      fit();
    }
  },
  h("div", { class: "fields" }, field("What", kind), fields.issuer, fields.value,
    field("Until (optional)", input("until", null, { type: "datetime-local" })),
    field("Reason (optional)", input("reason"))),
  h("div", { class: "row" }, submit("Revoke", "danger")));
  return h("details", { class: "panel" }, h("summary", {}, "Revoke"), element);
}

function revocation({ kind, issuer, value, until, reason }) {
  return {
    kind,
    ...(kind === "user" ? {} : { issuer }),
    ...(kind === "issuer" ? {} : { value: value.trim() }),
    ...(until ? { until: new Date(until).toISOString() } : {}),
    ...(reason ? { reason } : {}),
  };
}
