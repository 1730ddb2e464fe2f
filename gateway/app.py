"""The composition root: settings → built parts → running servers. Only this file connects the parts."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from aiohttp import web

from gateway import sockets, translation
from gateway.admin import listener
from gateway.admin.api.wiring import Parts, admin_api
from gateway.admin.health import Admin, Workers
from gateway.admin.readiness import Stream
from gateway.builders import (
    control_plane,
    databases,
    directories,
    limiting,
    listening,
    observing,
    resolving,
    trust,
    watching,
)
from gateway.builders.tracing import tracing as build_tracing
from gateway.core import policy
from gateway.core.model import Request, StoreUnavailable
from gateway.core.provisioning import claims_read
from gateway.core.reasons import Denial
from gateway.core.routes import RouteTable
from gateway.core.tokens.jws import KeySet
from gateway.explain import Explainer
from gateway.explain.evidence.issuer_clocks import IssuerClocks
from gateway.identity.invalidation import Invalidation
from gateway.identity.revocations.blacklist_sync import BlacklistSync
from gateway.identity.revocations.learnt_revocations import LearntRevocations
from gateway.identity.traced_tiers import TracedDirectory
from gateway.issuer_keys.keyring import KeyRing
from gateway.limits.operators import Budgets
from gateway.listeners import FRONTS, Front, Listeners, Stoppable, Urls
from gateway.memo import Memo, Tokens
from gateway.pipeline import Pipeline
from gateway.proxy.context import ExchangeContext
from gateway.proxy.errors import Responder
from gateway.proxy.exchanges.reauthorization import Reauthorization
from gateway.proxy.refusals import Admitter
from gateway.proxy.upstream.balancer import Upstreams
from gateway.replay.recorder import RecordingAdmitter
from gateway.settings import Settings
from gateway.shadow import ShadowingAdmitter
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.source.database import SourceDatabase, UsersElsewhere
from gateway.telemetry import logs
from gateway.telemetry.denials import DenialRing
from gateway.telemetry.metered import MeteredDirectory, MeteredVerifier
from gateway.telemetry.metrics import Metrics
from gateway.verifier import TokenVerifier

Decides: TypeAlias = Memo | ShadowingAdmitter | RecordingAdmitter
SEARCH_SECONDS: Final = 5.0
"""Seconds that a search of users in tables of another system may take, which has connections of its own."""


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves: its URLs, and how to end it gently."""

    urls: Urls
    metrics: Metrics
    admin: Admin
    denials: DenialRing
    keys: KeyRing
    log_level: observing.LogLevel
    budgets: Budgets | None
    """What limits leave; None without limits."""
    _fronts: Mapping[Front, Stoppable]
    _admin_runner: web.AppRunner

    @property
    def url(self) -> str:
        """The URL for clients."""
        return self.urls.front

    @property
    def admin_url(self) -> str:
        return self.urls.admin

    def retire(self) -> None:
        """Report at `/readyz` that it takes no more requests. It still serves those that come."""
        self.admin.draining = True

    async def drain(self, seconds: float, *, last: Collection[str] = FRONTS) -> None:
        """Stop accepting, and finish the requests in flight for up to `seconds`.

        `last` names the listeners whose sockets no other process takes over. The admin port is closed too,
        unless the gateway has retired: then `/readyz` reports that until the end.
        """
        self.metrics.workers.inc(by=-1)
        if not self.admin.draining:
            await self._admin_runner.cleanup()
        await asyncio.gather(
            *(front.stop(seconds, last=name in last) for name, front in self._fronts.items())
        )


