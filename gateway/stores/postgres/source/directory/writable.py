"""How a change of a user is expressed in the columns of a source, where that is possible exactly.

A value that is a column can be set; one that an expression or a query computes cannot. A status is set by the
columns of the conditions: of each rule that must not hold, one condition is made false, and of the rule for
the wanted status all are made true. `writing` reads the row afterwards, and checks that it has the status.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.model import UserStatus
from gateway.core.text import sql_text
from gateway.stores.postgres.directory.user_rows import NotWritable, SourceReadOnly, UserChanges
from gateway.stores.postgres.source.definition import Identities, StatusRule, UserSource, Value
from gateway.stores.postgres.source.directory.assignments import Assignment, Kind


@dataclass(frozen=True, slots=True)
class _Condition:
    """A part of a rule's condition that a change of one column decides."""

    on: Assignment | None
    """Makes it true; None: no value is known that does."""
    off: Assignment | None
    """Makes it false."""


_NAME: Final = r"""(?:[^\W\d][\w$]*|"(?:[^"]|"")+")"""
_COLUMN: Final = rf"(?:{_NAME}\.)?(?P<column>{_NAME})(?:\s*::\s*[\w ]+?)?"
_NOW: Final = r"(?:now\s*\(\s*\)|current_timestamp)"
_LITERAL: Final = r"(?P<literal>'(?:[^']|'')*'|-?\d+)"
_FORMS: Final[Sequence[tuple[str, Kind | None, Kind | None]]] = (
    (rf"not(?:\s+|\s*\(\s*){_COLUMN}\s*\)?", "false", "true"),
    (rf"{_COLUMN}\s+is\s+not\s+null", "now", "null"),
    (rf"{_COLUMN}\s+is\s+null", "null", "now"),
    (rf"{_COLUMN}\s*(?:=|\bis\b)\s*true", "true", "false"),
    (rf"{_COLUMN}\s*(?:=|\bis\b)\s*false", "false", "true"),
    (rf"{_COLUMN}\s+is\s+not\s+true", "false", "true"),
    (rf"{_COLUMN}\s+is\s+not\s+false", "true", "false"),
    (rf"{_COLUMN}\s*>=?\s*{_NOW}", "future", "null"),
    (rf"{_NOW}\s*<=?\s*{_COLUMN}", "future", "null"),
    (rf"{_COLUMN}\s*<=?\s*{_NOW}", "past", "null"),
    (rf"{_NOW}\s*>=?\s*{_COLUMN}", "past", "null"),
    (rf"{_COLUMN}\s*=\s*{_LITERAL}", "sql", None),
    (rf"{_COLUMN}\s*(?:<>|!=)\s*{_LITERAL}", None, "sql"),
    (rf"{_COLUMN}\s+is\s+distinct\s+from\s+{_LITERAL}", None, "sql"),
    (rf"{_COLUMN}", "true", "false"),
)
"""The conditions that are understood, with what makes them true and what false. The first that fits is it."""
_NO_COLUMNS: Final = frozenset({"true", "false", "null", "current_user", "current_date", "current_timestamp"})


def _condition(text: str) -> _Condition:
    for form, on, off in _FORMS:
        match = re.fullmatch(form, text, re.IGNORECASE)
        if match is None or match["column"].lower() in _NO_COLUMNS:
            continue
        column = sql_text.column_of(match["column"]) or match["column"]
        literal = match.groupdict().get("literal")
        return _Condition(
            None if on is None else Assignment(column, on, literal),
            None if off is None else Assignment(column, off, literal),
        )
    return _Condition(None, None)


def _conditions(rule: StatusRule) -> list[_Condition]:
    parts = sql_text.conjuncts(rule.when)
    return [_Condition(None, None)] if parts is None else [_condition(part) for part in parts]


