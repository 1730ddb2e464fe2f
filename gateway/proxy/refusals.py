"""The parts that all listeners for clients share: the decision, and what a client gets when it is no."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

from gateway.core.admission import Admission
from gateway.core.headers import HeaderPolicy
from gateway.core.model import Request
from gateway.core.reasons import INTERNAL_ERROR, Denial
from gateway.core.requests.cors import denial_fields
from gateway.proxy.downstream.limits import LimitExceeded
from gateway.proxy.errors import Responder
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import UNMATCHED, Metrics


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
class ListenerContext:
    """The parts that all requests of a listener share."""

    pipeline: Admitter
    headers: HeaderPolicy
    responder: Responder
    metrics: Metrics
    log: RequestLog

    def deny(
        self,
        request: Request,
        denial: Denial,
        route: str,
        *,
        keep_alive: bool,
        head_only: bool | None = None,
    ) -> tuple[int, bytes]:
        """Count and log a denial; return its status and the complete response.

        `head_only`: the response has no content. None: so it is for HEAD.
        """
        if isinstance(denial, LimitExceeded):
            self.metrics.limit_exceeded(denial.limit)
        self.metrics.denied(denial, route)
        if head_only is None:
            head_only = request.method == "HEAD"
        status, response = self.responder.render(
            denial, request.id, head_only=head_only, keep_alive=keep_alive
        )
        self.log.denied(request, denial, route, status)
        if denial.route is not None and denial.route.cors is not None:
            line, mark, rest = response.partition(b"\r\n")
            response = line + mark + denial_fields(denial.route.cors, request.headers) + rest
        return status, response

    def deny_unread(self, request: Request, denial: Denial, target: str) -> tuple[int, bytes]:  # noqa: ARG002 -- for others
        """Deny data that did not become a request. `target` is its target, if it was read."""
        return self.deny(request, denial, UNMATCHED, keep_alive=False)

    def defect(self, request: Request, error: Exception) -> Denial:
        """Log a bug; return the denial for its request."""
        self.log.failed(request, error)
        denial = Denial(INTERNAL_ERROR)
        denial.__cause__ = error
        return denial
