"""Warnings about settings that are valid but probably mistakes."""

import re
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from gateway.conditions.analysis import analysed
from gateway.core.assertion import KEYS_PATH
from gateway.core.model import Auth, MissingUser
from gateway.settings.exposure import exposure, is_file
from gateway.settings.findings import Location
from gateway.settings.reading.loading import Problem, Source
from gateway.settings.sections.model import Issuer, Keys, Match, Route, Settings, Upstream
from gateway.settings.urls import is_loopback

_CLOCK: Final = re.compile(
    r"\b(now|clock_timestamp|statement_timestamp|transaction_timestamp)\s*\(|\b(current|local)_?(date|time)",
    re.IGNORECASE,
)
"""What gives the time in SQL."""
_LONG_LEEWAY: Final = 300.0
"""Seconds. Clocks that are farther apart need mending."""
_ADDRESSES: Final = frozenset({"email", "mail", "preferred_username", "unique_name", "upn"})
_LONG_TRUST: Final = 300.0
"""Seconds. An answer about an opaque token that counts longer hides revocations."""


def advice(settings: Settings, source: Source) -> tuple[Problem, ...]:
    """Return a warning for each valid setting that looks like a mistake."""
    return (
        *_server(settings, source),
        *_issuers(settings, source),
        *_introspection(settings, source),
        *exposure(settings, source),
        *_users(settings, source),
        *_upstreams(settings, source),
        *_routes(settings, source),
        *_shadow(settings, source),
        *_limits(settings, source),
    )


def _server(settings: Settings, source: Source) -> Iterator[Problem]:
    decision = settings.decision
    if decision.trusted_proxies and decision.listen is decision.grpc_listen is None:
        yield source.problem(
            ("decision", "trusted_proxies"),
            "lets proxies ask, but nothing listens for them",
            "set decision.listen or decision.grpc_listen, or remove it",
        )
    if settings.server.proxy_protocol and settings.server.listen.startswith("unix:"):
        yield source.problem(
            ("server", "proxy_protocol"),
            "is not read on a Unix socket: a connection that begins with its header gets 400",
            "remove it, or listen on an address",
        )
    tls, where = settings.server.tls, ("server", "tls")
    files = [(key, file) for key, file in (("certificate", tls.certificate), ("key", tls.key)) if file]
    absent = [(key, file) for key, file in files if not is_file(file)]
    for key, file in absent:
        yield _no_file(source, (*where, key), file)
    if tls.certificate is not None and tls.key is not None and not absent:
        try:
            # With the empty password, OpenSSL does not ask the terminal for the password of an encrypted key.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
        except OSError:
            yield source.problem(
                where,
                "cannot be used: it is not readable, not PEM, encrypted, or the key of another certificate",
                "give a certificate and its unencrypted key, both in PEM and readable by the gateway",
            )


def _no_file(source: Source, where: Location, file: Path) -> Problem:
    return source.problem(where, f"names {file}, which is not a file", "create the file, or correct the path")


def _issuers(settings: Settings, source: Source) -> Iterator[Problem]:
    ca = settings.jwks.ca
    if ca is not None and not is_file(ca):
        yield _no_file(source, ("jwks", "ca"), ca)
    elif ca is not None:
        try:
            ssl.create_default_context(cafile=ca)
        except OSError:
            yield source.problem(
                ("jwks", "ca"),
                "cannot be used: it is not readable, or has no PEM certificate",
                "correct the file",
            )
    for index, issuer in enumerate(settings.issuers):
        for place, keys in enumerate(issuer.keys):
            yield from _keys(("issuers", index, "keys", place), issuer.issuer, keys, source)
        yield from _lenience(("issuers", index), issuer, source)
        yield from _provisioning(("issuers", index, "provisioning"), issuer, settings, source)


def _lenience(where: Location, issuer: Issuer, source: Source) -> Iterator[Problem]:
    """Warn of what lets tokens, or their users, be taken for more than they are."""
    timeless = {"exp", "/exp"}.isdisjoint(issuer.require) and issuer.max_lifetime is None
    if timeless and issuer.introspection is None:
        yield source.problem(
            (*where, "require"), "lacks exp: a token without it is accepted forever", "add exp"
        )
    if issuer.leeway > _LONG_LEEWAY:
        yield source.problem(
            (*where, "leeway"),
            "is long: expired tokens are accepted for as long",
            "write 30s, and synchronise the clocks",
        )
    if issuer.subject.removeprefix("/") in _ADDRESSES:
        yield source.problem(
            (*where, "subject"),
            "is an address, which can change hands, and which users of some issuers choose themselves",
            "write sub, or the claim with the user's ID, as oid or uid",
        )


