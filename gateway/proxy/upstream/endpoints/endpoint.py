"""One address of an upstream: its connections, and its failures."""

import asyncio

from gateway.core.reasons import UPSTREAM_PROTOCOL_ERROR, Denial
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.endpoints.dial import Dialer, Origin
from gateway.proxy.upstream.endpoints.outlier_detection import OutlierDetection
from gateway.proxy.upstream.endpoints.pool import Pool
from gateway.proxy.upstream.options import UpstreamRules
from gateway.telemetry import logs


class Endpoint:
    """A destination of requests."""

    def __init__(self, rules: UpstreamRules, origin: Origin, address: str, dialer: Dialer) -> None:
        self.origin = origin
        self.address = address
        self.host = _host(rules, origin)
        self.pool = Pool(rules, self._connect)
        self.outlier_detection = OutlierDetection(rules.ejection, rules.health_check)
        self._upstream = rules.name
        self._dialer = dialer

    def __str__(self) -> str:
        if self.origin.port is None:
            return self.address
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.origin.port}"

    def available(self, now: float) -> bool:
        """Return whether a request should be sent here."""
        return self.outlier_detection.may_serve(now, self.pool.outstanding)

    async def dial(self) -> UpstreamConnection:
        """Open a connection outside the pool. Raises `Denial`."""
        return await self._dialer.dial(self.origin, self.address, self)

    def release(self, connection: UpstreamConnection) -> None:
        """Take a connection back after its exchange, and count the result."""
        failure = connection.failure
        if failure is None:
            if connection.answered and self.outlier_detection.failures and self.outlier_detection.succeeded():
                logs.endpoint_restored(self._upstream, str(self))
        elif failure.reason is UPSTREAM_PROTOCOL_ERROR:
            # A kept connection that closed when it was used says nothing about the endpoint.
            silent = connection.reused and not connection.answered
            if not (silent or connection.cut_short):
                self._failed(failure)
        self.pool.release(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        self.pool.lost(connection)

    def checked(self, *, healthy: bool, detail: str | None) -> None:
        """Take the result of a health check."""
        if self.outlier_detection.checked(asyncio.get_running_loop().time(), healthy=healthy):
            if healthy:
                logs.endpoint_restored(self._upstream, str(self))
            else:
                logs.endpoint_ejected(self._upstream, str(self), detail, None)

    def close(self) -> None:
        """Take no more requests. Exchanges in progress may finish."""
        self.pool.close()

    async def _connect(self) -> UpstreamConnection:
        try:
            return await self.dial()
        except Denial as denial:
            self._failed(denial)
            raise

    def _failed(self, denial: Denial) -> None:
        seconds = self.outlier_detection.failed(asyncio.get_running_loop().time())
        if seconds is not None:
            logs.endpoint_ejected(self._upstream, str(self), denial.detail, seconds)


def _host(rules: UpstreamRules, origin: Origin) -> bytes | None:
    """Return the Host to send in place of the client's; None to keep the client's."""
    if rules.host == "preserve":
        return None
    return origin.authority if rules.host == "upstream" else rules.host.encode("ascii")
