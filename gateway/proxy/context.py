"""What every exchange of the data plane needs, in one place: the pipeline, the upstreams, how to deny."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.admission import Admission
from gateway.core.fifo import FIFO
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
    """Settles a request: `gateway.memo.Memo`."""

    @property
    def remembered(self) -> Container[bytes]:
        """The SHA-256 of each token that has been verified, and is remembered whatever became of it since."""

    @property
    def heads(self) -> Container[object]:
        """The `Request.recurring` of those of which it is remembered what they say, whatever the token."""

    async def admit(self, request: Request) -> Admission:
        """Return the admission, or raise `Denial`. Before it waits for anything, it sleeps for no time."""


@dataclass(frozen=True, slots=True)
class ExchangeContext:
    """What every exchange shares."""

    pipeline: Admitter
    upstreams: Upstreams
    headers: HeaderPolicy
    responder: Responder
    metrics: Metrics
    log: RequestLog
    reauthorization: Reauthorization
    response_heads: FIFO[bytes, ResponseHead] = field(default_factory=lambda: FIFO(RECURRING_HEADS))

    def deny(self, request: Request, denial: Denial, route: str, *, keep_alive: bool) -> tuple[int, bytes]:
        """Count and log a denial; returns its status and the whole response."""
        if isinstance(denial, LimitExceeded):
            self.metrics.limit_exceeded(denial.limit)
        self.metrics.denied(denial, route)
        status, response = self.responder.render(
            denial, request.id, head_only=request.method == "HEAD", keep_alive=keep_alive
        )
        self.log.denied(request, denial, route, status)
        return status, response

    def defect(self, request: Request, error: Exception) -> Denial:
        """Log a defect of ours; returns what its request is denied with."""
        self.log.failed(request, error)
        denial = Denial(INTERNAL_ERROR)
        denial.__cause__ = error
        return denial
