"""Re-authorization: long responses and tunnels end when a new request of their caller would be refused.

A request is authorized at its beginning. A response or tunnel that lives longer is authorized again, by the
same rules. `Invalidation` calls `changed` for every change that it receives. Then every exchange is compared
with the changes, and those that a change concerns are authorized again, from memory first. So a change of one
user costs the stores nothing for the others. While changes may be missed, every exchange is authorized again
every few seconds. A store that does not answer ends nothing: it is asked again until it does. A timer ends
an exchange whose token expires, and has one authorized again whose user changes by time alone, as when a ban
begins.
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

_CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks for exchanges that are due or about to expire."""
_RETRY_INTERVAL: Final = 1.0
"""Seconds until the next attempt if no store answered, or if the answer was stale."""
_UNHEARD_INTERVAL: Final = 3.0
"""Seconds between two authorizations of an exchange while changes may be missed."""
_REVIEW_INTERVAL: Final = 300.0
"""Seconds between two authorizations while changes are received, for changes that no trigger reports."""
_TIMED_INTERVAL: Final = 15.0
"""Seconds between two authorizations where the route's condition reads the time."""
_CONCURRENCY: Final = 32
"""Exchanges that are authorized at the same time."""
_INSTANT_STEP: Final = 0.1
"""Seconds by which a user may change later than `User.valid_until` says, which is rounded down."""
_QUEUE_LIMIT: Final = 1000
"""Exchanges that wait in the queue; when it is full, only changes put more into it."""
_BATCH: Final = 256
"""Exchanges that are compared with the changes in one turn of the event loop."""
_REST_FACTOR: Final = 3.0
"""After a comparison of all exchanges, rest this many times as long, because changes may never end."""
_LONGEST_REST: Final = 0.2
"""Seconds; a process may be stopped while it compares."""