def for_status(source: UserSource, wanted: UserStatus, holding: Sequence[bool]) -> list[Assignment]:
    """Return what gives a user a status. `holding` tells which of the rules hold for the user now.

    Raises `NotWritable`.
    """
    rules = source.status
    candidates = [number for number, rule in enumerate(rules) if rule.status is wanted]
    if wanted is UserStatus.ACTIVE:
        # So is a user for whom no rule holds.
        try:
            return _without(source, wanted, holding, len(rules), {})
        except NotWritable:
            if not candidates:
                raise
    if not candidates:
        raise NotWritable(
            f"no rule of users.source.status makes a user {wanted}: change {source.table} with the"
            " system's own means"
        )
    held = [number for number in candidates if holding[number]]
    usable = held or [number for number in candidates if _on(rules[number]) is not None]
    if not usable:
        raise _unmapped(source, candidates[0])
    on = [] if held else _on(rules[usable[0]]) or []
    return _without(source, wanted, holding, usable[0], {each.column: each for each in on})


def _without(
    source: UserSource,
    wanted: UserStatus,
    holding: Sequence[bool],
    last: int,
    found: dict[str, Assignment],
) -> list[Assignment]:
    """Add to `found` what makes the rules before the number `last` false. Raises `NotWritable`."""
    for number in range(last):
        rule = source.status[number]
        if not holding[number] or rule.status is wanted:
            continue
        off = _off(rule)
        if off is not None:
            found.setdefault(off.column, off)
        elif not found.keys() & {each.on.column for each in _conditions(rule) if each.on is not None}:
            # If its column gets another value, reading the row afterwards shows the result.
            raise _unmapped(source, number)
    return list(found.values())


def possibilities(source: UserSource) -> tuple[list[str], list[str]]:
    """Return what can be changed of a user, and what cannot, with the reason."""
    possible: list[str] = []
    impossible: list[str] = []
    values: dict[str, UserChanges] = {
        "email": {"email": ""}, "display_name": {"display_name": ""}, "tenant": {"tenant": ""},
        "roles": {"roles": ()}, "tokens_valid_after": {"tokens_valid_after": None},
    }  # fmt: skip
    for name, changes in values.items():
        try:
            list(for_values(source, changes))
        except NotWritable as refusal:
            impossible.append(str(refusal))
        else:
            possible.append(name)
    rules = source.status
    for status in UserStatus:
        # As for a user for whom no rule holds; to be active, for one for whom all of them do.
        holding = [status is UserStatus.ACTIVE] * len(rules)
        if status is not UserStatus.ACTIVE and all(rule.status is not status for rule in rules):
            continue
        try:
            for_status(source, status, holding)
        except NotWritable as refusal:
            impossible.append(f"status {status}: {refusal}")
        else:
            possible.append(f"status {status}")
    return possible, impossible


def active(source: UserSource) -> list[Assignment]:
    """Return the columns of a new user that the conditions read, as an active user has them."""
    found: list[Assignment] = []
    for rule in source.status:
        off = _off(rule)
        if rule.status is UserStatus.ACTIVE:
            found += _on(rule) or []
        elif off is not None:
            found.append(off)
    return found


def _on(rule: StatusRule) -> list[Assignment] | None:
    on = [each.on for each in _conditions(rule)]
    return None if None in on else [each for each in on if each is not None]


_DISPENSABLE: Final = ("future", "now", "null", "past")


def _off(rule: StatusRule) -> Assignment | None:
    """Return what makes a condition false: rather the end of a time than a switch beside it."""
    conditions = [each for each in _conditions(rule) if each.off is not None]
    conditions.sort(key=lambda each: each.on is None or each.on.kind not in _DISPENSABLE)
    return conditions[0].off if conditions else None


def _unmapped(source: UserSource, number: int) -> NotWritable:
    rule = source.status[number]
    return NotWritable(
        f"users.source.status[{number}].when, `{rule.when}`, does not say which values"
        f" make a user {rule.status} and which do not: change {source.table} with the system's own means"
    )


def for_values(source: UserSource, changes: UserChanges) -> Iterator[Assignment]:
    """Yield the assignments for all changes but that of the status. Raises `NotWritable`."""
    for name in ("tenant", "email", "display_name"):
        if name in changes:
            yield Assignment(_plain(source, name), "text", changes[name])
    if "roles" in changes:
        yield Assignment(_plain(source, "roles"), "texts", list(changes["roles"]))
    if "tokens_valid_after" in changes:
        yield Assignment(_plain(source, "tokens_valid_after"), "instant", changes["tokens_valid_after"])


