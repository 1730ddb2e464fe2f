"""Values of users and tokens as they stand in a header field of the upstream's request."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from gateway.core.model import JSON

_MAX_REMEMBERED_WORDS: Final = 16
"""Items of a list that is remembered with its encoding."""
# To encode: all outside printable ASCII, and `%`; in lists the comma too, which separates the items.
_UNSAFE: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]|^ +| +$")
_UNSAFE_IN_LIST: Final = re.compile(rb"[^\x20-\x24\x26-\x2b\x2d-\x7e]|^ +| +$")


def encode_value(value: "JSON | tuple[str, ...]") -> bytes | None:
    """Encode a value for a header field; return None if there is nothing to send.

    Text becomes UTF-8, and each octet outside printable ASCII, and `%`, is percent-encoded. So a value cannot
    end the field, and an upstream gets the text back by one percent-decoding. Commas join the items of a
    list; a comma inside an item is encoded.
    """
    if isinstance(value, str):
        return _UNSAFE.sub(_percent, value.encode("utf-8", "replace")) or None
    if isinstance(value, tuple):
        return _encode_words(value) if len(value) <= _MAX_REMEMBERED_WORDS else _encode_list(value)
    if isinstance(value, list):
        return _encode_list(value)
    return _encode(value, _UNSAFE)


def _encode_list(items: Sequence[JSON]) -> bytes | None:
    return b",".join(filter(None, (_encode(item, _UNSAFE_IN_LIST) for item in items))) or None


_encode_words: Callable[[tuple[str, ...]], bytes | None] = lru_cache(maxsize=256)(_encode_list)
"""Remembers the usual sets of roles, scopes and audiences."""


def _encode(value: JSON, unsafe: re.Pattern[bytes]) -> bytes | None:
    if value is None or isinstance(value, list | dict):
        return None
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    octets = unsafe.sub(_percent, text.encode("utf-8", "replace"))
    return octets or None


def _percent(match: re.Match[bytes]) -> bytes:
    return b"".join(b"%%%02X" % octet for octet in match[0])
