// The audit log: each change by an operator, with its author.

import { announce, button, code, failure, field, form, h, hint, input, pageSize, submit, table } from "./dom.js";
import { time } from "./format.js";
import { userPage } from "./users.js";

export const title = "Audit";

const PAGE = pageSize();

export function show({ main, api, query, signal, remember }) {
  const filters = { target: query.get("target") ?? "" };
  const results = h("section", { "aria-label": "Changes", class: "panel flush" });
  const load = async (values) => {
    Object.assign(filters, values, { target: (values.target ?? filters.target).trim() });
    remember(filters);
    try {
      const page = await api.get(`audit?${wanted(filters, PAGE)}`, signal);
      results.replaceChildren(...listed(page, api, filters, signal));
      announce(`${page.items.length}${page.next ? " or more" : ""} changes`);
    } catch (error) {
      if (!signal.aborted) results.replaceChildren(failure(error));
    }
  };
  main.append(
    form({ class: "filters", "aria-label": "Filter" }, load,
      field("What was changed", input("target", filters.target, { placeholder: "user:<id>" }), null, { class: "field wide" }),
      submit("Filter", null)),
    results);
  return load({});
}

/** The parameters of a page of the log. */
function wanted(filters, limit, after = null) {
  return new URLSearchParams(Object.entries({ ...filters, limit, after }).filter(([, value]) => value)).toString();
}

/** The latest changes of one thing, for its own page. */
export async function latestChanges(api, target, signal) {
  const { items } = await api.get(`audit?${wanted({ target }, 5)}`, signal);
  if (items.length === 0) return h("p", { class: "empty" }, "No change by an operator is recorded.");
  return h("div", {}, entries("Changes", items).element,
    h("p", { class: "more" }, h("a", { href: `#/audit?${new URLSearchParams({ target })}` }, "All changes")));
}

function listed({ items, next }, api, filters, signal) {
  if (items.length === 0) return [h("p", { class: "empty" }, "No change is recorded.")];
  const { element, add } = entries("Changes, the latest first", items);
  const trouble = h("div", {});
  const more = button("Show more", async () => {
    try {
      const page = await api.get(`audit?${wanted(filters, PAGE, next)}`, signal);
      page.items.forEach((item) => add(row(item)));
      next = page.next;
      more.hidden = !next;
      announce(`${page.items.length} more changes`);
    } catch (error) {
      if (!signal.aborted) trouble.replaceChildren(failure(error));
    }
  }, { hidden: !next });
  return [element, trouble, more];
}

function entries(caption, items) {
  return table(caption, [
    { label: "Time", class: "when" }, { label: "Change", class: "when" }, { label: "Of", class: "break" }, { label: "By", class: "break" },
    { label: "Detail", class: "break" },
  ], items.map(row));
}

function row({ at, actor, action, target, detail, request_id: requestId }) {
  return [time(at), h("code", {}, action), aimed(target), h("div", {}, actor, hint("request ", code(requestId))), h("div", {}, details(detail))];
}

function aimed(target) {
  const [kind, id] = [target.slice(0, target.indexOf(":")), target.slice(target.indexOf(":") + 1)];
  return kind === "user" ? h("a", { href: userPage(id) }, code(target)) : code(target);
}

function details(detail) {
  return Object.entries(detail).filter(([, value]) => value !== null).map(([name, value]) =>
    h("p", { class: name === "reason" ? null : "hint" }, `${name}: `,
      typeof value === "string" ? value : code(JSON.stringify(value))));
}
