"""The composition root: settings → built objects → running servers. The only place that wires."""

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from gateway import sockets, translation
from gateway.admin import listener
from gateway.admin.api.wiring import Parts, admin_api
from gateway.admin.health import Admin, Dependency, Workers
from gateway.admin.readiness import Stream, dependencies
from gateway.core.model import StoreUnavailable
from gateway.core.reasons import CATALOGUE
from gateway.core.routes import RouteTable
from gateway.core.tokens import KeySet
from gateway.explain import Explainer
from gateway.identity.blacklist_sync import BlacklistSync
from gateway.identity.invalidation import Invalidation
from gateway.identity.learnt_revocations import LearntRevocations
from gateway.identity.local_cache import LocalCache
from gateway.identity.resolver import IdentityResolver
from gateway.issuer_keys.keyring import KeyRing
from gateway.memo import Memo, Tokens
from gateway.pipeline import Pipeline
from gateway.proxy.certificate import Certificate
from gateway.proxy.context import ExchangeContext
from gateway.proxy.errors import Responder
from gateway.proxy.listener import ProxyListener
from gateway.proxy.reauthorization import Reauthorization
from gateway.proxy.server import ProxyServer
from gateway.proxy.upstream.balancer import Upstreams
from gateway.settings import Settings, model
from gateway.stores.availability import Availability
from gateway.stores.postgres.change_stream.listener import PostgresStream
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.hosts import place_of
from gateway.stores.redis.change_stream import RedisStream
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.system_of_record import SystemOfRecord
from gateway.telemetry import logs
from gateway.telemetry.denials import DenialRing
from gateway.telemetry.metered import MeteredDirectory, MeteredVerifier
from gateway.telemetry.metrics import Metrics
from gateway.verifier import TokenVerifier

