"""Settings → the values of the rooms, which do not know the settings.

A setting of an issuer, a route, an upstream or the limits becomes the field of the same name, without code
for each. A setting without a field is an error. `gateway.app` and `gateway.builders` pass most other settings
on explicitly.
"""

import hashlib
import os
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.conditions.expression import Expression
from gateway.core.conditions import Condition
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import ClaimPaths, CredentialSources, Issuer, Provisioning, Requirement, Route
from gateway.core.networks import contains
from gateway.core.requests.forwarding import ForwardingRules
from gateway.core.requests.fronts import Questions
from gateway.core.shadow import Shadow
from gateway.core.tokens.issuer_patterns import TENANT
from gateway.core.tokens.jws import ASYMMETRIC_ALGORITHMS, HMAC_ALGORITHMS
from gateway.explain import Login, Setup
from gateway.issuer_keys.client_authentication import ClientAuthentication, ClientSecret, PrivateKeyJwt
from gateway.issuer_keys.fetch import Fetcher
from gateway.issuer_keys.introspection import Endpoint
from gateway.issuer_keys.sources import (
    Discovery,
    JwksFile,
    JwksUri,
    KeySource,
    PemFile,
    PerTenant,
    Restricted,
    Secret,
    SecretFile,
    Several,
)
from gateway.proxy.downstream.limits import Limits
from gateway.proxy.upstream.options import UpstreamRules
from gateway.settings import Settings
from gateway.settings.sections import model
from gateway.settings.sections.section import Section
from gateway.settings.values import is_source
from gateway.stores.postgres.hosts import address_of, place_of
from gateway.stores.postgres.source.definition import UserSource

T = TypeVar("T")


def derived(section: Section, value: type[T], *, elsewhere: Collection[str] = (), **given: object) -> T:
    """Create a frozen dataclass from a section of the settings, field by field of the same name.

    Sections within it become the declared types, and tuples become sets if a set is declared. `given` has the
    fields that are not copied, `elsewhere` the settings that are used elsewhere. Raises TypeError for a
    setting that would be ignored, and for a field without a value.
    """
    hints = get_type_hints(value)
    for name in type(section).model_fields:
        if name in given or name in elsewhere:
            continue
        if name not in hints:
            raise TypeError(
                f"the setting `{name}` of {type(section).__name__} has no place in {value.__name__}"
            )
        given[name] = _as_declared(getattr(section, name), hints[name])
    return value(**given)


def _as_declared(setting: object, hint: object) -> object:
    if isinstance(setting, tuple) and setting and isinstance(setting[0], Section):
        return tuple(_as_declared(each, get_args(hint)[0]) for each in setting)
    if isinstance(setting, dict) and any(isinstance(each, Section) for each in setting.values()):
        return {name: _as_declared(each, get_args(hint)[1]) for name, each in setting.items()}
    if isinstance(setting, Section):
        (declared,) = (
            each for each in (hint, *get_args(hint)) if isinstance(each, type) and is_dataclass(each)
        )
        return derived(setting, declared)
    sets = any(get_origin(each) is frozenset for each in (hint, *get_args(hint)))
    return frozenset(setting) if isinstance(setting, tuple) and sets else setting


def issuer(issuer: model.Issuer) -> Issuer:
    claims = derived(issuer.claims, ClaimPaths)
    if issuer.tenants is not None and "tenant" not in issuer.claims.model_fields_set:
        claims = replace(claims, tenant=None)
    return derived(
        issuer,
        Issuer,
        elsewhere={"keys", "introspection", "mode"},
        claims=claims,
        provisioning=_provisioning(issuer.provisioning),
    )


def shadow(settings: Settings) -> Shadow | None:
    """Return what is in shadow; None if nothing is."""
    issuers = frozenset(each.name for each in settings.issuers if each.mode == "shadow")
    routes = any("shadow" in {each.mode, each.require.condition_mode} for each in settings.routes)
    return Shadow(issuers) if issuers or routes or settings.server.mode == "shadow" else None


def _provisioning(rules: model.Provisioning | None) -> Provisioning | None:
    if rules is None or not isinstance(rules.when, str):
        return None if rules is None else derived(rules, Provisioning)
    return derived(rules, Provisioning, when={}, condition=Expression(rules.when))


def routes(settings: Settings, clock: Callable[[], float] = time.time) -> tuple[Route, ...]:
    """Return all routes in order. `clock` gives the Unix seconds of their conditions."""
    size, forwards = settings.server.limits.body_size, settings.headers.forward_authorization
    return tuple(
        replace(
            route(each, size, forward_authorization=forwards, clock=clock),
            base_path="" if each.upstream is None else settings.upstreams[each.upstream].base_path,
            shadow="shadow" in {settings.server.mode, each.mode},
        )
        for each in settings.routes
    )


