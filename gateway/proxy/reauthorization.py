"""Responses and tunnels that last end when a new request of their caller would be refused.

A request is settled once, at its beginning; what lasts is settled again, by the same rules. Whoever
keeps the local tier tells of every change that it hears of; then all are looked at, and those that the
change concerns are asked about, in memory first. So a change of one user costs the stores nothing for
the others. While changes may go unheard, all are asked about every few seconds. A store that does not
answer ends nothing: it is asked again until it does. Expiry is the clock's to tell.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol, TypeAlias

import structlog

from gateway.core.admission import Admission
from gateway.core.model import Claims, Request, Resolution, Route, User
from gateway.core.reasons import TOKEN_EXPIRED, Denial, Group
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import Metrics

_LOOK_EVERY: Final = 1.0
"""Seconds between two looks for what time alone brings about."""
_ASK_AGAIN: Final = 1.0
"""Seconds after which a store is asked again that did not answer, or with what it had last known."""
_ASK_BLINDLY: Final = 3.0
"""Seconds after which everything is asked about again while changes may go unheard."""
_ASK_ANYWAY: Final = 300.0
"""Seconds after which everything is asked about again, for changes that no trigger tells of."""
_AT_ONCE: Final = 32
"""Questions that are under way at the same time."""
_WAITING: Final = 1000
"""Questions that wait for their turn; with more, those that no change gives rise to are put off."""
_SLICE: Final = 256
"""How many are looked at in one turn of the event loop."""
_REST: Final = 3.0
"""After all have been looked at, rest for so many times as long: changes may come without end."""
_LONGEST_REST: Final = 0.2
"""Seconds; for a process may be halted while it looks."""

Changeable: TypeAlias = str | tuple[str, str]
"""What a change is of: an identity, a token, a user's id or an issuer's name."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Memory(Protocol):
    """What is heard of changes: `gateway.identity.local_cache.LocalTier`."""

    @property
    def trusted(self) -> bool:
        """Whether every change so far has been heard of."""

    def ticket(self) -> int:
        """Return the place of this moment among the changes."""

    def changed_since(self, ticket: int) -> Set[Changeable] | None:
        """Return all whose changes were heard of since a ticket was taken; None: it may be anybody."""

    def concerns(self, claims: Claims, user: User | None) -> Sequence[Changeable]:
        """Return all whose changes concern a token and its user."""


class Rechecker(Protocol):
    """Settles again who was admitted: `gateway.memo.Memo`."""

    async def recheck(self, route: Route, claims: Claims) -> Resolution:
        """Return who is behind a token. Raises `Denial` when a new request would be refused."""


@dataclass(eq=False, slots=True)
class Lasting:
    """A response or tunnel that is not over with its first bytes."""

    request: Request
    route: Route
    claims: Claims
    concerns: Sequence[Changeable]
    """Whose changes may end it."""
    close: Callable[[Denial], None]
    ask_at: float
    """When it is to be asked about, though nothing changed, on the clock of `perf_counter`."""
    asking: bool = False
    timer: asyncio.TimerHandle | None = None