EXIT_SECONDS: Final = 10.0
"""How long requests in flight may take when a gateway ends that was not drained before."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets to serve on."""

    front: Sequence[socket.socket]
    admin: Sequence[socket.socket]


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves: where it can be reached, and how to end it gently."""

    url: str
    admin_url: str
    metrics: Metrics
    admin: Admin
    denials: DenialRing
    keys: KeyRing
    _front: ProxyListener
    _admin_runner: web.AppRunner

    def retire(self) -> None:
        """Say at `/readyz` that no more requests are welcome; those that come are still served."""
        self.admin.draining = True

    async def drain(self, seconds: float, *, last: bool) -> None:
        """Stop accepting and finish what is in flight, for up to `seconds`.

        `last` tells that no other process takes over the sockets of the front. The admin port goes with
        them, but for a gateway that has retired, which tells so until its end.
        """
        self.metrics.workers.inc(by=-1)
        if not self.admin.draining:
            await self._admin_runner.cleanup()
        if last:
            await self._front.refuse()
        await self._front.close()
        await self._front.finish_handshakes()
        await self._front.server.drain(seconds)


@asynccontextmanager
async def serve(
    settings: Settings, listeners: Listeners | None = None, workers: Workers | None = None
) -> AsyncIterator[Running]:
    """Run a gateway for as long as the context lasts, on sockets of its own or on given ones.

    Starts whether or not its dependencies are there; `/readyz` tells which are not. On exit it stops
    accepting, finishes what is in flight, then closes its connections. Raises OSError when a port
    cannot be listened on or a certificate cannot be read, ValueError when a URL cannot be read,
    `ParserMissing` without llhttp.
    """
    logs.configure(settings.log.level)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        # First, for it may be a mistake, and waiting for dependencies would only delay saying so.
        certificate = _certificate(settings.server, stack)
        redis = _redis(settings)
        stack.push_async_callback(redis.close)
        postgres = _postgres(settings.postgres, redis.ownership.heard)
        stack.push_async_callback(postgres.close)
        issuers = {entry.name: translation.issuer(entry) for entry in settings.issuers}
        iss = {name: issuer.issuer for name, issuer in issuers.items()}
        blacklist_sync = BlacklistSync(postgres, redis, iss, hears=lambda: changes.up)
        stack.push_async_callback(blacklist_sync.close)
        local = _local(settings.cache, metrics)
        learnt_revocations = LearntRevocations(
            redis.revoked, postgres, iss, metrics, hearing=lambda: invalidation.hearing
        )
        redis.revoked.on_deleted = learnt_revocations.touched
        stack.push_async_callback(learnt_revocations.close)
        invalidation = Invalidation(
            local,
            redis,
            blacklist_sync,
            iss,
            keys=redis.keys,
            observer=metrics,
            latest=postgres.latest_transaction if postgres.has_replica else None,
            learnt_revocations=learnt_revocations,
        )
        stack.push_async_callback(invalidation.close)
        changes, touches = _streams(settings, invalidation, redis)
        stack.push_async_callback(changes.close)
        stack.push_async_callback(touches.close)
        resolver = _resolver(
            settings, local, postgres, redis, blacklist_sync, learnt_revocations,
            # A process that slept has yet to look at what came in meanwhile.
            believes=lambda epoch: invalidation.believes(epoch) and changes.up,
        )  # fmt: skip
        stack.push_async_callback(resolver.close)

        def forget_withdrawn(issuer: str, keys: KeySet) -> None:
            tokens.forget_withdrawn(issuer, keys)

        keys = await _keys(settings, metrics, forget_withdrawn, stack)
        headers = translation.headers(settings)
        verifier = MeteredVerifier(
            TokenVerifier(issuers.values(), keys, clock=time.time, claims_read=headers.claims_read), metrics
        )
        directory = MeteredDirectory(resolver, metrics)
        body_size = settings.server.limits.body_size
        routes = RouteTable(translation.route(route, body_size) for route in settings.routes)
        tokens = Tokens(
            keys, time.time, settings.cache.max_tokens, metrics.recalled_tokens, metrics.refusal_recalled
        )
        memo = Memo(Pipeline(routes, verifier, directory, headers), verifier, tokens, directory)
        upstreams = Upstreams(
            (translation.upstream(name, upstream) for name, upstream in settings.upstreams.items()), metrics
        )
        stack.callback(upstreams.close)
        _watch(settings, metrics, tokens, local, keys, upstreams)
        streams: dict[str, Stream] = {"postgres": changes, "redis": touches}
        for name, stream in streams.items():
            metrics.invalidation_stream_up.read((name,), partial(_hears, stream))
        for name, availability in (("postgres", postgres.availability), ("redis", redis.availability)):
            metrics.dependency_up.read((name,), partial(_up, availability))
        metrics.redis_foreign.read((), lambda: float(redis.ownership.foreign))

        # Whose Redis it is to be is known before that is asked for the first time.
        await _warm(postgres)
        blacklist_sync.start()
        learnt_revocations.start()
        invalidation.start()
        changes.start()
        touches.start()
        upstreams.start()
        await keys.start()

        alone = listeners is None
        if listeners is None:
            listeners = _listen(settings, stack)
        dependencies = _dependencies(settings, postgres, redis, blacklist_sync, keys, streams)
        admin = Admin(metrics, dependencies, workers)
        ring = DenialRing()
        explainer = Explainer(
            translation.setup(settings), keys, postgres, redis, local=local,
            learnt_revocations=learnt_revocations, deaf=partial(_deaf, streams),
        )  # fmt: skip
        parts = Parts(
            admin, metrics, workers, issuers, postgres, redis, local, keys, ring, explainer,
            trusted=lambda: invalidation.trusted,
        )  # fmt: skip
        token = None if settings.admin.token is None else settings.admin.token.get_secret_value()
        runner = await _serve_admin(listeners.admin, admin.application(admin_api(parts, token)), stack)
        responder = Responder(settings.errors.detail)
        log = logs.RequestLog(access=settings.log.access, subjects=settings.log.subjects, ring=ring)
        reauthorization = Reauthorization(memo, local, metrics, log, clock=time.time)
        stack.push_async_callback(reauthorization.close)
        stack.callback(invalidation.subscribe(reauthorization.changed))
        context = ExchangeContext(memo, upstreams, headers, responder, metrics, log, reauthorization)
        limits = translation.limits(settings.server.limits)
        server = ProxyServer(context, limits=limits, exempt=headers.trusts)
        front = await ProxyListener.open(server, listeners.front, certificate)
        stack.push_async_callback(server.drain, EXIT_SECONDS, grace=0.0)
        stack.push_async_callback(front.close)
        if alone:
            stack.callback(sockets.remove, settings.server.listen.endpoint)
            stack.callback(sockets.remove, settings.admin.listen.endpoint)
        metrics.workers.inc()
        scheme = "http" if certificate is None else "https"
        yield Running(
            sockets.url(scheme, listeners.front),
            sockets.url("http", listeners.admin),
            metrics,
            admin,
            ring,
            keys,
            front,
            runner,
        )


# Servers -------------------------------------------------------------------------------------------


def _listen(settings: Settings, stack: AsyncExitStack) -> Listeners:
    """Bind the sockets that no other process shares."""
    front = sockets.bind(settings.server.listen.endpoint, "server.listen")
    stack.callback(sockets.close, front)
    admin = sockets.bind(settings.admin.listen.endpoint, "admin.listen")
    stack.callback(sockets.close, admin)
    return Listeners(front, admin)


async def _serve_admin(
    listeners: Sequence[socket.socket], application: web.Application, stack: AsyncExitStack
) -> web.AppRunner:
    runner = await listener.listen(application, listeners, sockets.BACKLOG)
    stack.push_async_callback(runner.cleanup)
    return runner


def _certificate(server: model.Server, stack: AsyncExitStack) -> Certificate | None:
    if server.tls.certificate is None or server.tls.key is None:
        return None
    certificate = Certificate(server.tls.certificate, server.tls.key)
    watch = asyncio.create_task(certificate.watch())
    stack.callback(watch.cancel)
    return certificate


# Backends ------------------------------------------------------------------------------------------


def _availability(dependency: str) -> Availability:
    """Have each outage logged, by one line when it begins and one when it ends."""

    def tell(detail: str | None) -> None:
        if detail is None:
            logs.dependency_up(dependency)
        else:
            logs.dependency_down(dependency, detail)

    return Availability(tell)


def _postgres(postgres: model.Postgres, heard: Callable[[SystemOfRecord], None]) -> Postgres:
    return Postgres(
        postgres.dsn.get_secret_value(),
        replica_dsn=None if postgres.replica_dsn is None else postgres.replica_dsn.get_secret_value(),
        schema=postgres.schema_name,
        pool_min=postgres.pool_min,
        pool_max=postgres.pool_max,
        connect_timeout=postgres.connect_timeout,
        statement_timeout=postgres.statement_timeout,
        prepared_statements=postgres.prepared_statements,
        availability=_availability("postgres"),
        replica_availability=_availability("postgres_replica"),
        heard=heard,
        tls_strict=postgres.tls.strict,
    )


def _redis(settings: Settings) -> RedisTier:
    redis, postgres = settings.redis, settings.postgres
    return RedisTier(
        redis.url.get_secret_value(),
        prefix=redis.prefix,
        timeout=redis.timeout,
        connect_timeout=redis.connect_timeout,
        availability=_availability("redis"),
        tls_strict=redis.tls.strict,
        place=place_of(postgres.dsn.get_secret_value(), postgres.schema_name),
    )


def _local(cache: model.Cache, metrics: Metrics) -> LocalCache:
    return LocalCache(
        ttl=cache.local_ttl,
        max_users=cache.max_users,
        max_tokens=cache.max_tokens,
        clock=time.monotonic,
        reused=metrics.recalled_users,
    )


def _resolver(
    settings: Settings,
    local: LocalCache,
    postgres: Postgres,
    redis: RedisTier,
    blacklist_sync: BlacklistSync,
    learnt_revocations: LearntRevocations,
    *,
    believes: Callable[[str], bool],
) -> IdentityResolver:
    cache = settings.cache
    return IdentityResolver(
        local,
        redis,
        postgres,
        blacklist_sync,
        believes=believes,
        user_ttl=cache.user_ttl,
        negative_ttl=cache.negative_ttl,
        stale_if_error=cache.stale_if_error,
        creation_grace=settings.users.creation_grace,
        unchecked_allowed=settings.revocation.on_unavailable == "allow",
        learnt_revocations=learnt_revocations,
    )


def _streams(
    settings: Settings, invalidation: Invalidation, redis_store: RedisTier
) -> tuple[PostgresStream, RedisStream]:
    postgres, redis = settings.postgres, settings.redis
    changes = PostgresStream(
        (postgres.listen_dsn or postgres.dsn).get_secret_value(),
        postgres.schema_name,
        invalidation,
        beats_dsn=postgres.dsn.get_secret_value(),
        connect_timeout=postgres.connect_timeout,
        tls_strict=postgres.tls.strict,
    )
    touches = RedisStream(
        redis.url.get_secret_value(),
        redis_store.keys.tracked,
        invalidation.touched_keys,
        redis_store.beat,
        connect_timeout=redis.connect_timeout,
        tls_strict=redis.tls.strict,
    )
    return changes, touches


async def _keys(
    settings: Settings, metrics: Metrics, on_change: Callable[[str, KeySet], None], stack: AsyncExitStack
) -> KeyRing:
    fetcher = translation.fetcher(settings.jwks)
    stack.push_async_callback(fetcher.close)
    keys = KeyRing(
        {issuer.name: translation.key_source(issuer) for issuer in settings.issuers},
        fetcher=fetcher,
        observer=metrics,
        on_change=on_change,
        max_stale=settings.jwks.max_stale,
    )
    stack.push_async_callback(keys.close)
    return keys


def _dependencies(
    settings: Settings,
    postgres: Postgres,
    redis: RedisTier,
    blacklist_sync: BlacklistSync,
    keys: KeyRing,
    streams: Mapping[str, Stream],
) -> dict[str, Dependency]:
    cache = settings.cache
    names = [issuer.name for issuer in settings.issuers]
    unchecked = settings.revocation.on_unavailable == "allow"
    return dependencies(
        names, postgres, redis, keys, streams,
        vouched=lambda: unchecked or (redis.complete and blacklist_sync.trusted),
        stands_in_for=cache.user_ttl + cache.stale_if_error,
    )  # fmt: skip


async def _warm(postgres: Postgres) -> None:
    """Open connections early; whether there is a database is `/readyz`'s to tell."""
    with suppress(StoreUnavailable):
        await postgres.identify()
        await postgres.warm()