def _plain(source: UserSource, name: str) -> str:
    """Return the column of a value. Raises `NotWritable` where it is none."""
    value: Value | None = getattr(source, name)
    column = None if value is None or value.sql is None else sql_text.column_of(value.sql)
    if column is None:
        raise NotWritable(f"{_why_not(source, name, value)}: change it with the system's own means")
    return column


def _why_not(source: UserSource, name: str, value: Value | None) -> str:
    if value is None:
        return f"users.source.{name} is not configured, so there is no column for it"
    if value.query is not None:
        tables = ", ".join(value.watch) or "the tables of the query"
        return f"users.source.{name} is a query, over {tables}"
    return f"users.source.{name} is the expression `{value.sql}` over {source.table}, and not a column"


def read_only(source: UserSource, changes: UserChanges) -> SourceReadOnly:
    """Return the refusal of a change, with the columns where it can be made."""
    return _refusal(", ".join(_places(source, changes)))


def read_only_identities(source: UserSource, issuer_name: str) -> SourceReadOnly:
    """Return the refusal to link or unlink an identity, with the columns where it can be made."""
    places = [
        f"{each.table or source.table} ({each.subject}" + (f", {each.user})" if each.user else ")")
        for each in source.identities_of(issuer_name)
    ]
    return _refusal(", ".join(places) or f"{source.table}: no identities are configured for {issuer_name}")


def read_only_users(source: UserSource) -> SourceReadOnly:
    """Return the refusal to create a user."""
    return _refusal(source.table)


def _refusal(place: str) -> SourceReadOnly:
    return SourceReadOnly(
        f"users.source is read-only: change {place} with the system's own means, or set"
        " users.source.writable: true"
    )


def _places(source: UserSource, changes: UserChanges) -> Iterator[str]:
    if "status" in changes:
        wanted = changes["status"]
        rules = [rule for rule in source.status if wanted in (UserStatus.ACTIVE, rule.status)]
        yield f"{source.table}, where " + (
            " and ".join(f"`{rule.when}` makes a user {rule.status}" for rule in rules)
            or f"no rule of users.source.status makes a user {wanted}"
        )
    for name in ("tenant", "email", "display_name", "roles", "tokens_valid_after"):
        if name in changes:
            yield place_of(source, name)


def place_of(source: UserSource, name: str) -> str:
    """Return where a value comes from: table and column, an expression, or the tables of a query."""
    value: Value | None = getattr(source, name)
    column = None if value is None or value.sql is None else sql_text.column_of(value.sql)
    return (
        f"{source.table}.{column}"
        if column is not None
        else f"{source.table} ({_why_not(source, name, value)})"
    )


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """The columns of a new identity."""

    subject: str
    user: str | None
    """None: the subject is in the table of users."""
    tenant: str | None
    literals: Mapping[str, str]
    """The values that `where` demands, as SQL."""


def identities_row(source: UserSource, each: Identities) -> IdentityRow:
    """Return the columns of an identity. Raises `NotWritable` where they are not columns."""
    number = source.identities.index(each)
    columns: dict[str, str | None] = {}
    for name in ("subject", "user", "tenant"):
        expression: str | None = getattr(each, name)
        columns[name] = None if expression is None else sql_text.column_of(expression)
        if expression is not None and columns[name] is None:
            raise NotWritable(
                f"users.source.identities[{number}].{name} is an expression, and not a column: link it"
                " with the system's own means"
            )
    literals: dict[str, str] = {}
    for part in (sql_text.conjuncts(each.where) or [""]) if each.where is not None else ():
        on = _condition(part).on
        if on is None or on.kind not in ("sql", "true", "false"):
            raise NotWritable(
                f"users.source.identities[{number}].where, `{each.where}`, does not say what a new row has:"
                " link it with the system's own means"
            )
        literals[on.column] = str(on.value) if on.kind == "sql" else on.kind
    return IdentityRow(columns["subject"] or "", columns["user"], columns["tenant"], literals)