def route(
    route: model.Route,
    body_size: int,
    *,
    forward_authorization: bool = False,
    clock: Callable[[], float] = time.time,
) -> Route:
    """Return a route, but for the base path of its upstream.

    `body_size` and `forward_authorization` hold where the route does not say otherwise.
    """
    return derived(
        route,
        Route,
        elsewhere={"match", "upgrade", "allowed_origins", "mode"},
        shadow=route.mode == "shadow",
        path=route.match.path,
        methods=frozenset(route.match.methods),
        hosts=frozenset(route.match.hosts),
        credentials=_credentials(route),
        require=derived(
            route.require,
            Requirement,
            elsewhere={"condition_mode"},
            condition=_condition(route.require.condition, clock),
            condition_shadow=route.require.condition_mode == "shadow",
        ),
        upgrades=frozenset(route.upgrade),
        strip_prefix=route.strip_prefix or "",
        allow=frozenset(route.match.allow),
        forward_authorization=(
            forward_authorization if route.forward_authorization is None else route.forward_authorization
        ),
        max_body=body_size if route.max_body is None else route.max_body,
    )


def _condition(text: str | None, clock: Callable[[], float]) -> Condition | None:
    return None if text is None else Expression(text, clock)


def _credentials(route: model.Route) -> CredentialSources | None:
    places = route.credentials
    if places.cookie is places.query is places.subprotocol is None:
        return None
    return derived(places, CredentialSources, allowed_origins=frozenset(route.allowed_origins))


def limits(limits: model.Limits) -> Limits:
    return derived(limits, Limits, elsewhere={"body_size"})  # it belongs to the routes


def workers(server: model.Server) -> int:
    """Return how many processes serve; `auto`: one for each core that this process may use."""
    if server.workers != "auto":
        return server.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def upstream(name: str, upstream: model.Upstream) -> UpstreamRules:
    return derived(upstream, UpstreamRules, name=name)


def headers(settings: Settings) -> HeaderPolicy:
    return HeaderPolicy(
        HeaderRules(
            {
                name: value if is_source(value) else Expression(value)
                for name, value in settings.headers.identity.items()
            },
            settings.server.trusted_proxies,
            settings.headers.strip,
            ForwardingRules(settings.headers.forwarded, settings.headers.x_real_ip, settings.headers.via),
            tells_fronts=not (settings.decision.listen is settings.decision.grpc_listen is None),
            assertion=None if settings.assertion is None else settings.assertion.header,
        )
    )


def questions(settings: Settings, headers: HeaderPolicy) -> Questions:
    """Return what reads the questions of other proxies."""
    proxies = (*settings.decision.trusted_proxies, *settings.server.trusted_proxies)
    return Questions(headers.told_names, contains(proxies), headers.stripped)


def user_source(settings: Settings) -> UserSource | None:
    """Return the tables that have the users; None: they are the gateway's own."""
    source = settings.users.source
    if source is None:
        return None
    names = tuple(issuer.name for issuer in settings.issuers)
    defined = derived(source, UserSource, elsewhere=_USED_ELSEWHERE)
    return replace(
        defined,
        identities=tuple(
            replace(each, issuer=each.issuer or source.issuer or names) for each in defined.identities
        ),
    )


def own_tables(settings: Settings) -> str:
    """Return the name of the gateway's own tables, for the database of a source."""
    source, postgres = settings.users.source, settings.postgres
    if source is None or source.dsn is None:
        return f"schema {postgres.schema_name}"
    database = _login(postgres.dsn.get_secret_value()).database
    return f"schema {postgres.schema_name} of database {database}"


def users_from(settings: Settings) -> str:
    """Return a text that tells the tables of users and how they are read; empty: the gateway's own.

    What is in Redis of users counts for one configuration of `users.source`, and for no other.
    """
    defined, source = user_source(settings), settings.users.source
    if defined is None or source is None:
        return ""
    place = place_of((source.dsn or settings.postgres.dsn).get_secret_value(), defined.schema_name)
    return hashlib.sha256(f"{place} {defined}".encode()).hexdigest()[:16]


_USED_ELSEWHERE: Final = frozenset(
    {"preset", "provider", "realm", "issuer", "dsn", "replica_dsn", "listen_dsn"}
)
"""Settings of a source that are not about its tables. The first three have become others."""


_KEY_SOURCES: Final[Mapping[str, Callable[[str, Any], KeySource]]] = {
    "discovery": lambda iss, _: Discovery(iss),
    "jwks_uri": lambda iss, url: JwksUri(url, iss),
    "jwks_file": lambda iss, path: JwksFile(path, iss),
    "pem_file": lambda _, path: PemFile(path),
    "secret": lambda _, secret: Secret(secret.get_secret_value().encode()),
    "secret_file": lambda _, path: SecretFile(path),
}
"""By the name of the setting."""


