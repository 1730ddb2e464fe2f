"""The composition root: settings → built objects → running servers. The only place that wires."""

import asyncio
import math
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from gateway.admin.health import Admin, Dependency, Finding
from gateway.backends.fetch import Fetcher
from gateway.backends.identity import IdentityTiers
from gateway.backends.jwks import KeyRing
from gateway.backends.keysources import (
    Discovery,
    JwksFile,
    JwksUri,
    KeySource,
    PemFile,
    Secret,
    SecretFile,
)
from gateway.backends.mirror import RevocationMirror
from gateway.backends.postgres import Postgres
from gateway.backends.redis import Redis
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import ClaimPaths, Issuer, Requirement, Route, StoreUnavailable
from gateway.core.reasons import CATALOGUE
from gateway.core.routes import RouteTable
from gateway.core.tokens import KeySet
from gateway.pipeline import Pipeline, TokenVerifier
from gateway.proxy.handler import ProxyHandler
from gateway.proxy.responses import Responder
from gateway.proxy.server import Front
from gateway.proxy.upstream import UpstreamRules, Upstreams
from gateway.settings import Settings, model
from gateway.telemetry import logs
from gateway.telemetry.metrics import MeteredDirectory, MeteredVerifier, Metrics

BACKLOG: Final = 1024
DRAIN_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """Where a gateway can be reached."""

    url: str
    admin_url: str


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[Running]:
    """Run a gateway for as long as the context lasts.

    Starts whether or not its dependencies are there; `/readyz` tells which are not. On exit it stops
    accepting, finishes what is in flight, then closes its connections. Raises OSError when a port
    cannot be listened on or a certificate cannot be read, `ParserMissing` without llhttp.
    """
    logs.configure(settings.log.level)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        postgres = _postgres(settings.postgres)
        stack.push_async_callback(postgres.close)
        redis = _redis(settings.redis)
        stack.push_async_callback(redis.close)
        mirror = RevocationMirror(
            postgres, redis, {issuer.name: issuer.issuer for issuer in settings.issuers}
        )
        stack.push_async_callback(mirror.close)
        tiers = _tiers(settings, postgres, redis, mirror)
        stack.push_async_callback(tiers.close)

        def forget_withdrawn(issuer: str, keys: KeySet) -> None:
            verifier.forget_withdrawn(issuer, keys)

        keys = await _keys(settings, metrics, forget_withdrawn, stack)
        verifier = TokenVerifier(
            [_issuer(issuer) for issuer in settings.issuers],
            keys,
            clock=time.time,
            max_remembered=settings.cache.max_tokens,
        )
        headers = _headers(settings)
        routes = RouteTable(_route(route) for route in settings.routes)
        pipeline = Pipeline(
            routes, MeteredVerifier(verifier, metrics), MeteredDirectory(tiers, metrics), headers
        )
        upstreams = Upstreams(_upstream(name, upstream) for name, upstream in settings.upstreams.items())
        stack.callback(upstreams.close)
        _watch(settings, metrics, verifier, tiers, keys, upstreams)

        mirror.start()
        await asyncio.gather(keys.start(), _warm(postgres))

        admin = Admin(metrics, _dependencies(settings, postgres, redis, keys))
        admin_url = await _serve_admin(settings.admin, admin, stack)
        responder = Responder(settings.errors.detail)
        log = logs.RequestLog(access=settings.log.access, subjects=settings.log.subjects)
        handler = ProxyHandler(pipeline, upstreams, headers, responder, metrics, log)
        front = Front(handler, responder, metrics, log, max_field_bytes=settings.server.max_field_size)
        url = await _serve_front(settings.server, front, stack)
        yield Running(url, admin_url)


# Servers -------------------------------------------------------------------------------------------


async def _serve_front(server: model.Server, front: Front, stack: AsyncExitStack) -> str:
    tls = _tls(server.tls)
    listener = await asyncio.get_running_loop().create_server(
        front, server.listen.host, server.listen.port, ssl=tls, backlog=BACKLOG, reuse_address=True
    )
    stack.push_async_callback(front.shutdown, DRAIN_SECONDS)
    stack.callback(listener.close)
    host, port = listener.sockets[0].getsockname()[:2]
    return _url("http" if tls is None else "https", host, port)


async def _serve_admin(admin: model.Admin, endpoints: Admin, stack: AsyncExitStack) -> str:
    runner = web.AppRunner(endpoints.application(), access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, admin.listen.host, admin.listen.port, backlog=BACKLOG)
    await site.start()
    host, port = runner.addresses[0][:2]
    return _url("http", host, port)


