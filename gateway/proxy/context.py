"""The shared parts of all exchanges of the data plane: the pipeline, the upstreams, the denials."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.admission import Admission
from gateway.core.caches import FIFO
from gateway.core.headers import HeaderPolicy
from gateway.core.model import Request
from gateway.core.reasons import INTERNAL_ERROR, Denial
from gateway.memo import RECURRING_HEADS
from gateway.proxy.downstream.limits import LimitExceeded
from gateway.proxy.errors import Responder
from gateway.proxy.reauthorization import Reauthorization
from gateway.proxy.upstream.balancer import Upstreams
from gateway.proxy.upstream.parser import ResponseHead
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import Metrics


class Admitter(Protocol):
    """Decides on requests: `gateway.memo.Memo`."""

    @property
    def remembered(self) -> Container[bytes]:
        """The SHA-256 of each verified token in memory, even if it is no longer valid."""

    @property
    def heads(self) -> Container[object]:
        """The `Request.recurring` of the remembered heads, independent of the token."""

    async def admit(self, request: Request) -> Admission:
        """Return the admission, or raise `Denial`. Before it first waits, it calls `asyncio.sleep(0)`."""


@dataclass(frozen=True, slots=True)
class ExchangeContext:
    """The parts that all exchanges share."""

    pipeline: Admitter
    upstreams: Upstreams
    headers: HeaderPolicy
    responder: Responder
    metrics: Metrics
    log: RequestLog
    reauthorization: Reauthorization
    response_heads: FIFO[bytes, ResponseHead] = field(default_factory=lambda: FIFO(RECURRING_HEADS))

    def deny(self, request: Request, denial: Denial, route: str, *, keep_alive: bool) -> tuple[int, bytes]:
        """Count and log a denial; return its status and the complete response."""
        if isinstance(denial, LimitExceeded):
            self.metrics.limit_exceeded(denial.limit)
        self.metrics.denied(denial, route)
        status, response = self.responder.render(
            denial, request.id, head_only=request.method == "HEAD", keep_alive=keep_alive
        )
        self.log.denied(request, denial, route, status)
        return status, response

    def defect(self, request: Request, error: Exception) -> Denial:
        """Log a bug; return the denial for its request."""
        self.log.failed(request, error)
        denial = Denial(INTERNAL_ERROR)
        denial.__cause__ = error
        return denial
