// Replay: recorded requests under a new configuration, which is decided by and never applied.

import { announce, code, facts, failure, field, form, h, hint, state, submit, table } from "./dom.js";
import { number, time } from "./format.js";
import { userPage } from "./users.js";

export const title = "Replay";

/** Bytes of a recorded file: with the configuration, no more fits into a request. */
const LARGEST = 7 * 1024 * 1024;

export function show({ main, api, person, signal }) {
  main.append(h("p", { class: "lead" }, "Paste a new configuration. The gateway decides recorded requests by it and shows whose " +
    "verdict changes. It applies nothing, keeps nothing of the text, and reads neither variables nor files for it."));
  if (person && person.role !== "operator") {
    main.append(h("p", { class: "empty" }, "This needs the role of an operator: it shows requests of all users."));
    return;
  }
  const still = { spellcheck: "false", autocomplete: "off", autocapitalize: "none" };
  const configuration = h("textarea", { name: "configuration", rows: 14, required: true, class: "mono", ...still });
  const from = h("input", { type: "file", accept: ".yaml,.yml" });
  const records = h("input", { type: "file", accept: ".jsonl" });
  const answer = h("section", { "aria-label": "Answer", class: "stack" });
  from.addEventListener("change", async () => {
    const [file] = from.files;
    if (file) configuration.value = await file.text();
  });
  main.append(
    form({ class: "panel stack" }, async () => {
      answer.replaceChildren();
      announce("The recorded requests are being decided");
      try {
        const body = { configuration: configuration.value, records: await recorded(records.files[0]) };
        const { body: found } = await api.send("POST", "replay", body, { signal });
        answer.replaceChildren(...told(found));
        answer.querySelector("h2").focus();
        announce(`${number(found.changed)} verdicts change`);
      } catch (error) {
        if (!signal.aborted) answer.replaceChildren(failure(error));
      }
    },
    field("New configuration", configuration, "The whole file. It needs no secrets: write ${NAME} in place of each."),
    h("div", { class: "fields" },
      field("From a file (optional)", from),
      field("Recorded file (optional)", records, "A file of the setting record. Without it, what this gateway has recorded.")),
    h("div", { class: "row" }, submit("Replay"))),
    answer);
}

/** The text of a recorded file; null without one. */
async function recorded(file) {
  if (!file) return null;
  if (file.size > LARGEST) {
    throw Object.assign(new Error("Use gateway replay for it, or give the last part of the file."),
      { title: `The recorded file is larger than ${LARGEST / 1024 / 1024} MiB` });
  }
  return file.text();
}

function told({ requests, changed, undecided, truncated, unread, groups }) {
  const listed = groups.reduce((total, { count }) => total + count, 0);
  return [
    h("div", { class: `panel verdict ${changed ? "bad" : "good"}` },
      h("h2", { tabindex: "-1" }, changed ? `${number(changed)} ${changed === 1 ? "verdict changes" : "verdicts change"}` : "No verdict changes"),
      facts([
        ["Requests", number(requests)], ["Cannot be decided", number(undecided)],
        ...(unread.length ? [["Secrets, not read", unread.join(", ")]] : []),
      ]),
      truncated ? hint("There are more records: those of the newest files were decided.") : null,
      listed < changed ? hint(`${number(groups.length)} groups are listed; gateway replay lists all.`) : null),
    ...groups.map(group),
  ];
}

function group({ route, before, after, count, requests }) {
  const { element } = table(`Requests of ${route}: ${before}, then ${after}`, [
    { label: "Time", class: "when" }, { label: "Request", class: "break" }, { label: "User", class: "break" },
    { label: "Detail", class: "break" },
  ], requests.map(({ method, path, user, at, detail }) => [
    time(at), code(`${method} ${path}`), user ? h("a", { href: userPage(user) }, code(user)) : "none", detail ?? "",
  ]));
  const verdict = (word) => state(word, word === "allow" ? "good" : "fair");
  return h("section", { class: "panel flush", "aria-label": `${route}: ${before} to ${after}` },
    h("h2", {}, `Route ${route}: ${number(count)}`),
    h("p", { class: "change" }, verdict(before), " → ", verdict(after)), element,
    count > requests.length ? h("p", { class: "more" }, `The first ${requests.length} are shown.`) : null);
}
