// The user directory: search, and add.

import { announce, breakable, button, failure, field, form, h, hint, input, pageSize, select, state, submit, table } from "./dom.js";
import { time } from "./format.js";

export const title = "Users";

export const STATUSES = { active: "good", pending: "fair", suspended: "bad", locked: "bad", deleted: "plain" };

/** What a user is called, by the first that there is. */
export function nameOf({ display_name: name, email, identities: [first], id }) {
  return name || email || first?.subject || id;
}

/** Where a user is shown. */
export function userPage(id) {
  return `#/users/${encodeURIComponent(id)}`;
}

export function show({ main, api, query, signal, remember }) {
  const filters = { q: query.get("q") ?? "", status: query.get("status") ?? "", tenant: query.get("tenant") ?? "" };
  const results = h("section", { "aria-label": "Users found", class: "stack" });

  const search = async (values) => {
    Object.assign(filters, values);
    remember(filters);
    try {
      const page = await api.get(`users?${wanted(filters)}`, signal);
      results.replaceChildren(found(page, api, filters, signal));
      const many = `${page.items.length}${page.next ? " or more" : ""} found`;
      announce(page.items.length === 0 ? "No user found" : many);
    } catch (error) {
      if (!signal.aborted) results.replaceChildren(failure(error));
    }
  };

  main.append(
    form({ class: "filters", role: "search", "aria-label": "Users" }, search,
      field("E-mail, subject, id or name", input("q", filters.q, { type: "search" }), null, { class: "field wide" }),
      field("Status", select("status", [["", "any"], ...Object.keys(STATUSES)], filters.status)),
      field("Tenant", input("tenant", filters.tenant)),
      submit("Search")),
    results, adding(api, signal),
  );
  return search({});
}

function wanted(filters, after = null) {
  const given = Object.entries({ ...filters, after }).filter(([, value]) => value);
  return new URLSearchParams([["limit", pageSize()], ...given]).toString();
}

function found({ items, next }, api, filters, signal) {
  if (items.length === 0) return h("p", { class: "empty" }, "No user matches.");
  const { element, add } = table("Users", [
    "User", "Status", "Tenant", "Roles", { label: "Subjects", class: "mono break" }, "Changed",
  ], items.map(row));
  const trouble = h("div", {});
  const more = button("Show more", async () => {
    try {
      const page = await api.get(`users?${wanted(filters, next)}`, signal);
      const added = page.items.map((user) => add(row(user)));
      next = page.next;
      more.hidden = !next;
      added[0]?.querySelector("a").focus();
      announce(`${added.length} more users`);
    } catch (error) {
      if (!signal.aborted) trouble.replaceChildren(failure(error));
    }
  }, { hidden: !next });
  return h("div", { class: "panel flush" }, element, trouble, more);
}

function row(user) {
  return [
    h("div", {}, h("a", { href: userPage(user.id) }, nameOf(user)),
      user.email && user.display_name ? hint(user.email) : null),
    state(user.status, STATUSES[user.status] ?? "plain"),
    user.tenant ?? "–",
    user.roles.join(", ") || "–",
    breakable(user.identities.map(({ subject }) => subject).join(", ") || "–"),
    time(user.updated_at) ?? "–",
  ];
}

function adding(api, signal) {
  const issuer = h("select", { name: "issuer", required: true });
  const outcome = h("div", {});
  const details = h("details", { class: "panel acts" }, h("summary", {}, "Add a user"),
    form({ class: "stack" }, async (values) => {
      try {
        const { body } = await api.send("POST", "users", created(values), { signal });
        location.hash = userPage(body.id);
      } catch (error) {
        outcome.replaceChildren(failure(error));
      }
    },
    h("div", { class: "fields" },
      field("Issuer", issuer),
      field("Subject", input("subject", null, { required: true }), "The sub, exactly as in the user’s tokens."),
      field("E-mail", input("email", null, { type: "email" })),
      field("Name", input("display_name")),
      field("Tenant", input("tenant")),
      field("Roles", input("roles"), "Separated by commas.")),
    outcome, h("div", { class: "row" }, submit("Add user"))));
  details.addEventListener("toggle", async () => {
    if (!details.open || issuer.options.length) return;
    try {
      issuer.append(...(await api.get("issuers", signal)).map(({ name }) => h("option", { value: name }, name)));
    } catch (error) {
      outcome.replaceChildren(failure(error));
    }
  });
  return details;
}

function created({ roles, ...values }) {
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
  return { ...given, roles: listed(roles) };
}

/** What is between the commas. */
export function listed(text) {
  return text.split(",").map((item) => item.trim()).filter(Boolean);
}