# Telemetry -----------------------------------------------------------------------------------------


def _watch(
    settings: Settings,
    metrics: Metrics,
    tokens: Tokens,
    local: LocalCache,
    keys: KeyRing,
    upstreams: Upstreams,
) -> None:
    """Let the metrics read, at each scrape, the values that no event reports."""
    metrics.prepare([issuer.name for issuer in settings.issuers], CATALOGUE.values())
    metrics.cache_entries.read(("tokens",), lambda: len(tokens))
    metrics.cache_entries.read(("users",), lambda: local.users)
    metrics.cache_entries.read(("negative",), lambda: local.absent)
    metrics.cache_entries.read(("verdicts",), lambda: local.tokens)
    for issuer in settings.issuers:
        metrics.jwks_age.read((issuer.name,), partial(_age, keys, issuer.name))
    for upstream in upstreams:
        metrics.watch_upstream(upstream)


def _up(availability: Availability) -> float:
    return math.nan if availability.up is None else float(availability.up)


def _hears(stream: Stream) -> float:
    return float(stream.up)


def _deaf(streams: Mapping[str, Stream]) -> dict[str, str]:
    return {
        name: stream.detail or "no heartbeat came back in time"
        for name, stream in streams.items()
        if not stream.up
    }


def _age(keys: KeyRing, issuer: str) -> float:
    age = keys.status()[issuer].age
    return math.nan if age is None else age
