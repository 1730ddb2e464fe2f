"""One function for each large part of a gateway that serves: settings → the part, not yet started.

`gateway.app` calls these functions, connects the parts and starts them.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import uuid4

from gateway import translation
from gateway.admin.health import Admin, Dependency, Finding
from gateway.assertion.key_file import KeyFile
from gateway.assertion.keys import AssertionKeys, KeyStore
from gateway.assertion.signer import AssertionSigner
from gateway.core.headers import HeaderPolicy
from gateway.core.model import Issuer
from gateway.core.networks import contains
from gateway.core.tokens import KeySet
from gateway.decision.context import DecisionContext
from gateway.decision.exchange import DecisionExchange
from gateway.explain.users import Users
from gateway.identity.invalidation import Invalidation
from gateway.identity.local_cache import LocalCache
from gateway.identity.provisioning import Provisioner
from gateway.identity.resolver import IdentityResolver
from gateway.identity.revocations.blacklist_sync import BlacklistSync
from gateway.identity.revocations.learnt_revocations import LearntRevocations
from gateway.identity.source_feed import Polling, Relay, SourceFeed
from gateway.identity.tiers import SystemOfRecord
from gateway.issuer_keys.introspection import KEEP_ALIVE, Introspector
from gateway.issuer_keys.keyring import KeyRing
from gateway.listeners import Front, Listeners, Stoppable
from gateway.proxy.certificate import Certificate
from gateway.proxy.errors import Responder
from gateway.proxy.health import HealthPath
from gateway.proxy.listener import Listener
from gateway.proxy.published_keys import PublishedKeys
from gateway.proxy.refusals import Admitter
from gateway.proxy.server import ConnectionServer, ExchangeFactory
from gateway.settings import Settings, model
from gateway.stores.availability import Availability
from gateway.stores.postgres.assertion_keys import AssertionKeyRows
from gateway.stores.postgres.change_stream.listener import ChangeListener, PostgresStream
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.provisioning import UserProvisioning
from gateway.stores.postgres.directory.users import UserDirectory
from gateway.stores.postgres.hosts import place_of
from gateway.stores.postgres.pool import Pool
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.postgres.source.directory.provisioning import SourceProvisioning
from gateway.stores.postgres.source.directory.users import AnyDirectory, SourceDirectory
from gateway.stores.postgres.source.directory.writing import SourceWriter
from gateway.stores.postgres.source.feed import Feed
from gateway.stores.postgres.source.polling import Poller
from gateway.stores.redis.change_stream import RedisStream
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.system_of_record import SystemOfRecord as Place
from gateway.telemetry import logs
from gateway.telemetry.metered import MeteredDirectory
from gateway.telemetry.metrics import Metrics

EXIT_SECONDS: Final = 10.0
"""Seconds that requests in flight may take when a gateway ends without `drain`."""


def tls_certificate(server: model.Server, metrics: Metrics, stack: AsyncExitStack) -> Certificate | None:
    """Read the certificate of the front, and watch its files until `stack` ends; None without TLS.

    Raises OSError when a file cannot be read.
    """
    if server.tls.certificate is None or server.tls.key is None:
        return None
    certificate = Certificate(server.tls.certificate, server.tls.key)
    metrics.certificate_expiry.read(("server",), lambda: certificate.expires_at)
    watch = asyncio.create_task(certificate.watch())
    stack.callback(watch.cancel)
    return certificate


@dataclass(frozen=True, slots=True)
class Assertions:
    """The parts of signed identity; all None if it is off."""

    keys: AssertionKeys | None = None
    signer: AssertionSigner | None = None
    published: PublishedKeys | None = None
    now: Callable[[], float] | None = None
    """The clock by which decisions end."""

    async def start(self) -> None:
        if self.keys is not None:
            await self.keys.start()

    async def close(self) -> None:
        if self.keys is not None:
            await self.keys.close()

    def dependencies(self) -> dict[str, Dependency]:
        """Return what `/readyz` checks: without a key, no request of a user can be served."""
        keys = self.keys
        return (
            {} if keys is None else {"assertion_keys": Dependency(partial(_can_sign, keys), essential=True)}
        )

    def before(self, exchange: ExchangeFactory) -> ExchangeFactory:
        """Return what also publishes the keys."""
        return exchange if self.published is None else self.published.before(exchange)


async def _can_sign(keys: AssertionKeys) -> Finding:
    if keys.signing() is None:
        return Finding("down", keys.failure)
    if keys.failure is not None:
        return Finding("degraded", f"{keys.failure}; the keys that were read before stay in use")
    return Finding("up")


def assertion_key_store(assertion: model.Assertion, postgres: Postgres) -> KeyStore:
    """Return where the keys of assertions are kept."""
    return AssertionKeyRows(postgres) if assertion.key_file is None else KeyFile(assertion.key_file)


def assertions(settings: Settings, postgres: Postgres, metrics: Metrics) -> Assertions:
    """Return the parts of signed identity, not started."""
    assertion = settings.assertion
    if assertion is None:
        return Assertions()
    keys = AssertionKeys(
        assertion_key_store(assertion, postgres),
        algorithm=assertion.algorithm,
        ttl=assertion.ttl,
        ahead=assertion.publish_ahead,
        clock=time.time,
        report=_report("assertion_keys"),
    )
    signer = AssertionSigner(
        keys, header=assertion.header, issuer=assertion.issuer, ttl=assertion.ttl, clock=time.time
    )
    return Assertions(keys, signer, PublishedKeys(keys, metrics), time.time)


def health_path(server: model.Server, admin: Admin, metrics: Metrics) -> HealthPath | None:
    """Return the health path of the data plane; None if there is none. Call it inside the event loop."""
    if server.health_path is None:
        return None

    async def serves() -> bool:
        return (await admin.readiest()).serves

    return HealthPath(server.health_path, serves=serves, draining=lambda: admin.draining, metrics=metrics)


def postgres_store(postgres: model.Postgres, heard: Callable[[Place], None]) -> Postgres:
    """`heard` is called with the system of record of each new connection to the primary."""
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


def user_source(settings: Settings) -> SourceDatabase | None:
    """Return the tables of another system that has the users; None: they are the gateway's own."""
    source, postgres = settings.users.source, settings.postgres
    defined = translation.user_source(settings)
    if source is None or defined is None:
        return None
    replica = postgres.replica_dsn if source.dsn is None else source.replica_dsn
    return SourceDatabase(
        defined,
        {issuer.name: issuer.issuer for issuer in settings.issuers},
        (source.dsn or postgres.dsn).get_secret_value(),
        replica_dsn=None if replica is None else replica.get_secret_value(),
        pool_max=postgres.pool_max,
        connect_timeout=postgres.connect_timeout,
        statement_timeout=postgres.statement_timeout,
        prepared_statements=postgres.prepared_statements,
        availability=_availability("users_source"),
        replica_availability=_availability("users_source_replica"),
        tls_strict=postgres.tls.strict,
        is_elsewhere=source.dsn is not None,
    )


