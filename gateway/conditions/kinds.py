"""What operators and functions make of types, and which types never meet."""

from collections.abc import Mapping
from typing import Final

from gateway.conditions.words import (
    BOOL,
    BYTES,
    DURATION,
    DYN,
    INT,
    NULL,
    NUMBER,
    NUMBERS,
    STRING,
    TIMESTAMP,
    UINT,
    Function,
    Kind,
)

ORDERED: Final = frozenset({*NUMBERS, STRING, BYTES, BOOL, TIMESTAMP, DURATION})
TOTAL: Final[Mapping[tuple[Kind, str, Kind], Kind]] = {
    **{(kind, sign, kind): kind for kind in NUMBERS for sign in "+-*/"},
    **{(kind, "%", kind): kind for kind in (INT, UINT)},
    (STRING, "+", STRING): STRING,
    (BYTES, "+", BYTES): BYTES,
    (TIMESTAMP, "+", DURATION): TIMESTAMP,
    (DURATION, "+", TIMESTAMP): TIMESTAMP,
    (TIMESTAMP, "-", DURATION): TIMESTAMP,
    (TIMESTAMP, "-", TIMESTAMP): DURATION,
    (DURATION, "+", DURATION): DURATION,
    (DURATION, "-", DURATION): DURATION,
}
"""What an operator makes of two kinds."""


def differ(one: Kind, other: Kind) -> bool:
    """Return whether values of these kinds are never equal."""
    pair = {one, other}
    return DYN not in pair and one.name != other.name and not pair <= NUMBERS


def fits(kind: Kind, fitting: frozenset[Kind | str]) -> bool:
    return kind == DYN or DYN in fitting or kind in fitting or kind.name in fitting


def hint_of(function: Function) -> str | None:
    first = sorted(str(each) for each in function.takes[0])
    return (
        f"it takes {' or '.join(first)}"
        if len(function.takes) == 1 and DYN not in function.takes[0]
        else None
    )


def converted(left: Kind, right: Kind) -> str | None:
    """Advise how two kinds can meet."""
    kinds = {left, right}
    if STRING in kinds and kinds & NUMBERS:
        return "write the number without quotes, or int(…) around the text"
    if TIMESTAMP in kinds and NUMBER in kinds:
        return 'write timestamp("1970-01-01T00:00:00Z") + duration(string(int(claims.exp)) + "s")'
    if TIMESTAMP in kinds and STRING in kinds:
        return 'write timestamp("2026-01-31T00:00:00Z")'
    if DURATION in kinds and (STRING in kinds or kinds & NUMBERS):
        return 'write duration("5m")'
    if STRING in kinds and any(kind.name == "list" for kind in kinds):
        return "write text in list"
    if NULL in kinds:
        return "write !has(user.email) for what is missing"
    if BOOL in kinds and STRING in kinds:
        return "write true or false without quotes"
    return None
