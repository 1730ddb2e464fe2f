// The audit log: each change through the API and by commands, with its author.

import { announce, button, code, failure, h, table } from "./dom.js";
import { time } from "./format.js";
import { userPage } from "./users.js";

export const title = "Audit";

const PAGE = 100;

export async function show({ main, api, signal }) {
  const outcome = h("div", {});
  const { items, next } = await api.get(`audit?limit=${PAGE}`, signal);
  let after = next;
  const { element, add } = table("Changes, the latest first", [
    { label: "Time", class: "when" }, "Author", "Action", "Target", { label: "Detail", class: "break" }, "Request or run",
  ], items.map(row));
  const more = button("Show more", async () => {
    try {
      const page = await api.get(`audit?${new URLSearchParams({ limit: PAGE, after })}`, signal);
      page.items.forEach((item) => add(row(item)));
      after = page.next;
      more.hidden = !after;
    } catch (error) {
      if (!signal.aborted) outcome.replaceChildren(failure(error));
    }
  }, { hidden: !next });
  announce(`${items.length}${next ? " or more" : ""} changes`);
  main.append(outcome, h("div", { class: "panel flush" },
    items.length ? element : h("p", { class: "empty" }, "There were no changes."), more));
}

function row({ at, actor, action, target, detail, request_id: request }) {
  const [kind, id] = [target.slice(0, target.indexOf(":")), target.slice(target.indexOf(":") + 1)];
  return [
    time(at), actor, code(action), kind === "user" ? h("a", { href: userPage(id) }, code(id)) : target,
    Object.entries(detail).map(([name, value]) => `${name}: ${words(value)}`).join("; "), code(request),
  ];
}

function words(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