def user_directory(
    settings: Settings, postgres: Postgres, stack: AsyncExitStack, *, statement_timeout: float
) -> AnyDirectory:
    """Return the users for operators. Connections of its own are closed when `stack` ends.

    `statement_timeout` is in seconds: an operator waits longer than a request.
    """
    source, of = settings.users.source, settings.postgres
    writer = _source_writer(settings, postgres, statement_timeout, size=2)
    if source is None or writer is None:
        return UserDirectory(postgres)
    issuers = {issuer.name: issuer.issuer for issuer in settings.issuers}
    database = SourceDatabase(
        writer.source,
        issuers,
        (source.dsn or of.dsn).get_secret_value(),
        pool_max=2,
        connect_timeout=of.connect_timeout,
        statement_timeout=statement_timeout,
        prepared_statements=of.prepared_statements,
        tls_strict=of.tls.strict,
    )
    directory = SourceDirectory(database, issuers, writer)
    stack.push_async_callback(directory.close)
    return directory


def _source_writer(
    settings: Settings, postgres: Postgres, statement_timeout: float, *, size: int
) -> SourceWriter | None:
    """Return what changes users in a source, over connections of its own; None: there is no source."""
    source, defined, of = settings.users.source, translation.user_source(settings), settings.postgres
    if source is None or defined is None:
        return None
    pool = None
    if defined.writable:
        pool = Pool(
            (source.dsn or of.dsn).get_secret_value(),
            primary=True,
            schema=defined.schema_name,
            size=size,
            connect_timeout=of.connect_timeout,
            statement_timeout=statement_timeout,
            prepared_statements=of.prepared_statements,
            availability=Availability(),
            tls_strict=of.tls.strict,
        )
    issuers = {issuer.name: issuer.issuer for issuer in settings.issuers}
    return SourceWriter(defined, issuers, pool, postgres)


