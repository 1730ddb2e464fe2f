// The trusted issuers and their keys.

import { announce, busy, button, code, facts, failure, h, state, success, table } from "./dom.js";
import { duration } from "./format.js";

export const title = "Issuers";

export async function show({ main, api, signal }) {
  const list = h("div", { class: "stack" });
  main.append(list);
  const load = async () => {
    const issuers = await api.get("issuers", signal);
    list.replaceChildren(...issuers.map((issuer) => panel(issuer)));
    announce(`${issuers.length} issuers`);
  };

  const panel = (issuer) => {
    const outcome = h("div", { class: "outcome" });
    const standing = state(issuer.ready ? "ready" : "no keys", issuer.ready ? "good" : "bad");
    const refresh = button("Refresh keys", async () => {
      const path = `issuers/${encodeURIComponent(issuer.name)}/refresh`;
      try {
        const { body } = await busy(refresh, () => api.send("POST", path, undefined, { signal }));
        const fresh = panel(body);
        element.replaceWith(fresh);
        fresh.querySelector("button").focus();
        fresh.querySelector(".outcome").append(success(`The keys of ${body.name} have been reloaded.`));
      } catch (error) {
        if (!signal.aborted) outcome.replaceChildren(failure(error));
      }
    }, { "aria-label": `Refresh the keys of ${issuer.name}` });
    const element = h("section", { class: "panel", "aria-label": issuer.name },
      h("div", { class: "row between" }, h("h2", {}, issuer.name), standing),
      facts([
        ["iss", code(issuer.issuer)],
        ["Audiences", issuer.audiences ? issuer.audiences.join(", ") : "any"],
        ["Algorithms", issuer.algorithms.join(", ")],
        ...(issuer.tenants ? [["Tenants", issuer.tenants === "any" ? "any" : issuer.tenants.join(", ")]] : []),
        ["Keys loaded", issuer.age_seconds === null ? "never" : `${duration(issuer.age_seconds)} ago`],
        ...(issuer.skipped.length ? [["Refused keys", h("span", { class: "break" }, issuer.skipped.join("; "))]] : []),
        ...(issuer.last_error ? [["Last error", h("span", { class: "error break" }, issuer.last_error)]] : []),
      ]),
      keys(issuer), h("div", { class: "row acts" }, refresh), outcome);
    return element;
  };

  try {
    await load();
  } catch (error) {
    if (!signal.aborted) list.replaceChildren(failure(error));
  }
}

function keys({ name, keys: known }) {
  if (known.length === 0) return h("p", { class: "empty" }, "There are no keys: the gateway cannot verify this issuer’s tokens.");
  const rows = known.map(({ kid, algorithms, thumbprint }) =>
    [code(kid ?? "none"), algorithms.join(", "), thumbprint ? code(thumbprint) : "not shown"]);
  const { element } = table(`Keys of ${name}`, ["Key id", "Algorithms", "Thumbprint"], rows, { showCaption: true });
  element.classList.add("compact");
  return element;
}
