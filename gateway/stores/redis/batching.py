"""Batches: one command to Redis serves many requests.

A command to Redis costs more CPU than its look-up. Requests that arrive while a command is in flight share
the next one. So a busy gateway sends few large commands, and an idle one sends each at once.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Generic, TypeAlias, TypeVar

import structlog

from gateway.core.model import StoreUnavailable, Tier
from gateway.stores.availability import Availability
from gateway.stores.redis.ownership import ForeignRedis

MAX_BATCH: Final = 500
"""The largest number of requests for one command."""

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")

Values: TypeAlias = list[bytes | None]
Fetch: TypeAlias = Callable[[list[str]], Awaitable[Values]]
FollowUp: TypeAlias = Callable[[Values], str | None]
"""Returns one more key to read, after a look at the values of the others; None if there is none."""
_Read: TypeAlias = tuple[Sequence[str], FollowUp | None]

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Batches(ABC, Generic[Q, A]):
    """Answers the questions of many requests together, one batch at a time. `timeout` is in seconds.

    When a batch fails, all waiting requests fail with it, so that no request waits for more than two batches
    of a store that is down. `availability` receives the outcome of each batch.
    """

    def __init__(self, timeout: float, address: str, availability: Availability | None = None) -> None:
        self._address = address
        self._timeout = timeout
        self._availability = availability or Availability()
        self._defect_logged = False
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._courier: asyncio.Task[None] | None = None

    @abstractmethod
    async def _carry(self, questions: list[Q]) -> list[A]:
        """Return the answers to a batch, in the order of its questions. Every wait is a `_call`."""

    def _ask(self, question: Q) -> "asyncio.Future[A]":
        """Return what will hold the answer, or `StoreUnavailable`."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._courier is None:
            self._courier = asyncio.create_task(self._work())
        return answer

    async def close(self) -> None:
        """Cancel the calls in flight."""
        if self._courier is not None:
            self._courier.cancel()
            await asyncio.gather(self._courier, return_exceptions=True)
        # A task that is cancelled before it starts cannot end the waits of its callers.
        self._end([])

    async def _call(self, call: Awaitable[T]) -> T:
        """Wait for a command, and not longer than `timeout`."""
        try:
            with _Patience(self._timeout):
                return await call
        except TimeoutError as error:
            raise StoreUnavailable(Tier.REDIS, f"{self._address}: no answer in time") from error

    async def _work(self) -> None:
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                try:
                    answers = await self._carry([question for question, _ in batch])
                except Exception as error:  # noqa: BLE001 -- the waiting callers must get an answer for every error
                    failure = self._failure(error)
                    self._availability.failed(failure.detail, lasting=isinstance(failure, ForeignRedis))
                    batch, self._waiting = batch + self._waiting, []
                    for _, waiting in batch:
                        _refuse(waiting, failure)
                    continue
                self._availability.answered()
                self._defect_logged = False
                for (_, waiting), answer in zip(batch, answers, strict=True):
                    if not waiting.done():
                        waiting.set_result(answer)
        finally:
            self._end(batch)

    def _end(self, batch: "list[tuple[Q, asyncio.Future[A]]]") -> None:
        """End the wait of every caller that still waits."""
        self._courier = None
        waiting, self._waiting = batch + self._waiting, []
        for _, answer in waiting:
            if not answer.done():
                _refuse(answer, StoreUnavailable(Tier.REDIS, f"{self._address}: closed"))

    def _failure(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, StoreUnavailable):
            return error
        if not self._defect_logged:
            self._defect_logged = True
            log.error("redis_batch_failed", exc_info=error)
        failure = StoreUnavailable(Tier.REDIS, f"{self._address}: cannot be asked")
        failure.__cause__ = error
        return failure


class BatchedReads(Batches[_Read, Values]):
    """Reads keys with `fetch`. The timeout is for one call of it."""

    def __init__(
        self, fetch: Fetch, timeout: float, address: str, availability: Availability | None = None
    ) -> None:
        super().__init__(timeout, address, availability)
        self._fetch = fetch

    async def get(self, keys: Sequence[str], follow_up: FollowUp | None = None) -> Values:
        """Return the keys' values in their order, None for missing keys.

        With a `follow_up` there is one value more: that of the key that it returns, which is read after the
        others; None if it returns none. Raises `StoreUnavailable`.
        """
        return await self._ask((keys, follow_up))

    async def _carry(self, questions: list[_Read]) -> list[Values]:
        # All requests ask for some of the keys.
        wanted = list(dict.fromkeys(key for keys, _ in questions for key in keys))
        values = dict(zip(wanted, await self._call(self._fetch(wanted)), strict=True))
        answers = [[values[key] for key in keys] for keys, _ in questions]
        following = [
            (answer, None if follow_up is None else follow_up(answer), follow_up)
            for answer, (_, follow_up) in zip(answers, questions, strict=True)
        ]
        more = list(dict.fromkeys(key for _, key, _ in following if key is not None))
        if more:
            values = dict(zip(more, await self._call(self._fetch(more)), strict=True))
        for answer, key, follow_up in following:
            if follow_up is not None:
                answer.append(None if key is None else values[key])
        return answers


class _Patience:
    """Cancels the wait of a task after `seconds` and a quarter more, and raises TimeoutError.

    The quarter distinguishes a silent store from a busy event loop, in which the answer has arrived but the
    timer is handled first. `asyncio.timeout` has no such quarter, and a separate task would double the cost
    of the command. A lost cancellation is repeated.
    """

    __slots__ = ("_cancelled", "_loop", "_quarter", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._quarter = seconds / 4
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._cancelled = 0

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._seconds, self._look_again)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._task is None or not self._cancelled:
            return
        others = [self._task.uncancel() for _ in range(self._cancelled)][-1]
        if kind is asyncio.CancelledError and not others:
            raise TimeoutError from error

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(self._quarter, self._cancel)

    def _cancel(self) -> None:
        self._timer = self._loop.call_later(self._quarter, self._cancel)
        if self._task is not None:
            self._cancelled += 1
            self._task.cancel()


def _refuse(answer: "asyncio.Future[A]", error: StoreUnavailable) -> None:
    """Fail a request. Each gets its own exception; a shared one would collect all tracebacks."""
    if not answer.done():
        refusal = type(error)(error.store, error.detail)
        refusal.__cause__ = error.__cause__
        answer.set_exception(refusal)