def users_explained(postgres: Postgres, users: SourceDatabase | None, operators: AnyDirectory) -> Users:
    """Return where an explanation finds users."""
    return Users(postgres, users, operators if isinstance(operators, SourceDirectory) else None)


def source_feed(
    settings: Settings, users: SourceDatabase | None, postgres: Postgres, redis: RedisTier
) -> SourceFeed | None:
    """Return what reads the changes of a source that reports none here; None: it is not needed."""
    source = settings.users.source
    if users is None or source is None:
        return None
    issuers = {issuer.name: issuer.issuer for issuer in settings.issuers}
    feed = Feed(postgres, uuid4().hex)
    poll = users.source.poll
    if users.source.changes == "poll":
        compare = poll.compare if poll.column is not None else 0.0
        polling = Polling(
            feed, Poller(users, issuers), redis, issuers, interval=poll.interval, compare=compare
        )
        return SourceFeed(feed, polling)
    if users.source.changes != "triggers" or source.dsn is None:
        return None
    dsn, listen_dsn = source.dsn.get_secret_value(), (source.listen_dsn or source.dsn).get_secret_value()

    def listen(ear: ChangeListener) -> PostgresStream:
        return PostgresStream(
            listen_dsn,
            "",
            ear,
            source=users.watched,
            beats_dsn=dsn,
            connect_timeout=settings.postgres.connect_timeout,
            tls_strict=settings.postgres.tls.strict,
        )

    return SourceFeed(feed, Relay(feed, listen, users.latest_transaction))


def redis_tier(settings: Settings) -> RedisTier:
    redis, postgres = settings.redis, settings.postgres
    return RedisTier(
        redis.url.get_secret_value(),
        prefix=redis.prefix,
        timeout=redis.timeout,
        connect_timeout=redis.connect_timeout,
        availability=_availability("redis"),
        tls_strict=redis.tls.strict,
        place=place_of(postgres.dsn.get_secret_value(), postgres.schema_name),
        users_from=translation.users_from(settings),
    )


def _availability(dependency: str) -> Availability:
    return Availability(_report(dependency))


def _report(dependency: str) -> Callable[[str | None], None]:
    """Return what logs each outage: one line when it begins and one when it ends."""

    def log(detail: str | None) -> None:
        if detail is None:
            logs.dependency_up(dependency)
        else:
            logs.dependency_down(dependency, detail)

    return log


def decision_context(
    settings: Settings,
    pipeline: Admitter,
    headers: HeaderPolicy,
    responder: Responder,
    metrics: Metrics,
    log: logs.RequestLog,
) -> DecisionContext:
    """Return what the questions of other proxies share."""
    is_proxy = contains(settings.decision.trusted_proxies)

    def may_ask(peer: str) -> bool:
        # A peer without an address is at a Unix socket: the permissions of its file say who may connect.
        return not peer or is_proxy(peer)

    questions = translation.questions(settings, headers)
    return DecisionContext(pipeline, headers, responder, metrics, log, questions, may_ask, headers.told(b""))


def decision_server(settings: Settings, context: DecisionContext, assertions: Assertions) -> ConnectionServer:
    """Return the server of the decision listener."""
    limits = translation.limits(settings.server.limits)
    exchange = assertions.before(partial(DecisionExchange, context))
    return ConnectionServer(context, exchange, limits=limits, exempt=context.may_ask)


async def serve_decisions(
    settings: Settings,
    context: DecisionContext,
    listeners: Listeners,
    assertions: Assertions,
    stack: AsyncExitStack,
) -> dict[Front, Stoppable]:
    """Answer other proxies on the sockets that there are, until `stack` ends. Raises OSError."""
    fronts: dict[Front, Stoppable] = {}
    if listeners.decision:
        server = decision_server(settings, context, assertions)
        fronts["decision"] = await serve_front(server, listeners.decision, None, stack)
    if listeners.grpc:
        # Here, because the extra may not be installed.
        from gateway.decision.grpc.service import GrpcListener

        grpc = GrpcListener(context, [one.getsockname()[:2] for one in listeners.grpc])
        await grpc.start()
        stack.push_async_callback(grpc.stop, 0.0, last=True)
        fronts["grpc"] = grpc
    return fronts


