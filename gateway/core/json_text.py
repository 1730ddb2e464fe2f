"""JSON from outside: how deep it may be, and how much of an odd document can still be used.

Parsers bound the depth by how much stack they have, which differs by parser, by version and by
machine. The rule here is our own and comes before any parser: `MAX_DEPTH` levels.
"""

import json
import math
import re
from collections import Counter
from itertools import accumulate
from typing import Final

from gateway.core.model import JSON

MAX_DEPTH: Final = 64
"""Levels of lists and objects in one text."""
_LONGEST_INTEGER: Final = 300
"""Digits. More than fit a double are no number for any use here, and Python refuses to read thousands."""

# The closing quote is optional: a text that ends within a string is read once, and not from each quote on.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_PIECE: Final = re.compile(_STRING.pattern + rb"|[\[{]|[\]}]", re.DOTALL)
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SLICE: Final = 64 * 1024
"""Brackets that are counted without a pause for other threads."""


MAX_VALUES: Final = 50_000
"""Values in one document that `read` reads: a bound of the time that it takes."""


class TooDeep(ValueError):
    """A JSON text is nested deeper than it may be."""

    def __init__(self, levels: int) -> None:
        super().__init__(f"it is nested deeper than {levels} levels")


def check_depth(text: bytes, levels: int = MAX_DEPTH) -> None:
    """Raise `TooDeep` when a JSON text is nested deeper than `levels`; brackets in strings do not count.

    Takes time in the length of the text, whatever it holds, and next to none for a text with few
    brackets. Whether the text is JSON is the parser's to tell.
    """
    if text.count(b"[") + text.count(b"{") <= levels:
        return
    # One byte for each bracket, which is 1 for one that opens and, signed, -1 for one that closes.
    steps = memoryview(_STRING.sub(b"", text).translate(_STEPS, _NO_BRACKETS)).cast("b")
    depth = 0
    for start in range(0, len(steps), _SLICE):
        depths = tuple(accumulate(steps[start : start + _SLICE], initial=depth))
        if max(depths) > levels:
            raise TooDeep(levels)
        depth = depths[-1]


class Repeated(dict[str, JSON]):
    """An object in which names occur twice; of each the last value is kept."""

    names: frozenset[str]
    """Those that do."""


def read(octets: bytes) -> JSON:
    """Read a document that another system published, and keep what is odd in it where it is.

    A number beyond a double becomes an infinity, what is nested too deep is not read and becomes a NaN, text
    that is no Unicode keeps lone surrogates, an object with a name that occurs twice becomes a
    `Repeated`: `oddity` finds them. So one odd value costs what it belongs to, and not the document.
    Raises ValueError for what is no JSON at all, or has more than `MAX_VALUES` values.
    """
    if octets.count(b",") + octets.count(b"[") + octets.count(b"{") > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES} values")
    try:
        check_depth(octets)
    except TooDeep:
        octets = _pruned(octets)
    text = octets.decode("utf-8", "surrogateescape")
    value: JSON = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    return value


def oddity(value: JSON) -> str | None:
    """Say what is odd in a value that was read by `read`; None: nothing is."""
    match value:
        case str():
            return None if value.isascii() or _is_unicode(value) else "text that is no Unicode"
        case float():
            if math.isnan(value):
                return f"a NaN, or more than {MAX_DEPTH} levels"
            return None if math.isfinite(value) else "a number beyond all bounds"
        case dict():
            if isinstance(value, Repeated):
                return "a member's name that occurs twice"
            return next(filter(None, map(oddity, (*value, *value.values()))), None)
        case list():
            return next(filter(None, map(oddity, value)), None)
        case _:
            return None


def _pruned(text: bytes) -> bytes:
    """Return a text with NaN in place of each list or object that is nested too deep."""
    kept: list[bytes] = []
    depth = begin = 0
    for piece in _PIECE.finditer(text):
        match text[piece.start()]:
            case 0x5B | 0x7B:  # [ {
                depth += 1
                if depth == MAX_DEPTH + 1:
                    kept += text[begin : piece.start()], b"NaN"
            case 0x5D | 0x7D:  # ] }
                if depth == MAX_DEPTH + 1:
                    begin = piece.end()
                depth -= 1
    if depth <= MAX_DEPTH:
        kept.append(text[begin:])
    return b"".join(kept)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    repeated = Repeated(members)
    counts = Counter(name for name, _ in pairs)
    repeated.names = frozenset(name for name, count in counts.items() if count > 1)
    return repeated


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else math.inf
