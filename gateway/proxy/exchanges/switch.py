"""The way of one exchange from a 101 (Switching Protocols) to the end of its tunnel (RFC 9110 §7.8)."""

import asyncio
from collections.abc import Callable

from gateway.core.admission import Forwarding
from gateway.core.reasons import Denial
from gateway.proxy.context import ExchangeContext
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.exchanges.reauthorization import LongLivedExchange
from gateway.proxy.exchanges.tunnel import EndedBy, Tunnel
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.telemetry.series import Traffic


class ProtocolSwitch:
    """Makes a tunnel of a client's and an upstream's connection."""

    __slots__ = ("_client", "_connection", "_context", "_writable", "received", "sent")

    def __init__(
        self, context: ExchangeContext, client: ClientConnection, connection: UpstreamConnection
    ) -> None:
        self._context = context
        self._client = client
        self._connection = connection
        self._writable: asyncio.Future[None] | None = None
        self.received = 0
        """Bytes of the other protocol from the client, once the tunnel has ended."""
        self.sent = 0
        """Those from the upstream, without what came together with its 101."""

    def wake(self) -> None:
        """Check again in `until_writable`: one side takes data, or the exchange is over."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def until_writable(self, is_over: Callable[[], bool]) -> bool:
        """Wait until both sides take data; return False if the exchange is over before that."""
        while (self._client.writing_paused or self._connection.writing_paused) and not is_over():
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable
        return not is_over()

    async def run(
        self,
        forwarding: Forwarding,
        upstream: str,
        head: bytes,
        body: bytes,
        traffic: Traffic,
        *,
        watch: Callable[[Callable[[Denial], None]], LongLivedExchange | None],
        end: Callable[[], None],
    ) -> None:
        """Run the tunnel until either side ends it, then call `end`.

        `head` is the 101 for the client, and `body` the data that came after it. `traffic` counts the rest.
        `watch` has the tunnel closed when its caller loses access.
        """
        client, connection, metrics = self._client, self._connection, self._context.metrics
        outside, inside = client.transport, connection.transport
        if outside is None or inside is None:
            client.write(head + body)
            end()
            return
        early = client.hand_over()
        traffic.received += len(early)
        connection.resume_reading()
        tunnel = Tunnel(outside, inside, idle_timeout=forwarding.route.tunnel_timeout, traffic=traffic)

        def dismiss(denial: Denial) -> None:
            if not tunnel.dismiss(self._context.responder.code(denial)):
                client.break_off()

        if watch(dismiss) is not None and (forwarding.upgrade or b"").lower() == b"websocket":
            tunnel.follow_frames()
        metrics.tunnel_opened(upstream)
        ended_by = EndedBy.SHUTDOWN
        try:
            ended_by = await tunnel.run(body, early, head=head)
        finally:
            self.received, self.sent = len(early) + tunnel.passed.received, tunnel.passed.sent
            metrics.tunnel_ended(upstream, ended_by)
            end()