class LiveConnections:
    """All that lasts, and has a caller who may lose what it takes.

    `clock` gives Unix seconds.
    """

    def __init__(
        self,
        pipeline: Rechecker,
        memory: Memory,
        metrics: Metrics,
        request_log: RequestLog,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._pipeline = pipeline
        self._memory = memory
        self._metrics = metrics
        self._request_log = request_log
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._lasting: dict[Lasting, None] = {}
        self._changed_at = -math.inf
        self._doubtful: deque[Lasting] = deque()
        self._askers: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._seen = memory.ticket()
        """The changes before it have been looked at."""
        self._timer: asyncio.TimerHandle | None = None
        metrics.live_connections.read((), lambda: len(self._lasting))

    def __len__(self) -> int:
        return len(self._lasting)

    async def close(self) -> None:
        """Look after nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        for lasting in tuple(self._lasting):
            self.forget(lasting)
        tasks = [*self._askers] if self._looking is None else [*self._askers, self._looking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What exchanges ask ------------------------------------------------------------------------------

    def watch(
        self, request: Request, admission: Admission, began: float, close: Callable[[Denial], None]
    ) -> Lasting | None:
        """Have `close` called, later and once, when the caller of what was admitted may not go on.

        `began` is when the request did, on the clock of `perf_counter`: a change that came since
        may have come too late for its admission. None: nobody can lose what this is, or nobody minds.
        """
        claims, route = admission.claims, admission.forwarding.route
        if claims is None or not route.close_on_revocation:
            return None
        concerns = self._memory.concerns(claims, admission.user)
        ask_at = began + self._patience(answered=not admission.stale)
        lasting = Lasting(request, route, claims, concerns, close, ask_at)
        if not self._lasting:
            self._seen = self._memory.ticket()
        self._lasting[lasting] = None
        self._heed_expiry(lasting)
        if began <= self._changed_at:
            self._ask(lasting)
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_EVERY, self._tick)
        return lasting

    def forget(self, lasting: Lasting) -> None:
        """Hear that something is over."""
        self._lasting.pop(lasting, None)
        if lasting.timer is not None:
            lasting.timer.cancel()
            lasting.timer = None

    # What is looked for ------------------------------------------------------------------------------

    def changed(self) -> None:
        """Hear that something changed, or that changes may go unheard from here on, or no longer do."""
        self._changed_at = perf_counter()
        if self._lasting:
            self._look_again = True
            if self._looking is None:
                self._looking = self._loop.create_task(self._look_at_all())

    def _tick(self) -> None:
        """Look for what time alone brings about."""
        self._timer = self._loop.call_later(_LOOK_EVERY, self._tick) if self._lasting else None
        now = perf_counter()
        for lasting in self._lasting:
            if lasting.timer is None:
                self._heed_expiry(lasting)
            if now >= lasting.ask_at and not lasting.asking and len(self._doubtful) < _WAITING:
                self._ask(lasting)

    async def _look_at_all(self) -> None:
        """Look for what the changes since the last time concern, until there are no more."""
        memory = self._memory
        try:
            while self._look_again:
                self._look_again, began = False, perf_counter()
                changes, self._seen = memory.changed_since(self._seen), memory.ticket()
                for number, lasting in enumerate(tuple(self._lasting), start=1):
                    if not lasting.asking and _touches(changes, lasting):
                        self._ask(lasting)
                    if number % _SLICE == 0:
                        await asyncio.sleep(0)
                await asyncio.sleep(min(_REST * (perf_counter() - began), _LONGEST_REST))
        finally:
            self._looking = None

    def _patience(self, *, answered: bool) -> float:
        """Return for how many seconds an answer counts if nothing is heard of."""
        if not answered:
            return _ASK_AGAIN
        return _ASK_ANYWAY if self._memory.trusted else _ASK_BLINDLY

    def _heed_expiry(self, lasting: Lasting) -> None:
        """Set a timer if the token expires before this is looked at again."""
        until = lasting.claims.good_until
        if until is not None and (left := until - self._clock()) <= 2 * _LOOK_EVERY:
            lasting.timer = self._loop.call_later(max(left, 0.0), self._expired, lasting)

    def _expired(self, lasting: Lasting) -> None:
        lasting.timer = None
        claims = lasting.claims
        if claims.good_until is not None and self._clock() < claims.good_until:
            # The clock was set back, or a timer is not as exact as it is.
            self._heed_expiry(lasting)
            return
        self._end(lasting, Denial(TOKEN_EXPIRED, issuer=claims.issuer_name, subject=claims.subject))

    # Questions ---------------------------------------------------------------------------------------

    def _ask(self, lasting: Lasting) -> None:
        lasting.asking = True
        self._doubtful.append(lasting)
        if len(self._askers) < _AT_ONCE:
            asker = self._loop.create_task(self._ask_in_turn())
            self._askers.add(asker)
            asker.add_done_callback(self._askers.discard)

    async def _ask_in_turn(self) -> None:
        while self._doubtful:
            lasting = self._doubtful.popleft()
            if lasting in self._lasting:
                await self._settle(lasting)
                # An answer from memory takes no turn of the event loop.
                await asyncio.sleep(0)

    async def _settle(self, lasting: Lasting) -> None:
        ticket = self._memory.ticket()
        try:
            resolution = await self._pipeline.recheck(lasting.route, lasting.claims)
        except Denial as denial:
            if denial.reason.group is not Group.OURS:
                self._end(lasting, denial)
                return
            answered = False
        except Exception:
            # A defect of ours is not the caller's fault either.
            log.exception("live_connection_not_checked", request_id=lasting.request.id)
            answered = False
        else:
            lasting.concerns = self._memory.concerns(lasting.claims, resolution.user)
            answered = not resolution.stale and resolution.revocation_tier is not None
        lasting.asking = False
        lasting.ask_at = perf_counter() + self._patience(answered=answered)
        # What changed while it was asked about has been looked at without it.
        if answered and _touches(self._memory.changed_since(ticket), lasting):
            self._ask(lasting)

    def _end(self, lasting: Lasting, denial: Denial) -> None:
        if lasting not in self._lasting:
            return
        self.forget(lasting)
        denial.route = lasting.route
        self._metrics.connection_closed(denial, lasting.route.name)
        self._request_log.connection_closed(lasting.request, denial, lasting.route.name)
        try:
            lasting.close(denial)
        except Exception:
            # The others' turn must come all the same.
            log.exception("live_connection_not_closed", request_id=lasting.request.id)


def _touches(changes: Set[Changeable] | None, lasting: Lasting) -> bool:
    return changes is None or not changes.isdisjoint(lasting.concerns)