async def serve_front(
    server: ConnectionServer,
    listeners: Sequence[socket.socket],
    certificate: Certificate | None,
    stack: AsyncExitStack,
    speaks_for_others: Callable[[str], bool] | None = None,
) -> Listener:
    """Serve clients on the given sockets until `stack` ends."""
    front = await Listener.open(server, listeners, certificate, speaks_for_others)
    stack.push_async_callback(server.drain, EXIT_SECONDS, grace=0.0)
    stack.push_async_callback(front.close)
    return front


def local_cache(cache: model.Cache, metrics: Metrics) -> LocalCache:
    return LocalCache(
        ttl=cache.local_ttl,
        max_users=cache.max_users,
        max_tokens=cache.max_tokens,
        clock=time.monotonic,
        reused=metrics.recalled_users,
    )


def identity_resolver(
    settings: Settings,
    local: LocalCache,
    record: SystemOfRecord,
    redis: RedisTier,
    blacklist_sync: BlacklistSync,
    learnt_revocations: LearntRevocations,
    *,
    believes: Callable[[str], bool],
) -> IdentityResolver:
    """`believes` tells of an epoch in Redis whether this process has received every change in it."""
    cache = settings.cache
    return IdentityResolver(
        local,
        redis,
        record,
        blacklist_sync,
        believes=believes,
        user_ttl=cache.user_ttl,
        negative_ttl=cache.negative_ttl,
        stale_if_error=cache.stale_if_error,
        creation_grace=settings.users.creation_grace,
        unchecked_allowed=settings.revocation.on_unavailable == "allow",
        learnt_revocations=learnt_revocations,
    )


def provisioner(
    settings: Settings,
    issuers: Mapping[str, Issuer],
    postgres: Postgres,
    local: LocalCache,
    redis: RedisTier,
    directory: MeteredDirectory,
    metrics: Metrics,
    stack: AsyncExitStack,
) -> Provisioner | None:
    """Return None if no issuer's tokens may create users. Its connections are closed when `stack` ends."""
    if all(issuer.provisioning is None for issuer in issuers.values()):
        return None
    writer = _source_writer(
        settings, postgres, settings.postgres.statement_timeout, size=settings.postgres.pool_max
    )
    if writer is not None:
        stack.push_async_callback(writer.close)
    return Provisioner(
        issuers,
        UserProvisioning(postgres) if writer is None else SourceProvisioning(writer),
        local,
        redis,
        directory,
        metrics,
        refusal_ttl=settings.cache.negative_ttl,
    )


def change_streams(
    settings: Settings, invalidation: Invalidation, redis_tier: RedisTier, users: SourceDatabase | None
) -> tuple[PostgresStream, RedisStream]:
    """Return the streams that bring changes to `invalidation`, from Postgres and from Redis."""
    postgres, redis = settings.postgres, settings.redis
    changes = PostgresStream(
        (postgres.listen_dsn or postgres.dsn).get_secret_value(),
        postgres.schema_name,
        invalidation,
        source=None if users is None else partial(users.watched, postgres.schema_name),
        source_is_elsewhere=settings.users.source is not None and settings.users.source.dsn is not None,
        beats_dsn=postgres.dsn.get_secret_value(),
        connect_timeout=postgres.connect_timeout,
        tls_strict=postgres.tls.strict,
    )
    touches = RedisStream(
        redis.url.get_secret_value(),
        redis_tier.keys.tracked,
        invalidation.touched_keys,
        redis_tier.beat,
        connect_timeout=redis.connect_timeout,
        tls_strict=redis.tls.strict,
    )
    return changes, touches


def key_ring(
    settings: Settings, metrics: Metrics, on_change: Callable[[str, KeySet], None], stack: AsyncExitStack
) -> tuple[KeyRing, Introspector | None]:
    """Return the keys of all issuers, and what asks those of opaque tokens; closed when `stack` ends.

    `on_change` is called with an issuer's name and its new keys. None: no issuer has opaque tokens.
    """
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
    opaque = translation.opaque_issuers(settings.issuers)
    if not opaque:
        return keys, None
    # The issuers' own connections, which outlast one call.
    calls = translation.fetcher(settings.jwks, keep_alive=KEEP_ALIVE)
    stack.push_async_callback(calls.close)
    introspector = Introspector(opaque, fetcher=calls, observer=metrics)
    stack.push_async_callback(introspector.close)
    return keys, introspector
