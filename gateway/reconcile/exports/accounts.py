"""Reads one record of an export: e-mail address, name and status, whatever the provider calls them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias

from gateway.core.model import JSON, UserStatus
from gateway.reconcile.exports.layouts import Names, normal

Record: TypeAlias = JSON
"""An object of JSON, a row of CSV, or a subject without anything else."""
Field: TypeAlias = Callable[[Record], JSON]
"""Reads a field of a record; None if it is not there or empty."""

EMAIL: Final = (
    *("email", "Email", "primaryEmail", "profile.email", "mail", "Mail", "Email Address", "e-mail"),
    *("E-Mail Address", "user.email"),
)
NAME: Final = (
    *("name.fullName", "name", "Name", "displayName", "DisplayName", "display_name"),
    *("Display name", "full name", "profile.displayName", "user_metadata.full_name"),
)  # fmt: skip
FIRST_NAME: Final = (
    "firstName",
    "given_name",
    "givenName",
    "profile.firstName",
    "First Name",
    "name.givenName",
)
LAST_NAME: Final = ("lastName", "family_name", "surname", "profile.lastName", "Last Name", "name.familyName")

_DELETED: Final = ("deleted_at", "deletedDateTime", "Soft deletion time stamp", "deletionTime")
_BANNED_UNTIL: Final = ("banned_until",)
_BLOCKED: Final = ("blocked", "Blocked", "disabled", "suspended", "Suspended", "archived", "Block credential")
_ENABLED: Final = ("enabled", "Enabled", "accountEnabled", "AccountEnabled", "active")
_STATUS: Final = ("status", "Status", "UserStatus", "user_status", "state")

# Okta: developer.okta.com/docs/api, User status. Cognito: UserStatus of UserType. Google: Status [READ ONLY].
# A state in which the user signs in, or may after a change of the password, is active: the provider decides.
STATUSES: Final[Mapping[str, UserStatus]] = {
    **dict.fromkeys(
        ("active", "enabled", "confirmed", "provisioned", "recovery", "passwordexpired", "externalprovider",
         "forcechangepassword", "resetrequired", "ok", "true"),
        UserStatus.ACTIVE,
    ),
    **dict.fromkeys(("staged", "unconfirmed", "pending", "invited", "pendingacceptance"), UserStatus.PENDING),
    **dict.fromkeys(
        ("suspended", "deprovisioned", "deactivated", "inactive", "disabled", "blocked", "archived", "banned",
         "compromised", "false"),
        UserStatus.SUSPENDED,
    ),
    **dict.fromkeys(("lockedout", "locked"), UserStatus.LOCKED),
    "deleted": UserStatus.DELETED,
}  # fmt: skip
"""What the providers call the states of users, in the normal form of names."""

_TRUE: Final = frozenset({"true", "1", "yes", "t"})
_FALSE: Final = frozenset({"false", "0", "no", "f"})
_NOTHING: Final = frozenset({"", "null", "NULL", "None"})


class Account(NamedTuple):
    """A user of an export. A tuple, because there may be millions."""

    line: int
    """The line in which it begins, counted from 1."""
    subject: str | None
    """None if the record has none."""
    email: str | None
    name: str | None
    status: UserStatus | None
    """None if the provider's word for it is unknown."""
    tenant: str | None
    roles: tuple[str, ...]


def text_of(value: JSON) -> str | None:
    """Return a field as text; None for nothing. Some providers number their users; tokens have text."""
    match value:
        case bool() | None:
            return None
        case str():
            return None if value in _NOTHING else value
        case int():
            return str(value)
    return None


def each_of(value: JSON) -> tuple[str, ...]:
    """Return the words of a field: a list, or text separated by commas, semicolons or spaces."""
    if isinstance(value, list):
        return tuple(text for each in value if (text := text_of(each)) is not None)
    text = text_of(value) or ""
    return tuple(text.replace(",", " ").replace(";", " ").split())


class StatusReader:
    """Reads the status of a user. `now` is in Unix seconds."""

    def __init__(self, field: "Callable[[Names], Field]", now: float) -> None:
        self._deleted = field(_DELETED)
        self._banned_until = field(_BANNED_UNTIL)
        self._blocked = field(_BLOCKED)
        self._enabled = field(_ENABLED)
        self._status = field(_STATUS)
        self._now = now

    def __call__(self, record: Record) -> UserStatus | None:
        """Return the status, the most severe of what the record says; None for an unknown word."""
        if text_of(self._deleted(record)) is not None:
            return UserStatus.DELETED
        word = text_of(self._status(record))
        status = UserStatus.ACTIVE if word is None else STATUSES.get(normal(word))
        if status in {UserStatus.DELETED, None}:
            return status
        blocked, enabled = _truth(self._blocked(record)), _truth(self._enabled(record))
        if blocked or enabled is False or self._is_banned(record):
            return UserStatus.SUSPENDED
        return status

    def _is_banned(self, record: Record) -> bool:
        until = text_of(self._banned_until(record))
        if until is None:
            return False
        try:
            moment = datetime.fromisoformat(until)
        except ValueError:
            return True  # it says `infinity`, or something that is no time
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() > self._now


def _truth(value: JSON) -> bool | None:
    if isinstance(value, bool):
        return value
    word = (text_of(value) or "").casefold()
    if word in _TRUE:
        return True
    return False if word in _FALSE else None
