// Elements. Text always becomes a text node: this console never parses text as markup.

/** Make an element. Attributes named on… are listeners, true and false set or leave out an attribute. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

let lastId = 0;

/** An id that no other element has. */
export function newId(stem) {
  lastId += 1;
  return `${stem}-${lastId}`;
}

/** Have a screen reader say something, once it is done with what it says. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** Words of lesser weight. */
export function hint(...children) {
  return h("p", { class: "hint" }, children);
}

/** A value to the letter, which is broken behind its punctuation if it must be, and only then within a word. */
export function code(value) {
  return h("code", { class: "break" }, typeof value === "string" ? breakable(visible(value)) : value);
}

/** Characters that cannot be seen, some of which turn a text to the other direction. */
const UNSEEN = /[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** A text to the letter: what could not be seen is written as in JSON. */
function visible(text) {
  return text.replace(UNSEEN, (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** A sentence, in which what stands between backticks is set as code. */
export function prose(text) {
  return text.split(/`([^`]+)`/).flatMap((part, index) => (index % 2 ? h("code", {}, part) : breakable(part)));
}

/** A text whose long words, such as URLs, may be broken behind their punctuation, and not within a name. */
export function breakable(text) {
  return text.split(/(\S{20,})/).flatMap((part, index) => (index % 2
    ? part.split(/(?<=[/.:@?&=_-])/).flatMap((piece, place) => (place ? [h("wbr", {}), piece] : [piece]))
    : [part]));
}

/**
 * Let long words within an element be broken, if they must be, or a table would be as wide as they are: behind
 * their punctuation, and every four characters where there is none.
 */
function loosened(element) {
  const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const long = [];
  while (texts.nextNode()) if (/\S{21}/u.test(texts.currentNode.data)) long.push(texts.currentNode);
  for (const text of long) {
    text.replaceWith(...breakable(text.data).flatMap((part) => (typeof part === "string" && /\S{21}/u.test(part)
      ? part.match(/\S{1,4}|\s+/gu).flatMap((piece) => (piece.trim() ? [piece, h("wbr", {})] : [piece]))
      : [part])));
  }
  return element;
}

/** A button. Its kind is its style: "primary", "danger" or "quiet". */
export function button(label, onclick, { kind = null, ...attributes } = {}) {
  return h("button", { type: "button", class: kind, onclick, ...attributes }, label);
}

/** What ends a form. */
export function submit(label, kind = "primary") {
  return h("button", { type: "submit", class: kind }, label);
}

/** A line to write in, in which nothing is corrected. */
export function input(name, value = null, attributes = {}) {
  return h("input", { name, value, autocomplete: "off", autocapitalize: "none", spellcheck: "false", ...attributes });
}

/** A field with its label, a text or a list of texts and elements, above and, where there is one, its hint below. */
export function field(label, control, help = null, attributes = {}) {
  control.id ||= newId("field");
  const described = help === null ? null : h("p", { class: "hint", id: `${control.id}-hint` }, help);
  if (described) control.setAttribute("aria-describedby", described.id);
  return h("div", { class: "field", ...attributes }, h("label", { for: control.id }, ...[label].flat()), control, described);
}

/** A choice; options are [value, label] or plain values. */
export function select(name, options, chosen = "") {
  return h("select", { name }, options.map((option) => {
    const [value, label] = Array.isArray(option) ? option : [option, option];
    return h("option", { value, selected: value === chosen }, label);
  }));
}

/** A form whose submission runs `act(values)`; its buttons rest until that is done. */
export function form(attributes, act, ...children) {
  const element = h("form", attributes, ...children);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (element.getAttribute("aria-busy") === "true") return;
    await busy(element, () => act(Object.fromEntries(new FormData(element))));
  });
  return element;
}

/** Run something while an element says that it is at work. */
export async function busy(element, work) {
  element.setAttribute("aria-busy", "true");
  try {
    return await work();
  } finally {
    element.removeAttribute("aria-busy");
  }
}

/**
 * A table. Columns are labels, or {label, numeric?, class?}; rows are arrays of cells, the first of which
 * heads its row. The caption is for who cannot see the heading above, unless it is to be shown.
 * Roles are written out, for a narrow screen shows each row as a block, which takes the implied ones away.
 */
export function table(caption, labels, rows, { showCaption = false } = {}) {
  const columns = labels.map((label) => (typeof label === "string" ? { label } : label));
  const named = ({ numeric, class: given }) => [numeric && "numeric", given].filter(Boolean).join(" ") || null;
  const cells = (row) => row.map((cell, index) => {
    const attributes = { "data-label": columns[index].label, class: named(columns[index]) };
    // On a narrow screen, a sentence of several parts stays one block beside its label.
    const content = Array.isArray(cell) && cell.length > 1 ? h("span", {}, cell) : cell;
    return loosened(index === 0
      ? h("th", { scope: "row", role: "rowheader", ...attributes }, content)
      : h("td", { role: "cell", ...attributes }, content));
  });
  const head = columns.map((column) =>
    h("th", { scope: "col", role: "columnheader", class: named(column) }, column.label));
  const body = h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" }, cells(row))));
  const element = h("table", { role: "table" },
    h("caption", { class: showCaption ? null : "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), body);
  return { element, body, add: (row, { first = false } = {}) => {
    const made = h("tr", { role: "row" }, cells(row));
    if (first) body.prepend(made);
    else body.append(made);
    return made;
  } };
}

/** A state: a word with a coloured dot. The tone is "good", "fair", "bad" or "plain". */
export function state(word, tone) {
  return h("span", { class: `state ${tone}` }, word);
}

/** A description list from [term, value] pairs. */
export function facts(pairs, attributes = {}) {
  return h("dl", { class: "facts", ...attributes }, pairs.map(([term, value]) =>
    h("div", {}, h("dt", {}, term), h("dd", {}, value ?? h("span", { class: "none" }, "none")))));
}

/** What went wrong, in words, where it went wrong. */
export function failure(error) {
  const heading = h("strong", {}, error.title ?? "Something went wrong");
  // Errors of several fields are listed one by one.
  const fields = (error.errors ?? []).filter(({ field: name }) => name);
  const items = fields.map(({ field: name, message }) => h("li", {}, h("code", {}, name), ` ${message}`));
  return h("div", { class: "notice bad", role: "alert", tabindex: "-1" },
    h("p", {}, heading, error.message && !items.length ? prose(`. ${ended(error.message)}`) : null),
    items.length ? h("ul", {}, items) : null,
    error.requestId ? hint("Request id ", code(error.requestId)) : null);
}

/** Something done, in words. */
export function success(text) {
  return h("div", { class: "notice good", role: "status", tabindex: "-1" }, h("p", {}, text));
}

/** Put a notice in its place and lead there: what was pressed may be gone with what it changed. */
export function notify(place, notice) {
  place.replaceChildren(notice);
  notice.focus();
}

function ended(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** Whether a reader is at work in an element: to draw it anew would take away the focus or what is selected. */
export function inUse(element) {
  const chosen = getSelection();
  return element.contains(document.activeElement) || (!chosen.isCollapsed && element.contains(chosen.anchorNode));
}

/** A button that copies a text, and says so. */
export function copyButton(text, what) {
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
      announce(`The ${what} is in the clipboard`);
    } catch {
      // Only pages from https or from this machine may write to the clipboard.
      copy.textContent = "Select and copy it";
    }
  }, { kind: "quiet", "aria-label": `Copy the ${what}` });
  return copy;
}

/** How many rows a list begins with: on a narrow screen each is a block of its own. */
export function pageSize() {
  return matchMedia("(max-width: 40rem)").matches ? 10 : 50;
}

/** Ask before something that is not easily undone. Resolves to the form's values, or null. */
export function confirm(question, detail, verb, ...fields) {
  return new Promise((resolve) => {
    const title = newId("question");
    let answer = null;
    const close = () => dialog.close();
    const dialog = h("dialog", { "aria-labelledby": title },
      form({ class: "stack" }, (values) => { answer = values; close(); },
        h("h2", { id: title }, question), h("p", {}, detail), ...fields,
        h("div", { class: "row end" },
          button("Cancel", close), submit(verb, "danger"))));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(answer); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
