"""The log of requests, and the exchanges that write to it."""

import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from gateway import translation
from gateway.builders.trust import Assertions
from gateway.proxy.context import ExchangeContext
from gateway.proxy.exchanges.exchange import Exchange, Kind
from gateway.proxy.exchanges.observed import ObservedExchange
from gateway.proxy.exchanges.traced import traced
from gateway.proxy.health import HealthPath
from gateway.proxy.server import ConnectionServer, ExchangeFactory
from gateway.replay.recorder import Recorder, RecordFiles
from gateway.settings import Settings
from gateway.telemetry import logs
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.denials import DenialRing
from gateway.telemetry.tracing.server_span import Tracing


def request_log(settings: Settings, ring: DenialRing) -> logs.RequestLog:
    """Return the log of requests; `ring` keeps the latest denials."""
    form, access_log = settings.log.access_format, None
    if form != "json":
        to_stdout = settings.log.access_output == "stdout"
        access_log = AccessLog(form, lambda: sys.stdout if to_stdout else sys.stderr)
    return logs.RequestLog(
        access=settings.log.access,
        subjects=settings.log.subjects,
        ring=ring,
        access_log=access_log,
        denial_level=settings.log.denial_level,
        denial_sample=settings.log.denial_sample,
        detailed=settings.log.level == "debug",
    )


def recorder(settings: Settings, stack: AsyncExitStack) -> Recorder | None:
    """Return the recorder of requests, which runs until `stack` ends; None: none are recorded."""
    record = settings.record
    if record is None:
        return None
    files = RecordFiles(
        record.directory,
        keep=record.keep,
        max_size=record.max_size,
        subjects={issuer.name: issuer.subject for issuer in settings.issuers},
        processes=translation.workers(settings.server),
    )
    recorder = Recorder(files, record.sample)
    recorder.start()
    stack.push_async_callback(recorder.close)
    return recorder


@dataclass(frozen=True, slots=True)
class LogLevel:
    """The level of the log, which can be raised to `debug` for a while."""

    configured: str
    log: logs.RequestLog
    follow: Callable[[], None]
    """Called after each change."""

    def raise_level(self, *, raised: bool) -> None:
        """Log at the level `debug`, or again at the configured level."""
        logs.set_level("debug" if raised else self.configured)
        self.log.raise_level(raised=raised)
        self.follow()


def front_server(
    settings: Settings,
    context: ExchangeContext,
    health: HealthPath | None,
    assertions: Assertions,
    tracing: Tracing | None,
    kind: Kind,
) -> tuple[ConnectionServer, LogLevel]:
    """Return the server for clients, and the level of its log.

    `kind` makes of each kind of exchange the one that is used.
    """

    def exchange() -> ExchangeFactory:
        observed = context.log.access
        factory: ExchangeFactory = partial(kind(ObservedExchange if observed else Exchange), context)
        if tracing is not None:
            factory = traced(tracing, context, observed=observed, kind=kind)
        factory = assertions.before(factory)
        return factory if health is None else health.before(factory)

    server = ConnectionServer(
        context,
        exchange(),
        limits=translation.limits(settings.server.limits),
        exempt=context.headers.trusts,
    )

    def follow() -> None:
        server.exchange = exchange()

    return server, LogLevel(settings.log.level, context.log, follow)
