"""The change of our data that a fix consists of: exact, so that it can be shown, asked about, and made.

Only users, identities, revocations and cached answers are our data. What an issuer, a client or the owner of
a database has to change is told in words, and is never made from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.core.model import JSON, Identity, RevocationKind, User, UserStatus
from gateway.explain.wording import moment, shown


@dataclass(frozen=True, slots=True)
class SetActive:
    """Make a user active, whose status is still as the explanation found it."""

    user_id: str
    before: UserStatus


@dataclass(frozen=True, slots=True)
class SetTenant:
    """Give a user another tenant."""

    user_id: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class AddRole:
    """Give a user one more role."""

    user_id: str
    before: tuple[str, ...]
    role: str


@dataclass(frozen=True, slots=True)
class AcceptOlderTokens:
    """Remove `tokens_valid_after` of a user."""

    user_id: str
    before: float


@dataclass(frozen=True, slots=True)
class Link:
    """Link an identity to a user, or move it there from another."""

    user_id: str
    identity: Identity
    owner: str | None


@dataclass(frozen=True, slots=True)
class Add:
    """Create a user with an identity."""

    identity: Identity
    tenant: str | None


@dataclass(frozen=True, slots=True)
class Lift:
    """Lift a revocation. `issuer` is the configured name, empty for kind `user`."""

    kind: RevocationKind
    issuer: str
    value: str


@dataclass(frozen=True, slots=True)
class ForgetCached:
    """Delete one cached answer about an identity from Redis. `realm` is that of its issuer."""

    realm: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class FlushCaches:
    """Let every gateway forget what it remembers of users."""


Work: TypeAlias = (
    SetActive | SetTenant | AddRole | AcceptOlderTokens | Link | Add | Lift | ForgetCached | FlushCaches
)
"""What is to be done, for `gateway.explain.fixes.applying`."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One value that changes."""

    what: str
    before: str | None
    """None: there is none."""
    after: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """A change, as it is shown. Two that look alike are equal."""

    action: str
    """As the audit log names it."""
    target: str
    edits: tuple[Edit, ...]
    question: str | None
    """What only a person can know, and the change depends on; None for a change that nothing depends on."""
    work: Work | None = field(default=None, compare=False, repr=False)
    """None: it was read from elsewhere, and can only be shown."""

    def to_json(self) -> dict[str, JSON]:
        """Return what is shown of it."""
        edits: list[JSON] = [
            {"what": each.what, "before": each.before, "after": each.after} for each in self.edits
        ]
        return {"action": self.action, "target": self.target, "edits": edits, "question": self.question}


def activated(user_id: str, before: UserStatus) -> Change:
    """Return the change of a user's status to active; a deleted one is restored."""
    deleted = before is UserStatus.DELETED
    return Change(
        "user.restore" if deleted else "user.change",
        f"user {user_id}",
        (Edit("status", before.value, UserStatus.ACTIVE.value),),
        "Was the deletion a mistake?"
        if deleted
        else f"Is the reason settled for which the user is {before}?",
        SetActive(user_id, before),
    )


def with_tenant(user: User, tenant: str) -> Change:
    """Return the change of a user's tenant."""
    question = f"Does the user belong to the tenant {shown(tenant)}? The token alone does not prove that."
    if user.tenant is not None:
        question += f" The user loses what it has in {shown(user.tenant)}."
    edit = Edit("tenant", user.tenant, tenant)
    return Change(
        "user.change", f"user {user.id}", (edit,), question, SetTenant(user.id, user.tenant, tenant)
    )


def with_role(user: User, role: str) -> Change:
    """Return the addition of a role."""
    question = f"Should the user have the role {shown(role)}, on all routes that require it?"
    edit = Edit("roles", _listed(user.roles), _listed((*user.roles, role)))
    return Change("user.change", f"user {user.id}", (edit,), question, AddRole(user.id, user.roles, role))


def accepting_older_tokens(user_id: str, before: float) -> Change:
    """Return the removal of `tokens_valid_after`."""
    question = "Should the user's older tokens be valid again? They were refused on purpose."
    edit = Edit("tokens_valid_after", moment(before), None)
    return Change("user.change", f"user {user_id}", (edit,), question, AcceptOlderTokens(user_id, before))


def linked(user_id: str, realm: str, identity: Identity, owner: str | None) -> Change:
    """Return the link of an identity to a user; `owner` has it now."""
    question = f"Is it the same person: does the token's subject belong to user {user_id}?"
    before = None if owner is None else f"user {owner}"
    edit = Edit(f"identity {shown(identity.subject)} of issuer {realm}", before, f"user {user_id}")
    action = "identity.link" if owner is None else "identity.unlink, identity.link"
    return Change(action, f"user {user_id}", (edit,), question, Link(user_id, identity, owner))


def added(realm: str, identity: Identity, tenant: str | None, *, person: bool = True) -> Change:
    """Return the creation of a user. `person`: False for a client."""
    edits = [
        Edit("status", None, UserStatus.ACTIVE.value),
        Edit(f"identity {shown(identity.subject)} of issuer {realm}", None, "the new user"),
    ]
    if tenant is not None:
        edits.append(Edit("tenant", None, tenant))
    question = "Is this a person who should have access, and who has no account here under another subject?"
    if not person:
        question = "Should this client have access as itself? It is no person."
    return Change("user.create", "a new user", tuple(edits), question, Add(identity, tenant))


def lifted(kind: RevocationKind, issuer: str, value: str, told: str) -> Change:
    """Return the end of a revocation; `told` is what is known of it."""
    whose = {
        "jti": f"the token {shown(value)} of issuer {issuer}",
        "user": f"all tokens of user {value}",
        "issuer": f"all tokens of issuer {issuer}",
    }[kind]
    question = "Was the revocation a mistake? Tokens that it refuses will be admitted, stolen ones, too."
    edit = Edit(f"revocation of {whose}", told, None)
    work = Lift(kind, "" if kind == "user" else issuer, "" if kind == "issuer" else value)
    return Change("revocation.lift", f"revocation of {whose}", (edit,), question, work)


def forgotten(realm: str, identity: Identity, key: str, before: str) -> Change:
    """Return the removal of a cached answer from Redis."""
    edit = Edit(f"key {key}", before, None)
    return Change("cache.forget", "Redis", (edit,), None, ForgetCached(realm, identity))


def flushed() -> Change:
    """Return a flush of all caches."""
    edit = Edit("what every gateway remembers of users, revocations and missing users", "kept", None)
    return Change("caches.flush", "all gateways", (edit,), None, FlushCaches())


def _listed(roles: Sequence[str]) -> str | None:
    return ", ".join(roles) or None
