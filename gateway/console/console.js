// The shell: sign-in, sign-out, and the selection of the page.

import { Api, signedIn, signOut } from "./api.js";
import { announce, failure, field, form, h, input, state, submit } from "./dom.js";
import { zoneChoice } from "./format.js";
import { History } from "./history.js";
import * as audit from "./audit.js";
import * as configuration from "./configuration.js";
import * as denials from "./denials.js";
import * as explain from "./explain.js";
import * as issuers from "./issuers.js";
import * as limits from "./limits.js";
import * as overview from "./overview.js";
import * as replay from "./replay.js";
import * as revocations from "./revocations.js";
import * as user from "./user.js";
import * as users from "./users.js";

const TOKEN = "gateway.admin_token";
const PAGES = [
  [/^\/overview$/, overview], [/^\/denials$/, denials], [/^\/explain$/, explain], [/^\/users$/, users],
  [/^\/users\/([^/]+)$/, user], [/^\/revocations$/, revocations], [/^\/limits$/, limits], [/^\/issuers$/, issuers],
  [/^\/audit$/, audit], [/^\/configuration$/, configuration], [/^\/replay$/, replay],
];
const READINESS = { ready: "good", degraded: "fair", not_ready: "bad", draining: "fair" };

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const who = document.getElementById("who");
const standing = document.getElementById("standing");

/** What a signed-in operator has; null before and after. */
let session = null;
/** Whether one can sign in by OpenID Connect. */
let oidc = false;
let leave = new AbortController();

/** Begin with a token, or with the person of a session. */
function open(token, person = null) {
  const api = new Api(token, (problem) => close(problem));
  const history = new History(api);
  history.addEventListener("change", () => tellReadiness(history));
  session = { api, history, person };
  who.replaceChildren(...(person ? [h("span", { title: person.subject }, person.name ?? person.subject), ` (${person.role})`] : []));
  document.body.dataset.role = person?.role ?? "operator";
}

function close(problem = null) {
  sessionStorage.removeItem(TOKEN);
  session?.history.close();
  session = null;
  showLogin(problem);
}

function tellReadiness({ latest, error }) {
  if (!latest && !error) return;
  const word = error ? "no answer" : latest.readiness;
  const shown = state(word.replace("_", " "), READINESS[word] ?? "bad");
  const place = document.getElementById("readiness");
  if (place.textContent !== shown.textContent) place.replaceChildren(shown);
}

function begin(heading) {
  leave.abort();
  leave = new AbortController();
  document.title = `${heading} · Gateway console`;
  const title = h("h1", { tabindex: "-1" }, heading);
  main.replaceChildren(title);
  announce("");
  window.scrollTo(0, 0);
  return title;
}

function showLogin(problem) {
  nav.hidden = standing.hidden = true;
  begin("Sign in");
  if (oidc) {
    const returning = new URLSearchParams({ return_to: location.hash });
    main.append(h("div", { class: "panel stack login" },
      problem ? failure(problem) : null,
      h("p", {}, "Sign in at your organisation’s identity provider."),
      h("div", { class: "row" }, h("a", { class: "button primary", href: `console/login?${returning}` }, "Sign in with OpenID Connect"))));
    problem = null;
  }
  const outcome = h("div", {}, problem ? failure(problem) : null);
  const token = input("token", null, { type: "password", required: true });
  main.append(form({ class: "panel stack login" }, async (values) => {
    outcome.replaceChildren();
    const candidate = new Api(values.token.trim(), () => {});
    try {
      await candidate.get("overview");
    } catch (error) {
      outcome.replaceChildren(failure(error));
      token.select();
      token.focus();
      return;
    }
    sessionStorage.setItem(TOKEN, values.token.trim());
    open(values.token.trim());
    session.history.ask();
    route({ focus: true });
  },
  field("Admin token", token,
    "The value of admin.token in the gateway’s configuration. It is kept until this tab is closed."),
  outcome, h("div", { class: "row" }, submit("Sign in"))));
  if (!oidc) token.focus();
}

async function route({ focus }) {
  if (session === null) { showLogin(null); return; }
  const [path, search = ""] = (location.hash.slice(1) || "/overview").split("?");
  const [page, parameters] = find(path);
  nav.hidden = standing.hidden = false;
  for (const link of nav.querySelectorAll("a")) {
    const here = path === link.hash.slice(1) || path.startsWith(`${link.hash.slice(1)}/`);
    if (here) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "center" });
    } else link.removeAttribute("aria-current");
  }
  const heading = begin(page?.title ?? "No such page");
  if (focus) heading.focus();
  if (!page) { main.append(h("p", {}, h("a", { href: "#/overview" }, "Go to the overview"))); return; }
  const { signal } = leave;
  const retitle = (text) => {
    heading.textContent = text;
    document.title = `${text} · Gateway console`;
  };
  /** Keep a page's filters in the address, for the way back to it. */
  const remember = (filters) => {
    const given = new URLSearchParams(Object.entries(filters).filter(([, value]) => value)).toString();
    if (!given && !location.hash.includes("?")) return;
    window.history.replaceState(null, "", `#${path}${given ? `?${given}` : ""}`);
  };
  try {
    await page.show({ main, ...session, parameters, query: new URLSearchParams(search), signal, retitle, remember });
  } catch (error) {
    if (!signal.aborted) main.append(failure(error));
  }
}

function find(path) {
  for (const [pattern, page] of PAGES) {
    const match = pattern.exec(path);
    const parameters = match?.slice(1).map(decoded);
    if (parameters?.includes(null)) break;
    if (match) return [page, parameters];
  }
  return [null, []];
}

/** Decode a part of an address; null if it is none. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

document.getElementById("zone-choice").replaceWith(zoneChoice());
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.getElementById("sign-out").addEventListener("click", async () => {
  if (session?.person) {
    try {
      await signOut();
    } catch {
      announce("The gateway does not answer: you are still signed in");
      return;
    }
  }
  close();
  announce("Signed out");
});
window.addEventListener("hashchange", () => route({ focus: true }));

const kept = sessionStorage.getItem(TOKEN);
const known = await signedIn();
oidc = known.oidc;
if (kept) open(kept);
else if (known.person) open(null, known.person);
session?.history.ask();
route({ focus: false });