def _keys(where: Location, iss: str, keys: Keys, source: Source) -> Iterator[Problem]:
    url = iss if keys.discovery else keys.jwks_uri
    if url is not None and url.startswith("http://") and not is_loopback(url):
        yield source.problem(
            where,
            "are fetched over plain http",
            "use https: an attacker on the network could forge any token",
        )
    for name, file in _key_files(keys):
        if not is_file(file):
            yield _no_file(source, (*where, name), file)


def _introspection(settings: Settings, source: Source) -> Iterator[Problem]:
    for index, issuer in enumerate(settings.issuers):
        rules, where = issuer.introspection, ("issuers", index, "introspection")
        if rules is None:
            continue
        if rules.endpoint.startswith("http://") and not is_loopback(rules.endpoint):
            yield source.problem(
                (*where, "endpoint"),
                "is asked over plain http",
                "use https: an attacker on the network could read every token, and call any token active",
            )
        if rules.cache_ttl > _LONG_TRUST:
            yield source.problem(
                (*where, "cache_ttl"),
                "is long: a token that its issuer revokes is accepted until this time is over",
                "write 30s, or at most 5m",
            )
        for name in ("client_secret_file", "private_key_file"):
            file: Path | None = getattr(rules, name)
            if file is not None and not is_file(file):
                yield _no_file(source, (*where, name), file)


def _provisioning(where: Location, issuer: Issuer, settings: Settings, source: Source) -> Iterator[Problem]:
    rules = issuer.provisioning
    if rules is None:
        return
    if all(route.missing_user is not MissingUser.PROVISION for route in settings.routes):
        yield source.problem(
            where, "is used by no route", "write missing_user: provision on a route, or remove it"
        )
    named = [rules.when] if isinstance(rules.when, str) else rules.when
    if rules.email is not None and not any("verified" in path for path in named):
        yield source.problem(
            (*where, "email"),
            "may be an address that its owner has not confirmed",
            "write when: {email_verified: true}, unless the issuer confirms every address",
        )


def _key_files(keys: Keys) -> Iterator[tuple[str, Path]]:
    for name in ("jwks_file", "pem_file", "secret_file"):
        file = getattr(keys, name)
        if file is not None:
            yield name, file


def _users(settings: Settings, source: Source) -> Iterator[Problem]:
    users, where = settings.users.source, ("users", "source")
    if users is None:
        return
    names = tuple(issuer.name for issuer in settings.issuers)
    served = {name for each in users.identities for name in each.issuer or users.issuer or names}
    for index, name in enumerate(names):
        if name not in served:
            yield source.problem(
                ("issuers", index),
                f"({name}) has no identities in users.source: every token of it is 401 user_not_found",
                "name it in an entry of users.source.identities, or remove it",
            )
    for index, rule in enumerate(users.status):
        if rule.until is None and _CLOCK.search(rule.when):
            yield source.problem(
                (*where, "status", index, "when"),
                "depends on the time, and no write reports when it changes",
                'name the instant, as in {when: "banned_until > now()", is: suspended, until: banned_until}',
            )
    if users.changes == "none":
        yield source.problem(
            (*where, "changes"),
            f"is none: a user who is suspended is served for up to {settings.cache.user_ttl:g} s",
            "write changes: triggers, or changes: poll where no trigger may be installed",
        )


def _upstreams(settings: Settings, source: Source) -> Iterator[Problem]:
    used = {route.upstream for route in settings.routes}
    for name, upstream in settings.upstreams.items():
        where = ("upstreams", name)
        if name not in used:
            yield source.problem(where, "is used by no route", "remove it, or route to it")
        if not upstream.tls.verify:
            yield source.problem(
                (*where, "tls", "verify"),
                "is false: an attacker on the network can read and change every request",
                "give tls.ca, the authority that signed its certificate, or tls.server_name",
            )
        for key, file in _tls_files(upstream):
            if not is_file(file):
                yield _no_file(source, (*where, "tls", key), file)


def _tls_files(upstream: Upstream) -> Iterator[tuple[str, Path]]:
    for key in ("ca", "certificate", "key"):
        file = getattr(upstream.tls, key)
        if file is not None:
            yield key, file


def _routes(settings: Settings, source: Source) -> Iterator[Problem]:
    own = {settings.server.health_path: "server.health_path"}
    if settings.assertion is not None:
        own[KEYS_PATH] = "assertion"
    for index, route in enumerate(settings.routes):
        where = ("routes", index)
        cover = next((other for other in settings.routes[:index] if covers(other.match, route.match)), None)
        if cover is not None:
            yield source.problem(
                where,
                f"({route.name}) is never reached: {cover.name} takes all its requests",
                f"move it above {cover.name}, or remove it",
            )
        taker = own.get(route.match.path)
        if taker is not None:
            yield source.problem(
                (*where, "match", "path"),
                f"({route.name}) is never reached: {taker} takes this path",
                "give the route another path",
            )
        yield from _cors((*where, "cors"), route, settings.routes, source)
        yield from _anonymous((*where, "require", "condition"), route, source)
        if route.auth is Auth.NONE and route.upstream is not None:
            yield source.problem((*where, "auth"), f"is none: {route.match.path} is open to all clients")


