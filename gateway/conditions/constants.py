"""What constants in an expression show: values that a field never has, and places that are never there."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.conditions import engine
from gateway.conditions.faults import near
from gateway.conditions.syntax import Binary, Constant, Entries, Index, Items, Node, Select, Unary
from gateway.conditions.words import STATUSES

_OF_TIME: Final[Mapping[str, tuple[int, int, str]]] = {
    "getMonth": (0, 11, "January is 0"), "getDayOfWeek": (0, 6, "Sunday is 0"),
    "getDate": (1, 31, "the first day is 1"), "getDayOfMonth": (0, 30, "the first day is 0"),
    "getDayOfYear": (0, 365, "the first day is 0"), "getMilliseconds": (0, 999, "less than a second"),
}  # fmt: skip
"""The least and the greatest value of parts of an instant. Hours and minutes are also those of a duration."""


def never(path: tuple[str, ...], value: str) -> tuple[str, str] | None:
    """Return why a field never has a text, and what to write; None if it may have it."""
    if path == ("user", "status") and value not in STATUSES:
        return f"no user has the status {value!r}", near(value, STATUSES, f"known: {', '.join(STATUSES)}")
    if path == ("request", "method") and value != value.upper():
        return f"no method is {value!r}", f'write "{value.upper()}"'
    if path == ("request", "host") and (value != value.lower() or ":" in value.rpartition("]")[2]):
        return f"no host is {value!r}", "write it in lower case, without a port"
    if path == ("request", "path") and not value.startswith("/"):
        return f"no path is {value!r}", f'write "/{value}"'
    return _never_an_address(value) if path == ("client", "ip") else None


def _never_an_address(value: str) -> tuple[str, str] | None:
    if not value:  # a client over a Unix socket
        return None
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return f"no address is {value!r}", 'write an address, or client.ip.startsWith("10.") for a network'
    usual = str(getattr(address, "ipv4_mapped", None) or address)
    return None if value == usual else (f"no address is written {value!r}", f'write "{usual}"')


def never_in_time(function: str, value: int) -> tuple[str, str] | None:
    """Return why a part of an instant is never a number, and what counts; None if it may be."""
    least, greatest, begins = _OF_TIME.get(function, (value, value, ""))
    if least <= value <= greatest:
        return None
    return f"{function}() is never {value}", f"it is {least} to {greatest}: {begins}"


def never_there(node: Node) -> str | None:
    """Return why a part reads what is never there; None if it may be."""
    match node:
        case Index(key=Unary(operator="-", operand=Constant(kind="int"))):
            return "the places of a list begin with 0"
        case Index(operand=Items(items=items), key=Constant(kind="int" | "uint") as key):
            place = _number(key)
            return f"the list has {len(items)} items, counted from 0" if place >= len(items) else None
        case Index(operand=Entries(items=items), key=Constant(kind="string", text=text)):
            return _not_among(items[::2], engine.constant(text))
        case Select(operand=Entries(items=items), name=name, test=False):
            return _not_among(items[::2], name)
        case _:
            return None


def twice(node: Entries) -> Iterator[Constant]:
    """Yield the keys that have been written before."""
    seen: set[tuple[str, object]] = set()
    for key in node.items[::2]:
        if isinstance(key, Constant):
            if (name := (key.kind, engine.constant(key.text))) in seen:
                yield key
            seen.add(name)


def is_zero(node: Node) -> bool:
    """Return whether a part is the whole number 0: nothing can be divided by it."""
    return isinstance(node, Constant) and node.kind in {"int", "uint"} and _number(node) == 0


def joined(node: Node) -> int:
    """Return how many lists `+` makes one of."""
    if isinstance(node, Binary) and node.operator == "+":
        return joined(node.left) + joined(node.right)
    return 1


def is_written(node: Node) -> bool:
    """Return whether a part is a constant, or a negative one."""
    return isinstance(node, Constant) or (isinstance(node, Unary) and isinstance(node.operand, Constant))


def _number(node: Constant) -> int:
    text = node.text.lower().rstrip("u")
    return int(text, 16 if text.startswith("0x") else 10)


def _not_among(keys: tuple[Node, ...], name: object) -> str | None:
    known = [engine.constant(key.text) for key in keys if isinstance(key, Constant)]
    return f"there is no {name!r} among these" if len(known) == len(keys) and name not in known else None