def _tls(tls: model.Tls) -> ssl.SSLContext | None:
    if tls.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def _url(scheme: str, host: str, port: int) -> str:
    """Return a URL that reaches a listener; one that listens everywhere is reached on loopback."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- recognised, not bound
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


# Settings → values ---------------------------------------------------------------------------------


def _issuer(issuer: model.Issuer) -> Issuer:
    return Issuer(
        name=issuer.name,
        issuer=issuer.issuer,
        audiences=frozenset(issuer.audiences),
        algorithms=frozenset(issuer.algorithms),
        leeway=issuer.leeway,
        require=frozenset(issuer.require),
        max_lifetime=issuer.max_lifetime,
        claims=ClaimPaths(issuer.claims.tenant, issuer.claims.scopes, issuer.claims.roles),
    )


def _route(route: model.Route) -> Route:
    return Route(
        name=route.name,
        path=route.match.path,
        upstream=route.upstream,
        methods=frozenset(route.match.methods),
        hosts=frozenset(route.match.hosts),
        auth=route.auth,
        require=Requirement(
            frozenset(route.require.scopes), frozenset(route.require.roles), route.require.tenant
        ),
    )


def _upstream(name: str, upstream: model.Upstream) -> UpstreamRules:
    return UpstreamRules(name, upstream.urls, upstream.connect_timeout, upstream.response_timeout)


def _headers(settings: Settings) -> HeaderPolicy:
    return HeaderPolicy(
        HeaderRules(
            settings.headers.identity,
            settings.headers.forward_authorization,
            settings.server.trusted_proxies,
        )
    )


def _key_source(issuer: model.Issuer) -> KeySource:
    keys = issuer.keys
    if keys.jwks_uri is not None:
        return JwksUri(keys.jwks_uri)
    if keys.jwks_file is not None:
        return JwksFile(keys.jwks_file)
    if keys.pem_file is not None:
        return PemFile(keys.pem_file)
    if keys.secret is not None:
        return Secret(keys.secret.get_secret_value().encode())
    if keys.secret_file is not None:
        return SecretFile(keys.secret_file)
    return Discovery(issuer.issuer)


# Backends ------------------------------------------------------------------------------------------


def _postgres(postgres: model.Postgres) -> Postgres:
    return Postgres(
        postgres.dsn.get_secret_value(),
        schema=postgres.schema_name,
        pool_min=postgres.pool_min,
        pool_max=postgres.pool_max,
        connect_timeout=postgres.connect_timeout,
        statement_timeout=postgres.statement_timeout,
    )


def _redis(redis: model.Redis) -> Redis:
    return Redis(
        redis.url.get_secret_value(),
        prefix=redis.prefix,
        timeout=redis.timeout,
        connect_timeout=redis.connect_timeout,
    )


def _tiers(settings: Settings, postgres: Postgres, redis: Redis, mirror: RevocationMirror) -> IdentityTiers:
    cache = settings.cache
    return IdentityTiers(
        postgres,
        redis,
        mirror,
        local_ttl=cache.local_ttl,
        user_ttl=cache.user_ttl,
        negative_ttl=cache.negative_ttl,
        stale_if_error=cache.stale_if_error,
        max_users=cache.max_users,
        unchecked_allowed=settings.revocation.on_unavailable == "allow",
    )


async def _keys(
    settings: Settings, metrics: Metrics, on_change: Callable[[str, KeySet], None], stack: AsyncExitStack
) -> KeyRing:
    fetcher = Fetcher(timeout=settings.jwks.timeout)
    stack.push_async_callback(fetcher.close)
    keys = KeyRing(
        {issuer.name: _key_source(issuer) for issuer in settings.issuers},
        fetcher=fetcher,
        observer=metrics,
        on_change=on_change,
        max_stale=settings.jwks.max_stale,
    )
    stack.push_async_callback(keys.close)
    return keys


async def _warm(postgres: Postgres) -> None:
    """Open connections early; whether there is a database is `/readyz`'s to tell."""
    try:
        await postgres.warm()
    except* StoreUnavailable as errors:
        logs.dependency_down("postgres", str(errors.exceptions[0]))


# Telemetry -----------------------------------------------------------------------------------------


def _watch(
    settings: Settings,
    metrics: Metrics,
    verifier: TokenVerifier,
    tiers: IdentityTiers,
    keys: KeyRing,
    upstreams: Upstreams,
) -> None:
    """Let the metrics read, at each scrape, what is nobody's event."""
    metrics.prepare([issuer.name for issuer in settings.issuers], CATALOGUE.values())
    metrics.cache_entries.read(("tokens",), lambda: len(verifier))
    metrics.cache_entries.read(("users",), lambda: tiers.remembered[0])
    metrics.cache_entries.read(("negative",), lambda: tiers.remembered[1])
    for issuer in settings.issuers:
        metrics.jwks_age.read((issuer.name,), partial(_age, keys, issuer.name))
    for upstream in upstreams:
        metrics.watch_upstream(upstream)


def _dependencies(
    settings: Settings, postgres: Postgres, redis: Redis, keys: KeyRing
) -> dict[str, Dependency]:
    async def issuer(name: str) -> Finding:
        status = keys.status()[name]
        return Finding("up" if status.ready else "down", status.last_error)

    return {
        "postgres": Dependency(partial(_ping, postgres.ping), essential=True),
        # Without Redis, Postgres answers everything: slower, and no reason to take no requests.
        "redis": Dependency(partial(_ping, redis.ping), essential=False),
        **{
            f"issuer:{entry.name}": Dependency(partial(issuer, entry.name), essential=True)
            for entry in settings.issuers
        },
    }


async def _ping(ping: Callable[[], Awaitable[None]]) -> Finding:
    try:
        await ping()
    except StoreUnavailable as error:
        return Finding("down", error.detail)
    return Finding("up")


def _age(keys: KeyRing, issuer: str) -> float:
    age = keys.status()[issuer].age
    return math.nan if age is None else age
