"""The shared parts of all questions of fronts."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.core.caches import FIFO
from gateway.core.model import Request
from gateway.core.reasons import FRONT_NOT_TRUSTED, Denial
from gateway.core.requests.fronts import Front, Original, Questions, front_of
from gateway.decision.answers import denial as answer_of_denial
from gateway.memo import RECURRING_HEADS
from gateway.proxy.downstream.incoming import AnyRequest, RecurringRequest
from gateway.proxy.refusals import ListenerContext
from gateway.telemetry.metrics import UNMATCHED


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a peer that may ask, and the original request in it."""

    front: Front
    original: Original
    peer: str


@dataclass(frozen=True, slots=True)
class DecisionContext(ListenerContext):
    """The parts that all questions share."""

    questions: Questions
    may_ask: Callable[[str], bool]
    """Tells of an address whether it is a front's; the empty one is that of a Unix socket."""
    nothing_told: bytes
    """What is told of a request without a user: every identity field, empty."""
    _asked: FIFO[RecurringRequest, Asked] = field(default_factory=lambda: FIFO(RECURRING_HEADS))

    def asked(self, incoming: AnyRequest, peer: str) -> Asked:
        """Return what a peer asks about. It depends on the head and the peer alone. Raises `Denial`."""
        recurring = incoming.recurring
        if recurring is not None:
            known = self._asked.get(recurring)
            if known is not None and known.peer == peer:
                return known
        if not self.may_ask(peer):
            raise Denial(FRONT_NOT_TRUSTED)
        front = front_of(incoming.target)
        original = self.questions.read(front, incoming.method, incoming.target, incoming.headers, peer)
        asked = Asked(front, original, peer)
        if recurring is not None:
            self._asked.put(recurring, asked)
        return asked

    def refuse(
        self, request: Request, denial: Denial, route: str, incoming: AnyRequest, *, keep_alive: bool
    ) -> tuple[int, bytes]:
        """Count and log a denial; return its true status and the complete answer."""
        status, response = self.deny(
            request, denial, route, keep_alive=keep_alive, head_only=incoming.method == "HEAD"
        )
        return status, self._for_front(incoming.target, status, denial, response)

    def deny_unread(self, request: Request, denial: Denial, target: str) -> tuple[int, bytes]:
        """Deny a question that is not HTTP, or too large: its front may have got it so from a client."""
        status, response = self.deny(request, denial, UNMATCHED, keep_alive=False)
        return status, self._for_front(target, status, denial, response)

    def _for_front(self, target: str, status: int, denial: Denial, response: bytes) -> bytes:
        try:
            front = front_of(target)
        except Denial:
            front = None
        return answer_of_denial(front, status, self.responder.code(denial), response)
