"""The rules between fields: names that must be unique or exist, settings that need each other.

The rules read the raw configuration before its fields are checked. So they also find mistakes in a file whose
fields have mistakes. They ignore values of the wrong shape, which the fields report.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from gateway.core.headers import STATUS_HEADER, fold
from gateway.settings.conditions import condition_findings
from gateway.settings.findings import Finding
from gateway.settings.issuers.rules import issuer_findings, prefix_findings
from gateway.settings.listening import listener_findings
from gateway.settings.sections.admin import admin_findings
from gateway.settings.sections.assertion import assertion_findings
from gateway.settings.sections.cors import cors_findings
from gateway.settings.sections.limits import limit_findings
from gateway.settings.urls import base_path
from gateway.settings.users.rules import mistakes
from gateway.settings.values import parse_duration

DEFAULT_IDENTITY: Final[Mapping[str, str]] = {
    "X-User-Id": "user.id",
    "X-User-Roles": "user.roles",
    "X-User-Tenant": "user.tenant",
    "X-Auth-Issuer": "claims.iss",
    "X-Auth-Subject": "claims.sub",
    "X-Auth-Scopes": "claims.scopes",
}
"""The identity headers of a configuration that names none."""


def findings(data: object) -> Iterator[Finding]:
    """Yield every mistake between the settings of a raw configuration."""
    yield from _server(data)
    yield from admin_findings(_mapping(data, "admin"))
    yield from listener_findings({key: _mapping(data, key) for key in ("server", "admin", "decision")})
    yield from _issuers(data)
    yield from _postgres(data)
    yield from _redis(data)
    yield from _headers(data)
    yield from assertion_findings(
        _mapping(data, "assertion"), _texts(_mapping(data, "headers").get("identity", DEFAULT_IDENTITY))
    )
    yield from _upstreams(data)
    yield from _routes(data)
    yield from _limits(data)
    yield from _user_source(data)
    yield from condition_findings(data, DEFAULT_IDENTITY)


def _server(data: object) -> Iterator[Finding]:
    server = _mapping(data, "server")
    tls = _mapping(server, "tls")
    if (tls.get("certificate") is None) != (tls.get("key") is None):
        absent = "certificate" if tls.get("certificate") is None else "key"
        yield Finding(("server", "tls"), f"has no {absent}", "give both certificate and key, or neither")
    if _is_on(server.get("proxy_protocol")) and not server.get("trusted_proxies"):
        yield Finding(
            ("server", "proxy_protocol"),
            "is read from trusted proxies alone, and there are none",
            "list the load balancer in server.trusted_proxies",
        )


def _issuers(data: object) -> Iterator[Finding]:
    issuers = _mappings(data, "issuers")
    yield from _repeated("issuers", "name", issuers)
    yield from _repeated("issuers", "issuer", issuers)
    yield from prefix_findings(issuers)
    for index, issuer in issuers:
        yield from issuer_findings(("issuers", index), issuer)


def _postgres(data: object) -> Iterator[Finding]:
    postgres = _mapping(data, "postgres")
    least, most = _number(postgres.get("pool_min", 2)), _number(postgres.get("pool_max", 10))
    if least is not None and most is not None and least > most:
        yield Finding(
            ("postgres", "pool_min"),
            f"is more than pool_max ({most})",
            f"write at most {most}, or raise pool_max",
        )


def _redis(data: object) -> Iterator[Finding]:
    redis = _mapping(data, "redis")
    url, prefix = redis.get("url"), redis.get("prefix", "gateway:")
    if not isinstance(url, str) or not isinstance(prefix, str):
        return
    if url.partition("://")[0].endswith("+cluster") and not re.match(r"[^{]*\{[^}]+\}", prefix):
        yield Finding(
            ("redis", "prefix"),
            "has no hash tag, so a cluster would spread keys that are read together",
            'write "{gateway}:", so that one node has all keys',
        )


def _user_source(data: object) -> Iterator[Finding]:
    names = {
        name: str(issuer.get("issuer"))
        for _, issuer in _mappings(data, "issuers")
        if isinstance(name := issuer.get("name"), str)
    }
    ttl = _mapping(data, "cache").get("user_ttl", "5m")
    try:
        seconds = parse_duration(ttl)
    except ValueError:
        seconds = None
    source = _mapping(data, "users").get("source")
    for where, message, hint in mistakes(source, names, seconds):
        yield Finding(where, message, hint)


def _headers(data: object) -> Iterator[Finding]:
    seen: dict[bytes, str] = {}
    identity = _mapping(_mapping(data, "headers"), "identity")
    tells_status = any(_is_on(route.get("allow_inactive")) for _, route in _mappings(data, "routes"))
    for name in _texts(identity):
        is_status = fold(name.encode("utf-8", "replace")) == fold(STATUS_HEADER)
        if tells_status and is_status and identity[name] != "user.status":
            yield Finding(
                ("headers", "identity", name),
                "must be user.status: routes with allow_inactive send the status in this header",
                "write user.status, or choose another name",
            )
        first = seen.setdefault(fold(name.encode("utf-8", "replace")), name)
        if first != name:
            yield Finding(
                ("headers", "identity", name),
                f"is the same header as {first} for many servers",
                "headers must differ in more than case and punctuation: rename or remove one",
            )


def _upstreams(data: object) -> Iterator[Finding]:
    upstreams = _mapping(data, "upstreams")
    for name in _texts(upstreams):
        tls = _mapping(_mapping(upstreams, name), "tls")
        if tls.get("key") is not None and tls.get("certificate") is None:
            yield Finding(
                ("upstreams", name, "tls", "key"), "has no certificate", "also give tls.certificate"
            )
        bases = {base_path(url) for url in _texts(_mapping(upstreams, name).get("urls"))}
        if len(bases) > 1:
            yield Finding(
                ("upstreams", name, "urls"),
                f"have different base paths: {', '.join(base or '/' for base in sorted(bases))}",
                "give all instances the same path, or write one upstream for each",
            )


def _credentials(index: int, route: Mapping[object, object]) -> Iterator[Finding]:
    places = [place for place, name in _mapping(route, "credentials").items() if name]
    if places and route.get("auth") == "none":
        yield Finding(
            ("routes", index, "credentials"),
            "are not checked where auth is none",
            "write auth: required or optional, or remove credentials",
        )
    if route.get("allowed_origins") and "cookie" not in places:
        yield Finding(
            ("routes", index, "allowed_origins"),
            "are only for cookies, and credentials.cookie is not set",
            "give credentials.cookie, or remove allowed_origins",
        )


def _strip_prefix(index: int, route: Mapping[object, object]) -> Iterator[Finding]:
    prefix, path = route.get("strip_prefix"), _mapping(route, "match").get("path")
    if not isinstance(prefix, str) or not isinstance(path, str) or not prefix.startswith("/"):
        return
    if path != prefix and not path.startswith(f"{prefix}/"):
        yield Finding(
            ("routes", index, "strip_prefix"),
            f"{prefix} is not the beginning of {path}",
            "write the first segments of match.path in the same spelling",
        )


def _routes(data: object) -> Iterator[Finding]:
    routes = _mappings(data, "routes")
    upstreams = _texts(_mapping(data, "upstreams"))
    provisioning = any(issuer.get("provisioning") is not None for _, issuer in _mappings(data, "issuers"))
    source = _mapping(data, "users").get("source")
    creates = source is None or _is_on(_mapping(_mapping(data, "users"), "source").get("writable"))
    decision = _mapping(data, "decision")
    decides = decision.get("listen") is not None or decision.get("grpc_listen") is not None
    yield from _repeated("routes", "name", routes)
    for index, route in routes:
        upstream = route.get("upstream")
        if isinstance(upstream, str) and upstream and upstream not in upstreams:
            yield Finding(
                ("routes", index, "upstream"),
                f"there is no upstream {upstream!r}",
                nearest(upstream, upstreams),
            )
        if upstream is None and "upstream" in route and not decides:
            yield Finding(
                ("routes", index, "upstream"),
                "is null: the route is for other proxies, but decision.listen is not set",
                "name an upstream, or set decision.listen",
            )
        yield from _strip_prefix(index, route)
        yield from _credentials(index, route)
        yield from cors_findings(index, route)
        yield from _missing_user(index, route, provisioning=provisioning, creates=creates)
        # A condition may ask for less than a user: `settings.conditions` looks at it.
        exempt = ("condition", "condition_mode")
        asked = [key for key, value in _mapping(route, "require").items() if value and key not in exempt]
        if route.get("auth") == "none" and asked:
            yield Finding(
                ("routes", index, "require"),
                "needs a user, but auth is none",
                "write auth: required, or remove require",
            )


def _limits(data: object) -> Iterator[Finding]:
    limits = _mappings(data, "limits")
    names = [route.get("name") for _, route in _mappings(data, "routes")]
    yield from _repeated("limits", "name", limits)
    yield from limit_findings(limits, _texts(names))


def _missing_user(
    index: int, route: Mapping[object, object], *, provisioning: bool, creates: bool
) -> Iterator[Finding]:
    """Check the settings about users who are missing or not active."""
    missing = route.get("missing_user", "deny")
    allowed = _is_on(route.get("allow_inactive"))
    for key, given in (("missing_user", missing != "deny"), ("allow_inactive", allowed)):
        if given and route.get("auth") == "none":
            yield Finding(
                ("routes", index, key),
                "needs a token, but auth is none",
                f"write auth: required or optional, or remove {key}",
            )
    if missing == "provision" and not creates:
        yield Finding(
            ("routes", index, "missing_user"),
            "creates users, but users.source is read-only",
            "let the system create them and write missing_user: forward, or set users.source.writable: true",
        )
    if missing == "provision" and not provisioning:
        yield Finding(
            ("routes", index, "missing_user"),
            "creates users, but no issuer has provisioning",
            "give provisioning to the issuer whose tokens may create users",
        )
    for key in ("roles", "tenant"):
        if missing == "forward" and _mapping(route, "require").get(key):
            yield Finding(
                ("routes", index, "missing_user"),
                f"forwards requests without a user, but require.{key} needs one",
                f"write missing_user: deny, or remove require.{key}",
            )


def nearest(name: str, known: list[str]) -> str | None:
    """Suggest the known name that was probably meant, or list the known names."""
    close = closest(name, known)
    if close is not None:
        return f"did you mean {close}?"
    return f"known names: {', '.join(known)}" if known else None


def closest(name: str, known: list[str]) -> str | None:
    """Return the known name that was probably meant, if one is similar."""
    return next(iter(get_close_matches(name.lower(), known, n=1)), None)


def _repeated(
    section: str, key: str, entries: list[tuple[int, Mapping[object, object]]]
) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, entry in entries:
        value = entry.get(key)
        if isinstance(value, str) and first.setdefault(value, index) != index:
            yield Finding(
                (section, index, key),
                f"{value!r} is also the {key} of {section}[{first[value]}]",
                f"each of {section} needs its own {key}",
            )


def _is_on(value: object) -> bool:
    return value not in (None, False, "false")


def _number(value: object) -> int | None:
    """Return a number; the environment gives it as text."""
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else None


def _texts(values: object) -> list[str]:
    """Return the strings in a list, or among the keys of a mapping."""
    return [value for value in values if isinstance(value, str)] if isinstance(values, Iterable) else []


def _mapping(data: object, key: str) -> Mapping[str, object]:
    value = data.get(key) if isinstance(data, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _mappings(data: object, key: str) -> list[tuple[int, Mapping[object, object]]]:
    value = data.get(key) if isinstance(data, Mapping) else None
    entries = value if isinstance(value, list | tuple) else ()
    return [(index, entry) for index, entry in enumerate(entries) if isinstance(entry, Mapping)]
