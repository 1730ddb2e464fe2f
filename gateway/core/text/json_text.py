"""JSON from outside: the limit of its depth, and how much of an odd document is usable.

Parsers limit the depth by the size of their stack, which differs by parser, version and machine. This module
has its own rule, which is checked before any parser: `MAX_DEPTH` levels.
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
"""Digits. No number here needs more than a double has, and Python refuses to parse thousands."""

# The closing quote is optional, so that a text that ends within a string is scanned once, not from each
# quote.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_PIECE: Final = re.compile(_STRING.pattern + rb"|[\[{]|[\]}]", re.DOTALL)
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SLICE: Final = 64 * 1024
"""Brackets that are counted without a pause for other threads."""


MAX_VALUES: Final = 50_000
"""The largest number of values in a document for `read`. It limits the time."""


class TooDeep(ValueError):
    """A JSON text is nested too deep."""

    def __init__(self, levels: int) -> None:
        super().__init__(f"it is nested deeper than {levels} levels")


def check_depth(text: bytes, levels: int = MAX_DEPTH) -> None:
    """Raise `TooDeep` when a JSON text is nested deeper than `levels`; brackets in strings do not count.

    The time is linear in the length of the text, and almost zero for a text with few brackets. The parser
    decides whether the text is JSON.
    """
    if text.count(b"[") + text.count(b"{") <= levels:
        return
    # One signed byte for each bracket: 1 for an opening one, -1 for a closing one.
    steps = memoryview(_STRING.sub(b"", text).translate(_STEPS, _NO_BRACKETS)).cast("b")
    depth = 0
    for start in range(0, len(steps), _SLICE):
        depths = tuple(accumulate(steps[start : start + _SLICE], initial=depth))
        if max(depths) > levels:
            raise TooDeep(levels)
        depth = depths[-1]


class Repeated(dict[str, JSON]):
    """An object in which names occur twice. The last value of each is kept."""

    names: frozenset[str]
    """The names that occur twice."""


def read(octets: bytes) -> JSON:
    """Parse a document of another system, and mark its odd values.

    A number beyond a double becomes an infinity, a value that is nested too deep becomes a NaN, text that is
    not Unicode keeps lone surrogates, and an object with a name that occurs twice becomes a `Repeated`:
    `oddity` finds them. So an odd value affects only the entry that contains it, not the document. Raises
    ValueError for text that is not JSON, or has more than `MAX_VALUES` values.
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
    """Return what is odd in a value from `read`; None if nothing is."""
    match value:
        case str():
            return None if value.isascii() or _is_unicode(value) else "text that is not Unicode"
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
