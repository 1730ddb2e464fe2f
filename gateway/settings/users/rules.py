"""The rules between `users.source` and the rest of a raw configuration."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from gateway.core.tokens.issuer_patterns import is_pattern
from gateway.settings.users.presets import PRESETS

Mistake: TypeAlias = tuple[tuple[str | int, ...], str, str]
"""Where, what is wrong, and what to write."""

_WHERE: Final = ("users", "source")
_LONGEST_TTL: Final = 30.0
"""Seconds for which users may be remembered where no changes become known."""


def mistakes(data: object, issuers: Mapping[str, str], user_ttl: float | None) -> Iterator[Mistake]:
    """Yield the mistakes. `issuers` maps names to `iss`; `user_ttl` is `cache.user_ttl` in seconds."""
    if not isinstance(data, Mapping):
        return
    yield from _issuers(data, list(issuers))
    yield from _tenants(data, issuers)
    changes = data.get("changes", "poll" if data.get("preset") == "keycloak" else "triggers")
    if changes == "none" and (user_ttl is None or user_ttl > _LONGEST_TTL):
        yield (
            (*_WHERE, "changes"),
            "is none: a user who is suspended is served for `cache.user_ttl`, which is longer than 30 s",
            "write cache: {user_ttl: 30s, local_ttl: 30s} or less, or changes: triggers or poll",
        )
    poll = data.get("poll")
    if poll is not None and changes != "poll":
        yield (*_WHERE, "poll"), "is only for changes: poll", "write changes: poll, or remove poll"


def _issuers(data: Mapping[object, object], known: Sequence[str]) -> Iterator[Mistake]:
    identities = data.get("identities")
    preset = data.get("preset")
    default = _names(data.get("issuer"))
    if isinstance(identities, list | tuple):
        for index, each in enumerate(identities):
            if isinstance(each, Mapping):
                yield from _named(
                    (*_WHERE, "identities", index, "issuer"), each.get("issuer"), default, known
                )
    elif isinstance(preset, str) and preset in PRESETS:
        yield from _named((*_WHERE, "issuer"), None, default, known)
    if data.get("issuer") is not None:
        yield from _named((*_WHERE, "issuer"), data["issuer"], (), known)


def _tenants(data: Mapping[object, object], issuers: Mapping[str, str]) -> Iterator[Mistake]:
    """Yield each place whose subjects belong to tenants that it does not name."""
    identities = data.get("identities")
    default = _names(data.get("issuer")) or tuple(issuers)
    entries = identities if isinstance(identities, list | tuple) else ({},)
    for index, each in enumerate(entries):
        if not isinstance(each, Mapping):
            continue
        where = (*_WHERE, "identities", index) if identities is not None else (*_WHERE, "identities")
        patterns = [
            name for name in _names(each.get("issuer")) or default if is_pattern(issuers.get(name, ""))
        ]
        if patterns and each.get("tenant") is None:
            yield (
                where,
                f"has no tenant, and {patterns[0]} has many: one tenant could name the users of another",
                "write tenant: with the column that has the tenant of the token's iss",
            )
        if each.get("tenant") is not None and not patterns:
            yield (*where, "tenant"), "is only for an issuer with {tenant}", "remove it, or use where"


def _named(
    where: tuple[str | int, ...], names: object, default: Sequence[str], known: Sequence[str]
) -> Iterator[Mistake]:
    own = _names(names)
    if not own and not default and len(known) > 1:
        yield where, "is missing, and there are several issuers", f"write one or more of {', '.join(known)}"
    for name in own:
        if name not in known:
            yield where, f"there is no issuer {name!r}", f"known names: {', '.join(known)}"


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list | tuple) else ()
