"""An exchange that is written down: in the access log, and at the level `debug` step by step.

Exchanges are of this kind only while one of the two is on, so that the others do not even ask.
"""

from contextvars import copy_context

from gateway.core.admission import Admission
from gateway.core.model import Credential
from gateway.proxy.context import ExchangeContext
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import AnyRequest, Incoming
from gateway.proxy.exchanges.exchange import Exchange
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.parser import ResponseParser
from gateway.telemetry import logs


class ObservedExchange(Exchange):
    """An exchange that counts its own bytes, and logs its steps and its end."""

    __slots__ = ("_sent",)

    def __init__(
        self,
        context: ExchangeContext,
        client: ClientConnection,
        incoming: AnyRequest,
        credential: Credential | None,
    ) -> None:
        super().__init__(context, client, incoming, credential)
        self._sent = 0

    def begin(self) -> None:
        if self._context.log.detailed:
            # The lines that others log while they work for this request name it, too.
            copy_context().run(self._begin_named)
        else:
            super().begin()

    def _begin_named(self) -> None:
        logs.name_request(self.request)
        super().begin()

    def _forward(self, admission: Admission) -> None:
        if self._context.log.detailed:
            self._context.log.admitted(self.request, admission)
        super()._forward(admission)

    def _send(self, admission: Admission, upstream: Upstream, connection: UpstreamConnection) -> None:
        if self._context.log.detailed:
            endpoint, reused = str(connection.owner), connection.reused
            self._context.log.sent(self.request, upstream.name, endpoint, reused=reused)
        super()._send(admission, upstream, connection)

    def arrived(self, parser: ResponseParser, body: bytes) -> None:
        self._sent += len(body)
        super().arrived(parser, body)

    def _answer(self, route: str, status: int, response: bytes, *, keep_alive: bool) -> None:
        self._sent = len(response.partition(b"\r\n\r\n")[2])
        super()._answer(route, status, response, keep_alive=keep_alive)

    def _account(self, route: str, status: int, now: float) -> None:
        super()._account(route, status, now)
        incoming, admission, upstream = self._incoming, self._admission, self._upstream
        received, sent = incoming.received if isinstance(incoming, Incoming) else 0, self._sent
        if self._switch is not None:
            # The bytes of a tunnel did not come by here.
            received, sent = received + self._switch.received, sent + self._switch.sent
        self._context.log.finished(
            self.request,
            route,
            status,
            now - self._started,
            upstream=None if upstream is None else upstream.name,
            user=None if admission is None else admission.user,
            received=received,
            sent=sent,
        )
