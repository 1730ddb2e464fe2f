// What is configured, without secrets: the gateway itself leaves them out.

import { announce, breakable, facts, failure, field, form, h, input, submit, table } from "./dom.js";
import { time } from "./format.js";

export const title = "Configuration";

export async function show({ main, api, query, signal, remember }) {
  const filters = { q: query.get("q") ?? "", defaults: query.get("defaults") === "true" };
  const sections = h("div", { class: "stack" });
  let configuration;
  try {
    configuration = await api.get("configuration", signal);
  } catch (error) {
    if (!signal.aborted) main.append(failure(error));
    return;
  }
  const defaults = h("input", { type: "checkbox", id: "defaults", checked: filters.defaults });
  const draw = () => {
    remember({ q: filters.q, defaults: filters.defaults ? "true" : "" });
    const wanted = filters.q.trim().toLowerCase();
    const shown = configuration.settings.filter(({ name, value, given }) => (given || filters.defaults) &&
      (name.toLowerCase().includes(wanted) || text(value).toLowerCase().includes(wanted)));
    sections.replaceChildren(...grouped(shown, wanted !== ""));
    if (shown.length === 0) sections.append(h("p", { class: "empty" }, "No setting matches."));
    announce(`${shown.length} settings`);
  };
  defaults.addEventListener("change", () => { filters.defaults = defaults.checked; draw(); });
  main.append(
    h("div", { class: "panel" }, facts([["Version", configuration.version], ["Read", time(configuration.read_at)]])),
    form({ class: "filters", role: "search", "aria-label": "Settings" }, ({ q }) => { filters.q = q; draw(); },
      field("Setting or value", input("q", filters.q, { type: "search" }), null, { class: "field wide" }), submit("Search", null)),
    h("div", { class: "row" }, defaults, h("label", { for: "defaults" }, "Show defaults, too")), sections);
  draw();
}

/** One part for each section of the file: all closed, unless something is searched for. */
function grouped(settings, open) {
  const groups = new Map();
  for (const setting of settings) {
    const section = /^[^.[]+(?:\[[^\]]*\])?/.exec(setting.name)[0];
    groups.set(section, [...(groups.get(section) ?? []), setting]);
  }
  return [...groups].map(([section, found]) => {
    const { element } = table(`Settings of ${section}`, [
      "Setting", "Value",
    ], found.map(({ name, value, given }) => [
      h("code", {}, steps(name)), h("div", {}, h("code", {}, breakable(text(value))), given ? null : h("span", { class: "hint" }, " default"))]));
    return h("details", { class: "panel flush", open },
      h("summary", {}, section, " ", h("span", { class: "hint" }, String(found.length))), element);
  });
}

/** A place, which may be broken behind each of its steps. */
function steps(name) {
  return name.split(/(?<=[.\]])/).flatMap((step, index) => (index ? [h("wbr", {}), step] : [step]));
}

function text(value) {
  if (value === null) return "null";
  return typeof value === "string" ? value : JSON.stringify(value);
}
