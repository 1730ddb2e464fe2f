"""Batched reads: one command reads for many requests.

A command to Redis costs more CPU than its look-up. Requests that arrive while a command is in flight share
the next one. So a busy gateway sends few large commands, and an idle one sends each at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, TypeAlias

import structlog

from gateway.core.model import StoreUnavailable, Tier
from gateway.stores.availability import Availability
from gateway.stores.redis.ownership import ForeignRedis

MAX_BATCH: Final = 500
"""The largest number of requests for one command."""

Fetch: TypeAlias = Callable[[list[str]], Awaitable[list[bytes | None]]]
_Waiting: TypeAlias = tuple[Sequence[str], "asyncio.Future[list[bytes | None]]"]

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class BatchedReads:
    """Reads keys with `fetch`, one call at a time. `timeout` is in seconds, for one call.

    When a call fails, all waiting requests fail with it, so that no request waits for more than two calls of
    a store that is down. `availability` receives the outcome of each call.
    """

    def __init__(
        self, fetch: Fetch, timeout: float, address: str, availability: Availability | None = None
    ) -> None:
        self._fetch = fetch
        self._address = address
        self._timeout = timeout
        self._availability = availability or Availability()
        self._defect_logged = False
        self._waiting: list[_Waiting] = []
        self._courier: asyncio.Task[None] | None = None

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the keys' values in their order, None for missing keys.

        Raises `StoreUnavailable`.
        """
        answer: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()
        self._waiting.append((keys, answer))
        if self._courier is None:
            self._courier = asyncio.create_task(self._carry())
        return await answer

    async def close(self) -> None:
        """Cancel the calls in flight."""
        if self._courier is not None:
            self._courier.cancel()
            await asyncio.gather(self._courier, return_exceptions=True)
        # A task that is cancelled before it starts cannot end the waits of its callers.
        self._end([])

    async def _carry(self) -> None:
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                try:
                    # All requests ask for some of the keys.
                    wanted = list(dict.fromkeys(key for keys, _ in batch for key in keys))
                    values = dict(zip(wanted, await self._call(wanted), strict=True))
                except Exception as error:  # noqa: BLE001 -- the waiting callers must get an answer for every error
                    failure = self._failure(error)
                    self._availability.failed(failure.detail, lasting=isinstance(failure, ForeignRedis))
                    batch, self._waiting = batch + self._waiting, []
                    for _, answer in batch:
                        _refuse(answer, failure)
                    continue
                self._availability.answered()
                self._defect_logged = False
                for keys, answer in batch:
                    if not answer.done():
                        answer.set_result([values[key] for key in keys])
        finally:
            self._end(batch)

    def _end(self, batch: list[_Waiting]) -> None:
        """End the wait of every caller."""
        self._courier = None
        waiting, self._waiting = batch + self._waiting, []
        for _, answer in waiting:
            _refuse(answer, StoreUnavailable(Tier.REDIS, f"{self._address}: closed"))

    def _failure(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, StoreUnavailable):
            return error
        if not self._defect_logged:
            self._defect_logged = True
            log.error("redis_read_failed", exc_info=error)
        failure = StoreUnavailable(Tier.REDIS, f"{self._address}: cannot be asked")
        failure.__cause__ = error
        return failure

    async def _call(self, keys: list[str]) -> list[bytes | None]:
        try:
            with _Patience(self._timeout):
                return await self._fetch(keys)
        except TimeoutError as error:
            raise StoreUnavailable(Tier.REDIS, f"{self._address}: no answer in time") from error


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


def _refuse(answer: "asyncio.Future[list[bytes | None]]", error: StoreUnavailable) -> None:
    """Fail a request. Each gets its own exception; a shared one would collect all tracebacks."""
    if not answer.done():
        refusal = type(error)(error.store, error.detail)
        refusal.__cause__ = error.__cause__
        answer.set_exception(refusal)
