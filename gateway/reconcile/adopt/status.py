"""The rules of `users.source.status`, from the columns that usually say who may not sign in.

A rule that is too strict refuses a user, which is noticed; one that is missing admits one, which is not. So a
status that is not known counts as suspended, and a NULL as what refuses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.model import UserStatus
from gateway.reconcile.adopt import naming
from gateway.stores.postgres.inspection.catalog import Column, Relation

_DELETED, _SUSPENDED, _LOCKED, _PENDING = (
    UserStatus.DELETED,
    UserStatus.SUSPENDED,
    UserStatus.LOCKED,
    UserStatus.PENDING,
)

_WORDS: Final[Mapping[str, UserStatus]] = {
    "deleted": _DELETED, "removed": _DELETED, "archived": _DELETED, "erased": _DELETED, "purged": _DELETED,
    "suspended": _SUSPENDED, "banned": _SUSPENDED, "blocked": _SUSPENDED, "disabled": _SUSPENDED,
    "deactivated": _SUSPENDED, "inactive": _SUSPENDED, "locked": _LOCKED, "frozen": _LOCKED,
    "pending": _PENDING, "invited": _PENDING, "unverified": _PENDING, "unconfirmed": _PENDING,
}  # fmt: skip
_ACTIVE: Final = frozenset({"active", "enabled", "activated", "confirmed", "ok"})
_STATUS_NAMES: Final[naming.Names] = {
    "status": 6,
    "state": 5,
    "account_status": 6,
    "user_status": 6,
    "account_state": 5,
}
_ACTIVE_FLAGS: Final = frozenset(
    {"is_active", "active", "enabled", "is_enabled", "account_enabled", "can_login", "activated"}
)
_UNTIL: Final[Mapping[str, UserStatus]] = {
    "banned_until": _SUSPENDED, "suspended_until": _SUSPENDED, "blocked_until": _SUSPENDED,
    "disabled_until": _SUSPENDED, "locked_until": _LOCKED, "lockout_end": _LOCKED, "lockout_until": _LOCKED,
}  # fmt: skip
_ENDS: Final = frozenset(
    {"valid_until", "valid_to", "access_until", "access_expires_at", "account_expires_at", "expires_at"}
)
_ORDER: Final = (_DELETED, _LOCKED, _SUSPENDED, _PENDING)


@dataclass(frozen=True, slots=True)
class Rule:
    """A status, and the SQL condition for it."""

    when: str
    status: UserStatus
    until: str | None = None
    rest: bool = False
    """Whether it is for all that no other rule of the column is for."""


def word_columns(relation: Relation) -> list[Column]:
    """Return the columns that have the status as a word, whose values are worth a look, or as a number."""
    return [
        column
        for column in relation.columns.values()
        if column.category in "SEN" and naming.score(column.name, _STATUS_NAMES, relation.name)
    ]


def known_words(values: Sequence[str]) -> list[str]:
    """Return those of some values that are words for a status. Others may be anything."""
    return [value for value in values if value.lower() in _ACTIVE or value.lower() in _WORDS]


def rules(
    relation: Relation, words: Mapping[str, Sequence[str]], *, leave_out: Sequence[str] = ()
) -> list[Rule]:
    """Return the rules for a table of users, the strictest status first.

    `words` are the known words of `word_columns`; `leave_out` are columns that have their rule already.
    """
    found = [
        rule
        for column in relation.columns.values()
        if column.name not in leave_out
        for rule in _of(column, relation, words.get(column.name, ()))
    ]
    return sorted(found, key=lambda rule: (rule.rest, _ORDER.index(rule.status)))


def _of(column: Column, relation: Relation, words: Sequence[str]) -> Iterator[Rule]:
    name = naming.words(column.name)
    if name.startswith(f"{naming.thing(relation.name)}_"):
        name = name.removeprefix(f"{naming.thing(relation.name)}_")
    if column.category == "D" and column.type.startswith("timestamp"):
        yield from _of_an_instant(column, name)
    elif column.category == "B":
        yield from _of_a_flag(column, name)
    elif column.type in {"int2", "int4"}:
        yield from _of_a_number(column, name)
    elif column.category in "SE" and (words or column.labels):
        yield from _of_words(column, known_words(column.labels) or words)


def _of_an_instant(column: Column, name: str) -> Iterator[Rule]:
    # Without a time zone, an instant is one of UTC: what the session's zone is must not matter.
    moment = column.sql if column.type == "timestamptz" else f"({column.sql} AT TIME ZONE 'UTC')"
    if name in _UNTIL:
        yield Rule(f"{moment} > now()", _UNTIL[name], moment)
    elif name in _ENDS:
        yield Rule(f"{moment} <= now()", _SUSPENDED, moment)
    elif _WORDS.get(word := name.removesuffix("_at").removesuffix("_on"), _PENDING) is not _PENDING:
        yield Rule(f"{column.sql} IS NOT NULL", _WORDS[word])


def _of_a_flag(column: Column, name: str) -> Iterator[Rule]:
    word = name.removeprefix("is_").removeprefix("account_")
    if name in _ACTIVE_FLAGS:
        yield Rule(f"NOT {column.sql}" if column.required else f"{column.sql} IS NOT TRUE", _SUSPENDED)
    elif word in _WORDS:
        yield Rule(column.sql if column.required else f"{column.sql} IS TRUE", _WORDS[word])


def _of_a_number(column: Column, name: str) -> Iterator[Rule]:
    """Yield the rule for a flag that is a number, as in tables that come from other databases."""
    word = name.removeprefix("is_").removeprefix("account_")
    if name in _ACTIVE_FLAGS:
        yield Rule(f"coalesce({column.sql}, 0) = 0", _SUSPENDED)
    elif word in _WORDS:
        yield Rule(f"{column.sql} <> 0", _WORDS[word])


def _of_words(column: Column, words: Sequence[str]) -> Iterator[Rule]:
    active = [word for word in words if word.lower() in _ACTIVE]
    for status in _ORDER:
        meant = sorted(word for word in words if _WORDS.get(word.lower()) is status)
        if meant:
            yield Rule(_one_of(column, meant), status)
    if active:
        condition = f"({_one_of(column, sorted(active))}) IS NOT TRUE"
        if column.required:
            condition = f"NOT ({_one_of(column, sorted(active))})"
        if len(active) == 1:
            differs = "<>" if column.required else "IS DISTINCT FROM"
            condition = f"{column.sql} {differs} {_literal(active[0])}"
        yield Rule(condition, _SUSPENDED, rest=True)


def _one_of(column: Column, values: Sequence[str]) -> str:
    if len(values) == 1:
        return f"{column.sql} = {_literal(values[0])}"
    return f"{column.sql} IN ({', '.join(map(_literal, values))})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
