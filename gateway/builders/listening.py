"""Settings → servers on the sockets that there are."""

import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from gateway import translation
from gateway.admin.health import Admin
from gateway.builders.trust import Assertions
from gateway.core.headers import HeaderPolicy
from gateway.core.networks import contains
from gateway.decision.context import DecisionContext
from gateway.decision.exchange import DecisionExchange
from gateway.decision.traced import traced
from gateway.listeners import Front, Listeners, Stoppable
from gateway.proxy.certificate import Certificate
from gateway.proxy.errors import Responder
from gateway.proxy.health import HealthPath
from gateway.proxy.listener import Listener
from gateway.proxy.refusals import Admitter
from gateway.proxy.server import ConnectionServer, ExchangeFactory
from gateway.settings import Settings
from gateway.settings.sections import model
from gateway.telemetry import logs
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing.server_span import Tracing

EXIT_SECONDS: Final = 10.0
"""Seconds that requests in flight may take when a gateway ends without `drain`."""


def health_path(server: model.Server, admin: Admin, metrics: Metrics) -> HealthPath | None:
    """Return the health path of the data plane; None if there is none. Call it inside the event loop."""
    if server.health_path is None:
        return None

    async def serves() -> bool:
        return (await admin.readiest()).serves

    return HealthPath(server.health_path, serves=serves, draining=lambda: admin.draining, metrics=metrics)


def decision_context(
    settings: Settings,
    pipeline: Admitter,
    headers: HeaderPolicy,
    responder: Responder,
    metrics: Metrics,
    log: logs.RequestLog,
) -> DecisionContext:
    """Return the shared parts of the questions of other proxies."""
    is_proxy = contains(settings.decision.trusted_proxies)

    def may_ask(peer: str) -> bool:
        # A peer without an address is at a Unix socket: the permissions of its file say who may connect.
        return not peer or is_proxy(peer)

    questions = translation.questions(settings, headers)
    return DecisionContext(pipeline, headers, responder, metrics, log, questions, may_ask, headers.told(b""))


def decision_server(
    settings: Settings, context: DecisionContext, assertions: Assertions, tracing: Tracing | None
) -> ConnectionServer:
    """Return the server of the decision listener."""
    limits = translation.limits(settings.server.limits)
    exchange: ExchangeFactory = partial(DecisionExchange, context)
    if tracing is not None:
        exchange = traced(tracing, context)
    return ConnectionServer(context, assertions.before(exchange), limits=limits, exempt=context.may_ask)


async def serve_decisions(
    settings: Settings,
    context: DecisionContext,
    listeners: Listeners,
    assertions: Assertions,
    tracing: Tracing | None,
    stack: AsyncExitStack,
) -> dict[Front, Stoppable]:
    """Answer other proxies on the sockets that there are, until `stack` ends. Raises OSError."""
    fronts: dict[Front, Stoppable] = {}
    if listeners.decision:
        server = decision_server(settings, context, assertions, tracing)
        fronts["decision"] = await serve_front(server, listeners.decision, None, stack)
    if listeners.grpc:
        # Here, because the extra may not be installed.
        from gateway.decision.grpc.service import CheckService, GrpcListener
        from gateway.decision.grpc.traced import TracedCheckService

        service = CheckService(context) if tracing is None else TracedCheckService(context, tracing)
        grpc = GrpcListener(service, [one.getsockname()[:2] for one in listeners.grpc])
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