@asynccontextmanager
async def serve(
    settings: Settings, listeners: Listeners | None = None, workers: Workers | None = None
) -> AsyncIterator[Running]:
    """Run a gateway for as long as the context lasts, on sockets of its own or on given ones.

    It starts even when its dependencies are down; `/readyz` names those. On exit it stops accepting,
    finishes the requests in flight, then closes its connections. Raises OSError when a port cannot be
    listened on or a certificate cannot be read, ValueError when a URL cannot be read, `ParserMissing`
    without llhttp.
    """
    logs.configure(settings.log.level)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        # Closed last, with the spans of all that ends before it.
        tracing = build_tracing(settings, os.environ, stack)
        # Early: the path may be wrong, and the error should not wait for dependencies.
        certificate = trust.tls_certificate(settings.server, metrics, stack)
        redis = databases.redis_tier(settings)
        stack.push_async_callback(redis.close)
        postgres = databases.postgres_store(settings.postgres, redis.ownership.heard)
        stack.push_async_callback(postgres.close)
        users = directories.user_source(settings)
        if users is not None:
            stack.push_async_callback(users.close)
        record = postgres if users is None else UsersElsewhere(users, postgres)
        issuers = {entry.name: translation.issuer(entry) for entry in settings.issuers}
        iss = {name: issuer.issuer for name, issuer in issuers.items()}
        blacklist_sync = BlacklistSync(postgres, redis, iss, hears=lambda: changes.up)
        stack.push_async_callback(blacklist_sync.close)
        local = resolving.local_cache(settings.cache, metrics)
        learnt_revocations = LearntRevocations(
            redis.revoked, postgres, iss, metrics, hearing=lambda: invalidation.hearing,
            any_user=users is not None,
        )  # fmt: skip
        redis.revoked.on_deleted = learnt_revocations.touched
        stack.push_async_callback(learnt_revocations.close)
        invalidation = Invalidation(
            local,
            redis,
            blacklist_sync,
            iss,
            keys=redis.keys,
            observer=metrics,
            latest=(users or postgres).latest_transaction if record.has_replica else None,
            learnt_revocations=learnt_revocations,
        )
        stack.push_async_callback(invalidation.close)
        feed = directories.source_feed(settings, users, postgres, redis)
        if feed is not None:
            stack.push_async_callback(feed.close)
        changes, touches = databases.change_streams(settings, invalidation, redis, users)
        stack.push_async_callback(changes.close)
        stack.push_async_callback(touches.close)
        resolver = resolving.identity_resolver(
            settings, local, record, redis, blacklist_sync, learnt_revocations,
            # A process that was suspended has not read yet what arrived meanwhile.
            believes=lambda epoch: invalidation.believes(epoch) and changes.up,
            traced=tracing is not None,
        )  # fmt: skip
        stack.push_async_callback(resolver.close)

        def forget_withdrawn(issuer: str, keys: KeySet) -> None:
            tokens.forget_withdrawn(issuer, keys)

        keys, introspector = trust.key_ring(settings, metrics, forget_withdrawn, stack)
        headers, routes = translation.headers(settings), translation.routes(settings)
        clocks, recorder = IssuerClocks(time.time), observing.recorder(settings, stack)
        needed = headers.claims_read | claims_read(issuers.values()) | policy.claims_read(routes)
        needed |= limiting.claims_read(settings)
        plain = TokenVerifier(
            issuers.values(), keys, clock=time.time, introspector=introspector,
            claims_read=None if recorder else needed, path_found=metrics.path_found, signed=clocks.saw,
        )  # fmt: skip
        verifier = MeteredVerifier(plain, metrics)
        directory = MeteredDirectory(resolver if tracing is None else TracedDirectory(resolver), metrics)
        provisioner = directories.provisioner(
            settings, issuers, postgres, local, redis, directory, metrics, stack
        )  # fmt: skip
        if provisioner is not None:
            stack.push_async_callback(provisioner.close)
        tokens = Tokens(
            keys, time.time, settings.cache.max_tokens, metrics.recalled_tokens, metrics.refusal_recalled
        )

        assertions = trust.assertions(settings, postgres, metrics)
        stack.push_async_callback(assertions.close)

        shadow = translation.shadow(settings)

        def report(request: Request, denial: Denial) -> None:
            metrics.shadow_denied(denial, "" if denial.route is None else denial.route.name)
            log.shadow_denied(request, denial)

        limits = limiting.limiting(settings, redis, postgres, metrics)
        stack.push_async_callback(limits.close)

        def admitter(*, forwards: bool) -> tuple[Decides, Admitter]:
            """Return what decides, for requests that are forwarded here or by other proxies."""
            table = RouteTable(
                routes, forwards=forwards, reserved=settings.server.health_path if forwards else None
            )
            pipeline = Pipeline(table, verifier, directory, headers, provisioner, assertions.signer, shadow)
            memo = Memo(pipeline, verifier, tokens, directory, assertions.now)
            decides: Decides = memo if shadow is None else ShadowingAdmitter(memo, pipeline, report)
            if recorder is not None:
                decides = RecordingAdmitter(decides, recorder, forwards=forwards)
            return decides, limits.around(decides, pipeline, routes, report, forwards=forwards)

        memo, admit = admitter(forwards=True)
        upstreams = Upstreams(
            (translation.upstream(name, upstream) for name, upstream in settings.upstreams.items()), metrics
        )
        stack.callback(upstreams.close)
        watching.watch_memory(issuers, metrics, tokens, local, keys, upstreams)
        metrics.prepare_traffic(route.name for route in routes if route.upstream is not None)
        streams: dict[str, Stream] = {"postgres": changes, "redis": touches}
        watching.watch_stores(metrics, streams, postgres, users, redis)

        # Before Redis is asked: its data counts only if it belongs to this system of record.
        await _warm(postgres, users)
        blacklist_sync.start()
        learnt_revocations.start()
        invalidation.start()
        changes.start()
        if feed is not None:
            feed.start()
        touches.start()
        upstreams.start()
        await keys.start()
        await assertions.start()
        await limits.start()

        alone = listeners is None
        if listeners is None:
            listeners = _listen(settings, stack)
        dependencies = watching.checked_dependencies(
            settings, postgres, redis, blacklist_sync, keys, streams, users
        )
        admin = Admin(metrics, dependencies | assertions.dependencies(), workers)
        ring = DenialRing()
        operators = directories.user_directory(
            settings, postgres, stack,
            statement_timeout=max(SEARCH_SECONDS, settings.postgres.statement_timeout),
        )  # fmt: skip
        explainer = Explainer(
            translation.setup(settings), keys, postgres, redis, local=local, introspector=introspector,
            learnt_revocations=learnt_revocations, deaf=partial(watching.deaf, streams),
            never_found=plain.never_found, clocks=clocks,
            users=directories.users_explained(postgres, users, operators), budgets=limits.budgets,
        )  # fmt: skip
        parts = Parts(
            admin, metrics, workers, issuers, postgres, operators, redis, local, keys, ring, explainer,
            trusted=lambda: invalidation.trusted, introspector=introspector,
            history=control_plane.history(metrics, workers, stack),
            settings=control_plane.shown_settings(settings), budgets=limits.budgets,
            records=None if settings.record is None else settings.record.directory,
        )  # fmt: skip
        sign_in = control_plane.sign_in(settings, stack)
        api = admin_api(parts, _admin_token(settings), None if sign_in is None else sign_in.sessions)
        runner = await _serve_admin(listeners.admin, admin.application(api, sign_in), stack)
        responder = Responder(settings.errors.detail)
        log = observing.request_log(settings, ring)
        reauthorization = Reauthorization(memo, local, metrics, log, clock=time.time)
        stack.push_async_callback(reauthorization.close)
        stack.callback(invalidation.subscribe(reauthorization.changed))
        context = ExchangeContext(admit, headers, responder, metrics, log, upstreams, reauthorization)
        health = listening.health_path(settings.server, admin, metrics)
        server, log_level = observing.front_server(
            settings, context, health, assertions, tracing, limits.exchanges
        )
        speaks = headers.trusts if settings.server.proxy_protocol else None
        front = await listening.serve_front(server, listeners.front, certificate, stack, speaks)
        fronts: dict[Front, Stoppable] = {"front": front}
        asked = listening.decision_context(
            settings, admitter(forwards=False)[1], headers, responder, metrics, log
        )
        if asked is not None:
            fronts |= await listening.serve_decisions(settings, asked, listeners, assertions, tracing, stack)
        if alone:
            _remove_at_end(settings, stack)
        metrics.workers.inc()
        scheme = "http" if certificate is None else "https"
        urls = _urls(scheme, listeners)
        yield Running(urls, metrics, admin, ring, keys, log_level, limits.budgets, fronts, runner)


