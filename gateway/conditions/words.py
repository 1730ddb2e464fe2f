"""The names and functions of expressions, with their types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.headers import HOP_BY_HOP, fold
from gateway.core.model import UserStatus


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of CEL; `item` is that of a list's items."""

    name: str
    item: "Kind | None" = None

    def __str__(self) -> str:
        return _SHOWN.get(self.name, self.name)


DYN: Final = Kind("dyn")
"""Known only when the expression is evaluated."""
BOOL: Final = Kind("bool")
INT: Final = Kind("int")
UINT: Final = Kind("uint")
DOUBLE: Final = Kind("double")
STRING: Final = Kind("string")
BYTES: Final = Kind("bytes")
NULL: Final = Kind("null")
TIMESTAMP: Final = Kind("timestamp")
DURATION: Final = Kind("duration")
MAP: Final = Kind("map")
NUMBER: Final = Kind("number")
"""One of the other three: JSON has one kind alone."""
NUMBERS: Final = frozenset({INT, UINT, DOUBLE, NUMBER})
"""These compare with each other, and do not add up."""
_SHOWN: Final[Mapping[str, str]] = {
    "bool": "true or false", "int": "a whole number", "uint": "an unsigned number", "double": "a number",
    "number": "a number", "string": "a text", "bytes": "bytes", "null": "null", "timestamp": "an instant",
    "duration": "a duration", "map": "a mapping", "list": "a list", "dyn": "any value",
}  # fmt: skip


def list_of(item: Kind) -> Kind:
    return Kind("list", item)


USER: Final[Mapping[str, Kind]] = {
    "id": STRING,
    "status": STRING,
    "tenant": STRING,
    "email": STRING,
    "display_name": STRING,
    "name": STRING,
    "roles": list_of(STRING),
    "attributes": MAP,
}
"""`name` is short for `display_name`."""
CLAIMS: Final[Mapping[str, Kind]] = {
    "iss": STRING,
    "sub": STRING,
    "jti": STRING,
    "exp": NUMBER,
    "iat": NUMBER,
    "nbf": NUMBER,
    "tenant": STRING,
    "aud": list_of(STRING),
    "scopes": list_of(STRING),
    "roles": list_of(STRING),
}
"""Claims that the gateway knows, found where the issuer's settings say. All others are the token's own."""
REQUEST: Final[Mapping[str, Kind]] = {
    "method": STRING,
    "path": STRING,
    "host": STRING,
    "query": STRING,
    "headers": Kind("headers"),
}
CLIENT: Final[Mapping[str, Kind]] = {"ip": STRING}
ROOTS: Final[Mapping[str, Mapping[str, Kind] | None]] = {
    "user": USER,
    "claims": CLAIMS,
    "request": REQUEST,
    "client": CLIENT,
    "now": None,
}
STATUSES: Final = tuple(status.value for status in UserStatus)

_SECRET: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"sec-websocket-protocol"})
_OF_PROXIES: Final = frozenset({b"forwarded", b"x-real-ip"})


def why_unreadable(header: str) -> tuple[str, str] | None:
    """Return why conditions may not read a header, and what to do; None if they may."""
    folded = fold(header.encode("utf-8", "replace"))
    if folded in _SECRET:
        return "may hold a token", "read `claims`, which are verified"
    if folded in _OF_PROXIES or folded.startswith(b"x-forwarded-"):
        return "may be forged by clients", "read `client.ip`, `request.host` or `request.path`"
    if folded in HOP_BY_HOP:
        return "is for one connection", "read another header"
    if folded == b"host":
        return "has its own name here", "read `request.host`"
    return None


@dataclass(frozen=True, slots=True)
class Function:
    """A function: what it takes, and what it returns. A method takes its target first."""

    takes: tuple[frozenset[Kind | str], ...]
    """For each argument the kinds; `list` and `map` stand for all of them."""
    returns: Kind


_TEXT: Final[frozenset[Kind | str]] = frozenset({STRING})
_SIZED: Final[frozenset[Kind | str]] = frozenset({STRING, BYTES, "list", "map"})
_TO_NUMBER: Final[frozenset[Kind | str]] = frozenset({*NUMBERS, STRING})
_INSTANT: Final[frozenset[Kind | str]] = frozenset({TIMESTAMP})
_TIME: Final[frozenset[Kind | str]] = frozenset({TIMESTAMP, DURATION})

FUNCTIONS: Final[Mapping[str, Function]] = {
    "size": Function((_SIZED,), INT),
    "int": Function((_TO_NUMBER,), INT),
    "uint": Function((_TO_NUMBER,), UINT),
    "double": Function((_TO_NUMBER,), DOUBLE),
    "string": Function((frozenset({*NUMBERS, STRING, BYTES, TIMESTAMP, DURATION}),), STRING),
    "bytes": Function((_TEXT,), BYTES),
    "timestamp": Function((_TEXT,), TIMESTAMP),
    "duration": Function((_TEXT,), DURATION),
    "dyn": Function((frozenset({DYN}),), DYN),
}
METHODS: Final[Mapping[str, Function]] = {
    "contains": Function((_TEXT, _TEXT), BOOL),
    "startsWith": Function((_TEXT, _TEXT), BOOL),
    "endsWith": Function((_TEXT, _TEXT), BOOL),
    "matches": Function((_TEXT, _TEXT), BOOL),
    "size": Function((_SIZED,), INT),
    **{
        name: Function((_INSTANT,), INT)
        for name in (
            "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
        )
    },
    **{
        name: Function((_TIME,), INT)
        for name in ("getHours", "getMinutes", "getSeconds", "getMilliseconds")
    },
}  # fmt: skip
