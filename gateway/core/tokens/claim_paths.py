"""Paths into a token's claims: the one place that reads them.

A path that begins with `/` is a JSON Pointer (RFC 6901): its names may hold dots, and `0` is the first
element of a list. Any other path is first taken as the name of one claim, dots and all, because names that
are URLs carry dots. Where no claim has that name, the path is dotted: each part names a member.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from gateway.core.model import JSON

POINTER: Final = re.compile("(?:/(?:[^\x00-\x1f\x7f~/]|~[01])+)+")
"""The JSON Pointers that a configuration may have: no empty names, and no control characters."""
DOTTED: Final = re.compile(r"[^\s./][^\s.]*(?:\.[^\s.]+)*")
"""All other paths: names without white space, joined by dots."""
_INDEX: Final = re.compile("0|[1-9][0-9]{0,5}")


def at_path(payload: Mapping[str, JSON], path: str) -> JSON:
    """Return the claim at a path; None if there is none, or if it is null."""
    if not path.startswith("/") and (path in payload or "." not in path):
        return payload.get(path)
    value: JSON = dict(payload)
    for name in _names(path):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and path.startswith("/") and _INDEX.fullmatch(name):
            value = value[int(name)] if int(name) < len(value) else None
        else:
            return None
    return value


def claims_on(path: str) -> tuple[str, ...]:
    """Return the names of the claims, at the top of the payload, that a path may lead to."""
    first = _names(path)[0]
    return (first,) if path.startswith("/") else (path, first)


@lru_cache(maxsize=1024)
def _names(path: str) -> tuple[str, ...]:
    if not path.startswith("/"):
        return tuple(path.split("."))
    # `~1` first: `~01` is the name `~1` (RFC 6901 §4).
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in path[1:].split("/"))
