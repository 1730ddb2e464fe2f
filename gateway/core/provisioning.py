"""Which user the gateway creates for a token that no user is behind. The only owner of this rule.

A token of the issuer creates a user if it meets the issuer's `provisioning.when`, and has the claims that the
user needs. Nothing here knows which users exist.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gateway.core.model import JSON, Claims, Identity, Issuer, Provisioning, User, UserStatus
from gateway.core.reasons import USER_NOT_FOUND, Denial
from gateway.core.tokens.claim_paths import at_path, claims_on
from gateway.core.tokens.claims import is_clean, meets

_MAX_EMAIL: Final = 320
"""Characters: 64 and 255 around the `@` (RFC 5321 §4.5.3.1)."""
_MAX_NAME: Final = 255
_MAX_TENANT: Final = 255

ProvisioningResult: TypeAlias = Literal["created", "exists", "deleted", "taken"]
"""`exists`: the identity has a user. `deleted`, `taken`: a deleted user, or another, has the address."""


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user that may be created, with its identity."""

    issuer_name: str
    identity: Identity
    email: str | None
    display_name: str | None
    tenant: str | None
    roles: tuple[str, ...]
    realm: str = ""
    """The name that the cached user goes by; empty: `issuer_name`."""

    def as_user(self, user_id: str = "") -> User:
        """Return the user as it would be."""
        return User(user_id, UserStatus.ACTIVE, self.tenant, self.email, self.display_name, self.roles)


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What came of an attempt to create a user."""

    result: ProvisioningResult
    user_id: str | None
    """Whose the identity is; None if it has no user."""
    version: int
    """What was read before the transaction of this id may not show the user."""


def new_user(claims: Claims, rules: Provisioning | None) -> NewUser:
    """Return the user that a token's claims describe.

    `rules` are those of its issuer. Raises `Denial` `user_not_found` if no user may be created from them.
    """
    if rules is None:
        raise Denial(USER_NOT_FOUND, "the issuer has no `provisioning`")
    payload = claims.payload
    for path, accepted in rules.when.items():
        if not meets(at_path(payload, path), accepted):
            raise Denial(USER_NOT_FOUND, f"no user is created: `{path}` does not meet `provisioning.when`")
    if rules.condition is not None:
        try:
            rules.condition.check(claims, None)
        except Denial as denial:
            raise Denial(USER_NOT_FOUND, f"no user is created: {denial.detail}") from denial
    return NewUser(
        claims.issuer_name,
        claims.identity,
        None if rules.email is None else _email(payload, rules.email),
        None if rules.display_name is None else _name(payload, rules.display_name),
        claims.tenant if rules.tenant is None else _tenant(payload, rules.tenant),
        rules.roles,
        "" if claims.realm == claims.issuer_name else claims.realm,
    )


def claims_read(issuers: Iterable[Issuer]) -> frozenset[str]:
    """Return the names of the claims that must be kept of tokens' payloads."""
    names: set[str] = set()
    for rules in (issuer.provisioning for issuer in issuers):
        if rules is not None:
            if rules.condition is not None:
                names |= rules.condition.claims_read
            fields = (path for path in (rules.email, rules.display_name, rules.tenant) if path is not None)
            for path in (*fields, *rules.when):
                names.update(claims_on(path))
    return frozenset(names)


def _email(payload: Mapping[str, JSON], path: str) -> str:
    """Read the address. Without it, a user who was deleted could come back as another subject."""
    value = at_path(payload, path)
    usable = isinstance(value, str) and is_clean(value) and len(value) <= _MAX_EMAIL and "@" in value
    if not isinstance(value, str) or not usable or any(map(str.isspace, value)):
        raise Denial(USER_NOT_FOUND, f"no user is created: `{path}` is not an e-mail address")
    return value


def _name(payload: Mapping[str, JSON], path: str) -> str | None:
    """Read the name, which a user may lack."""
    value = at_path(payload, path)
    return value if isinstance(value, str) and is_clean(value) and len(value) <= _MAX_NAME else None


def _tenant(payload: Mapping[str, JSON], path: str) -> str:
    value = at_path(payload, path)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not is_clean(value) or len(value) > _MAX_TENANT:
        raise Denial(USER_NOT_FOUND, f"no user is created: `{path}` is not a tenant")
    return value
