"""Where in a token that stands which the configuration looks for elsewhere, or in another spelling."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Final

from gateway.core.model import JSON

_SCOPES: Final = ("scope", "scopes", "scp", "permissions", "perms", "authorities", "entitlements")
_ROLES: Final = ("roles", "role", "groups", "group", "authorities", "permissions", "entitlements")
_WRITABLE: Final = frozenset(
    {"user_metadata", "unsafe_metadata", "raw_user_meta_data", "public_metadata", "profile"}
)
"""What a user may write at the large providers: nothing in it may grant anything."""
_BETWEEN: Final = re.compile("[.:/]")
_DEPTH: Final = 4
_MOST: Final = 400
"""Values that are looked at."""


@dataclass(frozen=True, slots=True)
class Place:
    """Values at a path of the token."""

    path: str
    """As the configuration names it: dotted, or a JSON Pointer (RFC 6901)."""
    separator: str | None
    """Between the values of a text; None for a list."""
    values: frozenset[str]


def of_scopes(payload: Mapping[str, JSON], wanted: Set[str], audiences: Set[str]) -> Place | None:
    """Return where all the wanted scopes stand, in a claim that is usual for scopes."""
    return _of(payload, wanted, _SCOPES, audiences) or _of(payload, wanted, _ROLES, audiences)


def of_roles(payload: Mapping[str, JSON], wanted: Set[str], audiences: Set[str]) -> Place | None:
    """Return where one of the wanted roles stands, in a claim that is usual for roles."""
    for role in sorted(wanted):
        if (found := _of(payload, {role}, _ROLES, audiences)) is not None:
            return found
    return None


def of_claim(payload: Mapping[str, JSON], path: str) -> str | None:
    """Return the path of a claim of the same name in another place: nested, or behind a URL."""
    name = path.rpartition("/")[2] if path.startswith("/") else path.rpartition(".")[2]
    found = [
        _path(way)
        for way, value in _walk(payload)
        if value is not None and _last(way).lower() == name.lower() and _path(way) != path
    ]
    return found[0] if len(found) == 1 else None


def left_out(payload: Mapping[str, JSON]) -> str | None:
    """Return the claim by which Entra ID says that a token has no groups, because there were too many."""
    names = payload.get("_claim_names")
    if isinstance(names, dict) and not {"groups", "roles", "wids"}.isdisjoint(names):
        return "_claim_names"
    return "hasgroups" if payload.get("hasgroups") in (True, "true") else None


def texts(payload: Mapping[str, JSON]) -> Iterator[tuple[str, str]]:
    """Yield the texts of a token with their paths; numbers count as the text of their digits."""
    for way, value in _walk(payload):
        if isinstance(value, str):
            yield _path(way), value
        elif isinstance(value, int) and not isinstance(value, bool):
            yield _path(way), str(value)


def spelt_otherwise(wanted: Set[str], held: Set[str]) -> dict[str, str]:
    """Return the wanted values of which another spelling is held: in case, or behind a prefix."""
    return {
        each: other
        for each in wanted
        for other in sorted(held)
        if other != each and (other.lower() == each.lower() or _bare(other) == _bare(each))
    }


def _bare(value: str) -> str:
    """Return a scope or role without the name of its API, in one spelling and order of its words."""
    value = value.lower().removeprefix("role_").removeprefix("/")  # Spring, and groups of Keycloak
    if "://" in value:
        value = value.rpartition("/")[2]
    return ":".join(sorted(word.removesuffix("s") for word in _BETWEEN.split(value)))


def _of(
    payload: Mapping[str, JSON], wanted: Set[str], names: tuple[str, ...], audiences: Set[str]
) -> Place | None:
    for way, value in _walk(payload):
        if _last(way).lower() not in names or _of_another_client(way, audiences):
            continue
        for separator, values in _readings(value):
            if wanted <= values:
                return Place(_path(way), separator, values)
    return None


def _of_another_client(way: tuple[str, ...], audiences: Set[str]) -> bool:
    """Return whether Keycloak's `resource_access` names another client: its roles are not ours."""
    return way[0] == "resource_access" and len(way) > 1 and way[1] not in audiences


def _readings(value: JSON) -> Iterator[tuple[str | None, frozenset[str]]]:
    if isinstance(value, str):
        for separator in (" ", ",", ";", "|"):
            yield separator, frozenset(part.strip() for part in value.split(separator))
    elif isinstance(value, list):
        texts = [each for each in value if isinstance(each, str)]
        yield None, frozenset(texts)


def _walk(payload: Mapping[str, JSON]) -> Iterator[tuple[tuple[str, ...], JSON]]:
    """Yield the values with the ways to them, the shallow ones first."""
    level: list[tuple[tuple[str, ...], JSON]] = [((name,), value) for name, value in payload.items()]
    seen = 0
    for _ in range(_DEPTH):
        below: list[tuple[tuple[str, ...], JSON]] = []
        for way, value in level:
            if way[-1] in _WRITABLE:
                continue
            seen += 1
            if seen > _MOST:
                return
            yield way, value
            if isinstance(value, dict):
                below += [((*way, name), inner) for name, inner in value.items()]
        level = below


def _last(way: tuple[str, ...]) -> str:
    """Return the name of a claim, without what stands before it, as in `https://x/roles`."""
    name = way[-1]
    return name.rpartition("/")[2].rpartition(":")[2]


def _path(way: tuple[str, ...]) -> str:
    if len(way) == 1 and not way[0].startswith("/"):
        return way[0]
    if any("." in name or "/" in name for name in way):
        return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in way)
    return ".".join(way)