def _cors(where: Location, route: Route, routes: Sequence[Route], source: Source) -> Iterator[Problem]:
    cors = route.cors
    if cors is None:
        return
    here = [other.match.methods for other in routes if other.match.path == route.match.path]
    unserved = sorted({*cors.methods} - {"*"}.union(*here)) if all(here) else []
    if unserved:
        yield source.problem(
            (*where, "methods"),
            f"lists {unserved[0]}, which no route with this path takes: pages would get 405",
            "add it to match.methods, or remove it",
        )
    if not cors.credentials:
        return
    if "null" in cors.origins:
        yield source.problem(
            (*where, "origins"),
            "lists null together with credentials: a page of any site can take this origin",
            "remove null, or credentials",
        )
    unlisted = sorted({*cors.origins} - {*route.allowed_origins, "null"})
    if route.credentials.cookie is not None and unlisted:
        yield source.problem(
            (*where, "origins"),
            f"lists {unlisted[0]}, which is not in allowed_origins: with the cookie, its pages can only read",
            "add it to allowed_origins, if its pages may also write",
        )


def _anonymous(where: Location, route: Route, source: Source) -> Iterator[Problem]:
    """Warn of a condition that requests without a token cannot meet, where they are welcome."""
    text = route.require.condition
    if text is None or route.auth is not Auth.OPTIONAL:
        return
    analysis = analysed(text)
    of_token = [at for path, at in analysis.places.items() if path[0] in {"user", "claims"}]
    if of_token and not any(path[0] in {"user", "claims"} for path in analysis.guarded):
        yield source.problem(
            where,
            "reads the token or its user, so that requests without a token do not meet it",
            "write !has(claims.sub) || … to let them through, or auth: required",
            min(of_token),
        )


def _shadow(settings: Settings, source: Source) -> Iterator[Problem]:
    """Warn of all that is only counted."""
    hint = "see gateway_shadow_denials_total and /v1/denials?shadow=true, then write enforce"
    if settings.server.mode == "shadow":
        yield source.problem(("server", "mode"), "is shadow: NO request is refused, on any route", hint)
    for index, route in enumerate(settings.routes):
        where: Location = ("routes", index)
        if route.mode == "shadow":
            what = f"is shadow: route {route.name} refuses NO request, not even one without a token"
            yield source.problem((*where, "mode"), what, hint)
        if route.require.condition_mode == "shadow":
            what = f"is shadow: route {route.name} does NOT enforce its condition"
            yield source.problem((*where, "require", "condition_mode"), what, hint)
    for index, issuer in enumerate(settings.issuers):
        if issuer.mode == "shadow":
            what = f"is shadow: signed tokens of {issuer.name} pass on ALL routes, refused or not"
            yield source.problem(("issuers", index, "mode"), what, hint)


def covers(earlier: Match, later: Match) -> bool:
    """Return whether every request that matches `later` also matches `earlier`."""
    return (
        _includes(earlier.methods, later.methods)
        and _hosts_cover(earlier.hosts, later.hosts)
        and _path_covers(earlier.path, later.path)
    )


def _includes(earlier: tuple[str, ...], later: tuple[str, ...]) -> bool:
    """Return whether one list of choices contains all of another. An empty list means any."""
    return not earlier or (bool(later) and set(later) <= set(earlier))


def _hosts_cover(earlier: tuple[str, ...], later: tuple[str, ...]) -> bool:
    """Return whether the hosts of one list include all of another. `*.` stands for all names below."""
    ends = tuple(host[1:] for host in earlier if host.startswith("*."))
    return not earlier or (bool(later) and all(host in earlier or host.endswith(ends) for host in later))


def _path_covers(earlier: str, later: str) -> bool:
    above, below = (path.removesuffix("/**").split("/")[1:] for path in (earlier, later))
    if not earlier.endswith("/**") and (later.endswith("/**") or len(below) != len(above)):
        return False
    # `*` matches any segment except the empty one after a final slash.
    return len(below) >= len(above) and all(
        mine == theirs or (mine == "*" and theirs != "") for mine, theirs in zip(above, below, strict=False)
    )


def _limits(settings: Settings, source: Source) -> Iterator[Problem]:
    """Warn of limits that do not count what other proxies ask about."""
    if settings.decision.listen is None and settings.decision.grpc_listen is None:
        return
    for index, limit in enumerate(settings.limits):
        if limit.concurrency is not None:
            yield source.problem(
                ("limits", index, "concurrency"),
                "does not count what other proxies ask about: they do not tell when a request ends",
                "limit it in those proxies, or give a rate",
            )