ChangeKey: TypeAlias = str | tuple[str, str]
"""The subject of a change: an identity, a token, a user's id or an issuer's name."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Memory(Protocol):
    """The changes that this process has received: `gateway.identity.local_cache.LocalCache`."""

    @property
    def trusted(self) -> bool:
        """Whether every change so far has been received."""

    def ticket(self) -> int:
        """Return the current position in the sequence of changes."""

    def changed_since(self, ticket: int) -> Set[ChangeKey] | None:
        """Return the keys that changed since a ticket was taken; None: any may have."""

    def concerns(self, claims: Claims, user: User | None) -> Sequence[ChangeKey]:
        """Return the keys whose changes concern a token and its user."""


class Reauthorizer(Protocol):
    """Authorizes a token again: `gateway.memo.Memo`."""

    async def reauthorize(self, request: Request, route: Route, claims: Claims) -> Resolution:
        """Return the user behind a token. Raises `Denial` when a new request would be refused."""


@dataclass(eq=False, slots=True)
class LongLivedExchange:
    """A response or tunnel that goes on after its first bytes."""

    request: Request
    route: Route
    claims: Claims
    concerns: Sequence[ChangeKey]
    """The keys whose changes may end it."""
    close: Callable[[Denial], None]
    due_at: float
    """When it is authorized again without a change, on the clock of `perf_counter`."""
    user_until: float | None = None
    """When time alone may change the user, in Unix seconds; None: never."""
    queued: bool = False
    timer: asyncio.TimerHandle | None = None


class Reauthorization:
    """Watches the long-lived exchanges of this process whose callers may lose access.

    `clock` gives Unix seconds.
    """

    def __init__(
        self,
        pipeline: Reauthorizer,
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
        self._exchanges: dict[LongLivedExchange, None] = {}
        self._changed_at = -math.inf
        self._queue: deque[LongLivedExchange] = deque()
        self._consumers: set[asyncio.Task[None]] = set()
        self._checking: asyncio.Task[None] | None = None
        self._check_again = False
        self._checked_up_to = memory.ticket()
        """The ticket up to which changes have been compared with the exchanges."""
        self._timer: asyncio.TimerHandle | None = None
        metrics.live_connections.read((), lambda: len(self._exchanges))

    def __len__(self) -> int:
        return len(self._exchanges)

    async def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        for exchange in tuple(self._exchanges):
            self.forget(exchange)
        tasks = [*self._consumers] if self._checking is None else [*self._consumers, self._checking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Called by exchanges ----------------------------------------------------------------------------

    def watch(
        self, request: Request, admission: Admission, began: float, close: Callable[[Denial], None]
    ) -> LongLivedExchange | None:
        """Call `close`, later and once, when the caller of the admitted request loses access.

        `began` is the begin of the request on the clock of `perf_counter`: a change since then may have come
        too late for its admission. Returns None if the route is public, or turns this off.
        """
        claims, route = admission.claims, admission.forwarding.route
        if claims is None or not route.close_on_revocation:
            return None
        concerns = self._memory.concerns(claims, admission.user)
        due_at = began + self._interval(route, answered=not admission.stale)
        exchange = LongLivedExchange(
            request, route, claims, concerns, close, due_at, _valid_until(admission.user)
        )
        if not self._exchanges:
            self._checked_up_to = self._memory.ticket()
        self._exchanges[exchange] = None
        self._schedule(exchange)
        if began <= self._changed_at:
            self._enqueue(exchange)
        if self._timer is None:
            self._timer = self._loop.call_later(_CHECK_INTERVAL, self._tick)
        return exchange

    def forget(self, exchange: LongLivedExchange) -> None:
        """Stop watching an exchange that is over."""
        self._exchanges.pop(exchange, None)
        if exchange.timer is not None:
            exchange.timer.cancel()
            exchange.timer = None

    # Changes and time --------------------------------------------------------------------------------

    def changed(self) -> None:
        """Compare all exchanges with the changes: after a change, and when the stream breaks or recovers."""
        self._changed_at = perf_counter()
        if self._exchanges:
            self._check_again = True
            if self._checking is None:
                self._checking = self._loop.create_task(self._check_changes())

    def _tick(self) -> None:
        """Find exchanges that are due or about to expire."""
        self._timer = self._loop.call_later(_CHECK_INTERVAL, self._tick) if self._exchanges else None
        now = perf_counter()
        for exchange in self._exchanges:
            if exchange.timer is None:
                self._schedule(exchange)
            if now >= exchange.due_at and not exchange.queued and len(self._queue) < _QUEUE_LIMIT:
                self._enqueue(exchange)

    async def _check_changes(self) -> None:
        """Enqueue the exchanges that changes since the last time concern, until there are no more changes."""
        memory = self._memory
        try:
            while self._check_again:
                self._check_again, began = False, perf_counter()
                changes, self._checked_up_to = memory.changed_since(self._checked_up_to), memory.ticket()
                for number, exchange in enumerate(tuple(self._exchanges), start=1):
                    if not exchange.queued and _concerned(changes, exchange):
                        self._enqueue(exchange)
                    if number % _BATCH == 0:
                        await asyncio.sleep(0)
                await asyncio.sleep(min(_REST_FACTOR * (perf_counter() - began), _LONGEST_REST))
        finally:
            self._checking = None

    def _interval(self, route: Route, *, answered: bool) -> float:
        """Return the seconds until the next authorization if no change concerns the exchange."""
        if not answered:
            return _RETRY_INTERVAL
        if not self._memory.trusted:
            return _UNHEARD_INTERVAL
        condition = route.require.condition
        return _TIMED_INTERVAL if condition is not None and condition.reads_now else _REVIEW_INTERVAL

    def _schedule(self, exchange: LongLivedExchange) -> None:
        """Set a timer if the token expires or the user changes before the next check."""
        instants = [each for each in (exchange.claims.good_until, exchange.user_until) if each is not None]
        if instants and (left := min(instants) - self._clock()) <= 2 * _CHECK_INTERVAL:
            exchange.timer = self._loop.call_later(max(left, 0.0), self._due, exchange)

    def _due(self, exchange: LongLivedExchange) -> None:
        exchange.timer = None
        claims, now = exchange.claims, self._clock()
        if claims.good_until is not None and now >= claims.good_until:
            self._end(exchange, Denial(TOKEN_EXPIRED, issuer=claims.issuer_name, subject=claims.subject))
            return
        if exchange.user_until is not None and now >= exchange.user_until:
            exchange.user_until = None
            if not exchange.queued:
                self._enqueue(exchange)
        # Also if the clock was set back, or the timer was early.
        self._schedule(exchange)

    def _note_instant(self, exchange: LongLivedExchange, user: User | None) -> None:
        """Go by the instant that a new answer has."""
        until = _valid_until(user)
        if until is not None:
            until = max(until, self._clock() + _INSTANT_STEP)
        if until != exchange.user_until:
            exchange.user_until = until
            if exchange.timer is not None:
                exchange.timer.cancel()
                exchange.timer = None
            self._schedule(exchange)

    # Authorizing again -------------------------------------------------------------------------------

    def _enqueue(self, exchange: LongLivedExchange) -> None:
        exchange.queued = True
        self._queue.append(exchange)
        if len(self._consumers) < _CONCURRENCY:
            consumer = self._loop.create_task(self._work_through_queue())
            self._consumers.add(consumer)
            consumer.add_done_callback(self._consumers.discard)

    async def _work_through_queue(self) -> None:
        while self._queue:
            exchange = self._queue.popleft()
            if exchange in self._exchanges:
                await self._reauthorize(exchange)
                # An answer from memory takes no turn of the event loop.
                await asyncio.sleep(0)

    async def _reauthorize(self, exchange: LongLivedExchange) -> None:
        ticket = self._memory.ticket()
        try:
            resolution = await self._pipeline.reauthorize(exchange.request, exchange.route, exchange.claims)
        except Denial as denial:
            if denial.reason.group is not Group.OURS:
                self._end(exchange, denial)
                return
            answered = False
        except Exception:
            # A bug is not the caller's fault either.
            log.exception("live_connection_not_checked", request_id=exchange.request.id)
            answered = False
        else:
            exchange.concerns = self._memory.concerns(exchange.claims, resolution.user)
            if exchange in self._exchanges:
                self._note_instant(exchange, resolution.user)
            answered = not resolution.stale and resolution.revocation_tier is not None
        exchange.queued = False
        exchange.due_at = perf_counter() + self._interval(exchange.route, answered=answered)
        # Changes during the authorization have already been compared with the other exchanges.
        if answered and _concerned(self._memory.changed_since(ticket), exchange):
            self._enqueue(exchange)

    def _end(self, exchange: LongLivedExchange, denial: Denial) -> None:
        if exchange not in self._exchanges:
            return
        self.forget(exchange)
        denial.route = exchange.route
        self._metrics.connection_closed(denial, exchange.route.name)
        self._request_log.connection_closed(exchange.request, denial, exchange.route.name)
        try:
            exchange.close(denial)
        except Exception:
            # One exchange that cannot be closed must not keep the others open.
            log.exception("live_connection_not_closed", request_id=exchange.request.id)


def _valid_until(user: User | None) -> float | None:
    return None if user is None else user.valid_until


def _concerned(changes: Set[ChangeKey] | None, exchange: LongLivedExchange) -> bool:
    return changes is None or not changes.isdisjoint(exchange.concerns)
