"""The shared parts of all exchanges of the data plane: those of every listener, and the upstreams."""

from dataclasses import dataclass, field

from gateway.core.caches import FIFO
from gateway.memo import RECURRING_HEADS
from gateway.proxy.exchanges.reauthorization import Reauthorization
from gateway.proxy.refusals import ListenerContext
from gateway.proxy.upstream.balancer import Upstreams
from gateway.proxy.upstream.parser import ResponseHead


@dataclass(frozen=True, slots=True)
class ExchangeContext(ListenerContext):
    """The parts that all exchanges share."""

    upstreams: Upstreams
    reauthorization: Reauthorization
    response_heads: FIFO[bytes, ResponseHead] = field(default_factory=lambda: FIFO(RECURRING_HEADS))
