"""What every exchange of the data plane needs, in one place."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.headers import HeaderPolicy
from gateway.core.lru import LRU
from gateway.core.model import Admission, Request
from gateway.pipeline import RECURRING_HEADS
from gateway.proxy.live import LiveConnections
from gateway.proxy.response_parser import ResponseHead
from gateway.proxy.responses import Responder
from gateway.proxy.upstream import Upstreams
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import Metrics


class Admitter(Protocol):
    """Settles a request: `gateway.pipeline.Pipeline`."""

    @property
    def remembered(self) -> Container[bytes]:
        """The SHA-256 of each token that has been verified, and is remembered whatever became of it since."""

    async def admit(self, request: Request) -> Admission:
        """Return the admission, or raise `Denial`. Before it waits for anything, it sleeps for no time."""


@dataclass(frozen=True, slots=True)
class ProxyHandler:
    """What every exchange needs."""

    pipeline: Admitter
    upstreams: Upstreams
    headers: HeaderPolicy
    responder: Responder
    metrics: Metrics
    log: RequestLog
    live: LiveConnections
    known_heads: LRU[bytes, ResponseHead] = field(default_factory=lambda: LRU(RECURRING_HEADS))
