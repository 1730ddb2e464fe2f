"""Cached users as JSON documents in Redis.

A document has the time when Postgres was asked, the epoch, the `iss`, and the user; null means that there is
no user. An unreadable document, or one for another issuer, counts as missing.
"""

from dataclasses import dataclass
from typing import Final

import orjson

from gateway.core.caches import shared, shared_word
from gateway.core.model import JSON, NO_ATTRIBUTES, User, UserStatus
from gateway.core.text import json_text

_LEVELS: Final = json_text.MAX_DEPTH + 2
"""A user's attributes are on the third level."""
_FORMAT: Final = 2
"""The version of the document. A document of another version counts as missing."""


@dataclass(frozen=True, slots=True)
class CachedUser:
    """An answer of Postgres about an identity, and its time."""

    user: User | None
    """None if there is no user."""
    stored_at: float
    """The Unix time at which Postgres was asked."""
    epoch: str
    """The epoch before Postgres was asked; empty if there was none.

    In another epoch the answer is not fresh: a change may have been missed.
    """


def encode(cached: CachedUser, iss: str, owner: str = "") -> bytes:
    """Return a document for tokens of this `iss`. `owner` is the id of the owner of Redis (`ownership`)."""
    user = cached.user
    return orjson.dumps(
        {
            "version": _FORMAT,
            "iss": iss,
            "stored_at": cached.stored_at,
            "epoch": cached.epoch,
            "owner": owner,
            "user": None if user is None else _fields_of(user),
        }
    )


def decode(document: bytes, iss: str, owner: str = "") -> CachedUser | None:
    """Parse a document; None if it has another format, another owner, or another `iss`."""
    try:
        json_text.check_depth(document, _LEVELS)
        members = orjson.loads(document)
        if members["version"] != _FORMAT or members["iss"] != iss or members.get("owner", "") != owner:
            return None
        user = members["user"]
        return CachedUser(
            None if user is None else _user_from(user), float(members["stored_at"]), _text(members["epoch"])
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _fields_of(user: User) -> dict[str, JSON]:
    return {
        "id": user.id,
        "status": user.status.value,
        "tenant": user.tenant,
        "email": user.email,
        "display_name": user.display_name,
        "roles": list(user.roles),
        "attributes": dict(user.attributes),
        # JSON has no number for an infinite time.
        "tokens_valid_after": None if user.tokens_valid_after is None else repr(user.tokens_valid_after),
        **({} if user.valid_until is None else {"valid_until": user.valid_until}),
    }


def _user_from(members: dict[str, JSON]) -> User:
    roles, attributes, after = members["roles"], members["attributes"], members["tokens_valid_after"]
    tenant, until = _text_or_none(members["tenant"]), members.get("valid_until")
    if not isinstance(roles, list) or not isinstance(attributes, dict):
        raise TypeError("roles is not a list, or attributes is not a mapping")
    return User(
        id=_text(members["id"]),
        status=UserStatus(_text(members["status"])),
        tenant=None if tenant is None else shared_word(tenant),
        email=_text_or_none(members["email"]),
        display_name=_text_or_none(members["display_name"]),
        roles=shared(tuple(map(_text, roles))),
        attributes=attributes or NO_ATTRIBUTES,
        tokens_valid_after=None if after is None else float(_text(after)),
        valid_until=None if until is None else _number(until),
    )


def _text(value: JSON) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _number(value: JSON) -> float:
    if not isinstance(value, int | float):
        raise TypeError("not a number")
    return float(value)


def _text_or_none(value: JSON) -> str | None:
    return None if value is None else _text(value)