# Servers -------------------------------------------------------------------------------------------


def _listen(settings: Settings, stack: AsyncExitStack) -> Listeners:
    """Bind sockets that no other process shares."""
    bound: dict[str, tuple[socket.socket, ...]] = {}
    for setting, endpoint in _endpoints(settings).items():
        bound[setting] = sockets.bind(endpoint, setting)
        stack.callback(sockets.close, bound[setting])
    return Listeners(
        bound["server.listen"],
        bound["admin.listen"],
        bound.get("decision.listen", ()),
        bound.get("decision.grpc_listen", ()),
    )


def _endpoints(settings: Settings) -> dict[str, sockets.Endpoint]:
    """Return the addresses to listen on, by their settings."""
    addresses = {
        "server.listen": settings.server.listen,
        "admin.listen": settings.admin.listen,
        "decision.listen": settings.decision.listen,
        "decision.grpc_listen": settings.decision.grpc_listen,
    }
    return {setting: address.endpoint for setting, address in addresses.items() if address is not None}


def _remove_at_end(settings: Settings, stack: AsyncExitStack) -> None:
    for endpoint in _endpoints(settings).values():
        stack.callback(sockets.remove, endpoint)


def _urls(scheme: str, listeners: Listeners) -> Urls:
    """Return where the gateway serves; `scheme` is that of the listener for clients."""
    return Urls(
        sockets.url(scheme, listeners.front),
        sockets.url("http", listeners.admin),
        sockets.url("http", listeners.decision) if listeners.decision else None,
        sockets.url("grpc", listeners.grpc) if listeners.grpc else None,
    )


def _admin_token(settings: Settings) -> str | None:
    token = settings.admin.token
    return None if token is None else token.get_secret_value()


async def _serve_admin(
    listeners: Sequence[socket.socket], application: web.Application, stack: AsyncExitStack
) -> web.AppRunner:
    runner = await listener.listen(application, listeners, sockets.BACKLOG)
    stack.push_async_callback(runner.cleanup)
    return runner


# Dependencies --------------------------------------------------------------------------------------


async def _warm(postgres: Postgres, users: SourceDatabase | None) -> None:
    """Open connections early. If there is no database, `/readyz` reports it."""
    with suppress(StoreUnavailable):
        await postgres.identify()
        await postgres.warm()
        if (found := await postgres.compare_versions()) is not None:
            logs.tables_of_another_version(found.kind, found.found, found.fix)
    if users is not None:
        with suppress(StoreUnavailable):
            await users.warm()
