// One user: its status, its identities, and the actions on both.

import {
  button, code, confirm, facts, failure, field, form, h, hint, input, notify, state, submit, success, table,
} from "./dom.js";
import { latestChanges } from "./audit.js";
import { latestDenials } from "./denials.js";
import { time } from "./format.js";
import { listed, nameOf, STATUSES } from "./users.js";

export const title = "User";

export async function show({ main, api, parameters: [id], signal, retitle }) {
  const path = `users/${encodeURIComponent(id)}`;
  const outcome = h("div", {});
  const content = h("div", { class: "stack" });
  main.append(h("p", {}, h("a", { href: "#/users" }, "← All users")), outcome, content);

  const load = async () => {
    const { body, tag } = await api.getWithTag(path, signal);
    draw(body, tag);
  };

  /** Do one thing, say so, and show what became of the user. A change that another made first is shown instead. */
  const act = async (work, done) => {
    outcome.replaceChildren();
    try {
      await work();
      await load();
      notify(outcome, success(done));
    } catch (error) {
      if (signal.aborted) return;
      notify(outcome, failure(error));
      if (error.status === 412) {
        await load();
        notify(outcome, failure({
          title: "Another operator has changed this user",
          message: "Nothing was saved. The page now shows the user’s current state; repeat your change if it is still right.",
        }));
      }
    }
  };

  const draw = (user, tag) => {
    retitle(nameOf(user));
    const change = (changes, done) => act(() => api.send("PATCH", path, changes, { tag, signal }), done);
    content.replaceChildren(
      h("div", { class: "panel" },
        facts([
          ["Status", state(user.status, STATUSES[user.status] ?? "plain")],
          ["Id", code(user.id)],
          ["E-mail", user.email],
          ["Tenant", user.tenant],
          ["Roles", user.roles.join(", ") || null],
          ["Created", time(user.created_at)],
          ["Changed", time(user.updated_at)],
          ["Deleted", time(user.deleted_at)],
          ["Tokens valid after", time(user.tokens_valid_after)],
        ]),
        actions(user, { api, path, tag, signal, act, change })),
      section("Recent denials", latestDenials(api, user.id, signal), signal),
      identities(user, { api, path, signal, act }),
      editing(user, change),
      section("Changes", latestChanges(api, `user:${user.id}`, signal), signal),
    );
  };

  try {
    await load();
  } catch (error) {
    if (!signal.aborted) outcome.replaceChildren(failure(error));
  }
}

/** A part whose content comes later. */
function section(name, coming, signal) {
  const content = h("div", { "aria-busy": "true" });
  coming.catch(failure).then((found) => {
    content.removeAttribute("aria-busy");
    if (!signal.aborted) content.replaceChildren(found);
  });
  return h("section", { class: "panel flush", "aria-label": name }, h("h2", {}, name), content);
}

function actions(user, { api, path, tag, signal, act, change }) {
  const send = (method, where, done) => act(() => api.send(method, where, undefined, { tag, signal }), done);
  const restore = button("Restore", () => send("POST", `${path}/restore`, "The user has been restored."),
    { kind: "primary" });
  const revoke = button("Revoke tokens …", async () => {
    const answer = await confirm("Revoke all tokens of this user?",
      "All gateways refuse the tokens issued until now, within milliseconds. The user can sign in again.",
      "Revoke tokens", field("Reason (optional)", input("reason")));
    if (answer === null) return;
    const revocation = { kind: "user", value: user.id, ...(answer.reason ? { reason: answer.reason } : {}) };
    await act(() => api.send("POST", "revocations", revocation, { signal }),
      "All tokens of the user have been revoked.");
  }, { kind: "danger" });
  const remove = button("Delete …", async () => {
    const sure = await confirm("Delete this user?",
      "The gateway refuses a deleted user. The row stays, and the user can be restored.", "Delete");
    if (sure !== null) await send("DELETE", path, "The user has been deleted.");
  }, { kind: "danger" });
  if (user.status === "deleted") return h("div", { class: "row acts" }, restore, revoke);
  const changes = [["Activate", "active"], ["Suspend", "suspended"], ["Lock", "locked"]]
    .filter(([, status]) => status !== user.status)
    .map(([label, status]) => (status === "active"
      ? button(label, () => change({ status }, `The user is ${status}.`), { kind: "primary" })
      : button(`${label} …`, () => withReason(label, status, change))));
  return h("div", { class: "row acts" }, changes, revoke, remove);
}

/** Suspend or lock, once the operator has said why: the audit log keeps the reason. */
async function withReason(label, status, change) {
  const answer = await confirm(`${label} this user?`,
    "All gateways refuse the user’s requests within milliseconds. The user can be activated again.",
    label, field("Reason", input("reason", null, { required: true, maxlength: 1000 }), "For the audit log."));
  if (answer !== null) await change({ status, reason: answer.reason.trim() || null }, `The user is ${status}.`);
}

function identities(user, { api, path, signal, act }) {
  const unlink = async (identity) => {
    const sure = await confirm("Unlink this identity?", "Tokens with this subject will have no user.", "Unlink");
    if (sure === null) return;
    const where = `${path}/identities?${new URLSearchParams(identity)}`;
    await act(() => api.send("DELETE", where, undefined, { signal }), "The identity has been unlinked.");
  };
  const rows = user.identities.map(({ issuer, issuer_name: name, subject }) => [
    code(subject), h("div", {}, name ?? "not configured", hint(issuer)),
    button("Unlink", () => unlink({ issuer, subject }), { kind: "quiet acts", "aria-label": `Unlink ${subject}` }),
  ]);
  const { element } = table("Identities", ["Subject", "Issuer", { label: "Change", class: "acts" }], rows);
  return h("section", { class: "panel flush", "aria-label": "Identities" }, h("h2", {}, "Identities"),
    rows.length ? element : h("p", { class: "empty" }, "This user has no identities."),
    form({ class: "filters acts" }, ({ issuer, subject }) =>
      act(() => api.send("POST", `${path}/identities`, { issuer, subject }, { signal }), "The identity has been linked."),
    field("Issuer", input("issuer", null, { required: true }), "Its configured name, or its iss."),
    field("Subject", input("subject", null, { required: true })),
    submit("Link", null)));
}

function editing(user, change) {
  return h("details", { class: "panel acts" }, h("summary", {}, "Edit"),
    form({ class: "stack" }, ({ email, display_name: name, tenant, roles }) => change({
      email: email || null, display_name: name || null, tenant: tenant || null, roles: listed(roles),
    }, "The user has been saved."),
    h("div", { class: "fields" },
      field("E-mail", input("email", user.email, { type: "email" })),
      field("Name", input("display_name", user.display_name)),
      field("Tenant", input("tenant", user.tenant)),
      field("Roles", input("roles", user.roles.join(", ")), "Separated by commas.")),
    h("div", { class: "row" }, submit("Save"))));
}