def key_source(issuer: model.Issuer) -> KeySource:
    """Return the configured source, or sources. Raises TypeError for a setting that would be ignored."""
    if issuer.introspection is not None:
        return introspection(issuer, issuer.introspection)
    tenants = issuer.tenants
    if tenants is None:
        return _sources(issuer, issuer.issuer)
    return PerTenant(
        lambda tenant: _sources(issuer, issuer.issuer.replace(TENANT, tenant), tenant),
        None if tenants == "any" else tenants,
    )


def _sources(issuer: model.Issuer, iss: str, tenant: str = "") -> KeySource:
    keys = issuer.keys
    if len(keys) == 1 and keys[0].algorithms is None:
        return _source(keys[0], iss, tenant)
    return Several(tuple(Restricted(_source(each, iss, tenant), _algorithms(each, issuer)) for each in keys))


def _algorithms(keys: model.Keys, issuer: model.Issuer) -> frozenset[str]:
    """Return what the keys of one of several sources are for."""
    if keys.algorithms is not None or "algorithms" not in issuer.model_fields_set:
        return frozenset(keys.fitting_algorithms)
    return frozenset(issuer.algorithms) & (HMAC_ALGORITHMS if keys.has_secret else ASYMMETRIC_ALGORITHMS)


def _source(keys: model.Keys, iss: str, tenant: str) -> KeySource:
    settings = ((name, getattr(keys, name)) for name in type(keys).model_fields if name != "algorithms")
    given = {name: value for name, value in settings if value is not None and value is not False}
    for name in given.keys() - _KEY_SOURCES.keys():
        raise TypeError(f"the setting `{name}` of {type(keys).__name__} makes no key source")
    ((name, value),) = given.items()
    return _KEY_SOURCES[name](iss, value.replace(TENANT, tenant) if name == "jwks_uri" else value)


def introspection(issuer: model.Issuer, settings: model.Introspection) -> Endpoint:
    """Return the endpoint at which an issuer is asked about opaque tokens."""
    client: ClientAuthentication
    if settings.private_key_file is not None:
        client = PrivateKeyJwt(
            settings.client_id, settings.private_key_file, settings.key_id, issuer.issuer, time.time
        )
    elif settings.client_secret is not None:
        client = ClientSecret(settings.client_id, settings.client_secret.get_secret_value())
    else:
        client = ClientSecret(settings.client_id, Path(settings.client_secret_file or ""))
    return Endpoint(settings.endpoint, client, settings.cache_ttl)


def opaque_issuers(issuers: Iterable[model.Issuer]) -> list[tuple[Issuer, str, Endpoint]]:
    """Return the issuers of opaque tokens, each with its prefix and its endpoint."""
    return [
        (issuer(entry), entry.introspection.prefix, introspection(entry, entry.introspection))
        for entry in issuers
        if entry.introspection is not None
    ]


def fetcher(jwks: model.Jwks, keep_alive: float | None = None) -> Fetcher:
    """Return the fetcher of issuers' keys. Call it inside a running event loop.

    `keep_alive` is how many seconds connections are kept open, if at all.

    Raises OSError if `jwks.ca` cannot be read.
    """
    return Fetcher(
        timeout=jwks.timeout,
        strict=jwks.tls.strict,
        tls=None if jwks.ca is None else _authorities(jwks.ca),
        proxy=None if jwks.proxy is None else jwks.proxy.get_secret_value(),
        keep_alive=keep_alive,
    )


def _authorities(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise OSError(f"jwks.ca: {ca} cannot be used: {error.strerror or error}") from error


def _login(dsn: str) -> Login:
    """Return the address, user and database of a DSN."""
    parts = urlsplit(dsn)
    named = parse_qs(parts.query)
    user = None if parts.username is None else unquote(parts.username)
    database = unquote(parts.path.lstrip("/")) or named.get("dbname", [""])[-1]
    return Login(address_of(dsn), user or named.get("user", [None])[-1], database or None)


def setup(settings: Settings, config: str | None = None) -> Setup:
    """Return the setup of an `Explainer`."""
    cache = settings.cache
    return Setup(
        issuers=[issuer(entry) for entry in settings.issuers],
        routes=routes(settings),
        local_ttl=cache.local_ttl,
        user_ttl=cache.user_ttl,
        negative_ttl=cache.negative_ttl,
        stale_if_error=cache.stale_if_error,
        creation_grace=settings.users.creation_grace,
        unchecked_allowed=settings.revocation.on_unavailable == "allow",
        prefix=settings.redis.prefix,
        schema=settings.postgres.schema_name,
        postgres=_login(settings.postgres.dsn.get_secret_value()),
        config=config,
        shadow=shadow(settings),
    )
