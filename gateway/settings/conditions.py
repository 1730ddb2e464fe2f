"""The mistakes in the expressions of a raw configuration, each with its place in the text.

`gateway.conditions.analysis` finds the mistakes of an expression by itself; here are those that depend on
where it stands, and on the other settings.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.conditions.analysis import Analysis, analysed
from gateway.conditions.words import MAP
from gateway.core.headers import fold
from gateway.core.text.sql_text import column_of
from gateway.settings.findings import Finding, Location
from gateway.settings.users.presets import PRESETS
from gateway.settings.values import is_source

_SOURCE_FIELDS: Final = {"tenant": "tenant", "email": "email", "display_name": "display_name",
                         "name": "display_name", "roles": "roles"}  # fmt: skip
"""Fields of `user`, with the settings of `users.source` that give them."""


def condition_findings(data: object, default_identity: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the mistakes of all expressions."""
    if not isinstance(data, Mapping):
        return
    source = _source(data)
    headers = data.get("headers")
    identity = headers.get("identity") if isinstance(headers, Mapping) else None
    identity = identity if isinstance(identity, Mapping) else default_identity
    stripped = {fold(str(name).encode("utf-8", "replace")): str(name) for name in identity}
    for index, route in _entries(data.get("routes")):
        require = route.get("require")
        text = require.get("condition") if isinstance(require, Mapping) else None
        if isinstance(text, str) and text:
            where: Location = ("routes", index, "require", "condition")
            analysis = analysed(text)
            yield from _found(where, analysis, "condition", source)
            yield from _of_route(where, analysis, route, stripped)
    for index, issuer in _entries(data.get("issuers")):
        rules = issuer.get("provisioning")
        text = rules.get("when") if isinstance(rules, Mapping) else None
        if isinstance(text, str) and text:
            where = ("issuers", index, "provisioning", "when")
            analysis = analysed(text)
            yield from _found(where, analysis, "condition", source)
            yield from _only(where, analysis, ("claims",), "there is no user yet, and no request counts")
    for index, limit in _entries(data.get("limits")):
        text = limit.get("when")
        if isinstance(text, str) and text:
            where, analysis = ("limits", index, "when"), analysed(text)
            yield from _found(where, analysis, "condition", source)
            yield from _forgeable(where, analysis, stripped)
    for name, value in identity.items():
        if isinstance(value, str) and not is_source(value):
            where = ("headers", "identity", str(name))
            analysis = analysed(value)
            yield from _found(where, analysis, "value", source)
            why = "a header is the same for all requests of a token"
            yield from _only(where, analysis, ("user", "claims"), why)


def _found(
    where: Location, analysis: Analysis, use: str, source: Mapping[str, object] | None
) -> Iterator[Finding]:
    """Yield what is wrong wherever an expression stands."""
    for fault in analysis.faults:
        yield Finding(where, fault.message, fault.hint, fault.at)
    if analysis.faults:
        return
    if use == "condition" and analysis.odd is not None:
        at, kind = analysis.odd
        yield Finding(where, f"is {kind}, and must be true or false", "compare it, as with ==", at)
    if use == "value" and analysis.kind == MAP:
        yield Finding(where, "is a mapping, which no header can carry", "name one of its fields", 0)
    if not analysis.reads:
        yield Finding(where, "reads nothing, so it is always the same", "compare a field, or remove it", 0)
    yield from _unmapped(where, analysis, source)


def _unmapped(where: Location, analysis: Analysis, source: Mapping[str, object] | None) -> Iterator[Finding]:
    """Yield the fields of users that no setting of `users.source` gives."""
    if source is None:
        return
    for path, at in analysis.places.items():
        if path[0] != "user":
            continue
        setting = _SOURCE_FIELDS.get(path[1])
        if setting is not None and source.get(setting) is None:
            yield Finding(
                where,
                f"`user.{path[1]}` is never there: users.source does not say where it is",
                f"write users.source.{setting}, or remove it here",
                at,
            )
        if path[1] != "attributes":
            continue
        given = _attributes(source.get("attributes"))
        if len(path) == 2 or path[2] in given:
            continue
        known = f"known attributes: {', '.join(sorted(given))}" if given else None
        yield Finding(
            where,
            f"`user.attributes.{path[2]}` is never there: users.source.attributes does not have it",
            known or f"write users.source.attributes: [{path[2]}]",
            at,
        )


def _of_route(
    where: Location, analysis: Analysis, route: Mapping[object, object], stripped: Mapping[bytes, str]
) -> Iterator[Finding]:
    if analysis.faults:
        return
    if route.get("auth") == "none" and (roots := analysis.roots & {"user", "claims"}):
        yield Finding(
            where,
            f"reads `{min(roots)}`, but auth is none",
            "write auth: required or optional, or read request, client and now alone",
            min(at for path, at in analysis.places.items() if path[0] in roots),
        )
    asks = any(path[0] == "user" and len(path) == 2 for path in analysis.guarded)
    if route.get("missing_user") == "forward" and "user" in analysis.roots and not asks:
        yield Finding(
            where,
            "reads `user`, but missing_user: forward also admits tokens without one",
            "write missing_user: deny, or !has(user.id) || … for them",
            min(at for path, at in analysis.places.items() if path[0] == "user"),
        )
    yield from _forgeable(where, analysis, stripped)


def _forgeable(where: Location, analysis: Analysis, stripped: Mapping[bytes, str]) -> Iterator[Finding]:
    """Yield each identity header that is read: of a request, it is the client's."""
    for path, at in analysis.places.items():
        if path[:2] == ("request", "headers") and fold(path[2].encode("utf-8", "replace")) in stripped:
            yield Finding(
                where,
                f"reads {path[2]}, which clients may forge: the gateway removes theirs, and sends its own",
                "read `user` or `claims`, where the value comes from",
                at,
            )


def _only(where: Location, analysis: Analysis, roots: tuple[str, ...], why: str) -> Iterator[Finding]:
    """Yield each part that reads something else."""
    for path, at in analysis.places.items():
        if path[0] not in roots and not analysis.faults:
            yield Finding(where, f"reads `{path[0]}`: {why}", f"read {' and '.join(roots)} alone", at)


def _source(data: Mapping[object, object]) -> Mapping[str, object] | None:
    """Return `users.source` with what its preset fills in; None without one."""
    users = data.get("users")
    source = users.get("source") if isinstance(users, Mapping) else None
    if not isinstance(source, Mapping):
        return None
    preset = PRESETS.get(str(source.get("preset")))
    given = {str(key): value for key, value in source.items()}
    return given if preset is None else {**preset.fields(given), **given}


def _attributes(given: object) -> set[str]:
    if isinstance(given, Mapping):
        return {str(name) for name in given}
    columns = given if isinstance(given, list | tuple) else ()
    return {column_of(name) or name for name in columns if isinstance(name, str)}


def _entries(value: object) -> Iterator[tuple[int, Mapping[object, object]]]:
    entries = value if isinstance(value, list | tuple) else ()
    return ((index, entry) for index, entry in enumerate(entries) if isinstance(entry, Mapping))
