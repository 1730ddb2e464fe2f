"""Single flight: callers that ask the same at the same time share one call."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Shares one running call among all callers of its key; remembers nothing afterwards.

    The call belongs to no caller: one that is cancelled, or gives up after `patience` seconds with
    TimeoutError, leaves it running for the others. A call that takes longer than `limit` seconds is
    cancelled, and fails for all with TimeoutError. A call that failed is not retried: the next caller
    starts a new one.
    """

    def __init__(self, patience: float, limit: float) -> None:
        self._patience = patience
        self._limit = limit
        self._calls: dict[K, asyncio.Task[V]] = {}

    async def do(self, key: K, call: Callable[[], Coroutine[None, None, V]]) -> V:
        """Return what the running call for `key` returns, or raise what it raises; starts one if need be."""
        running = self._calls.get(key)
        if running is None:
            running = asyncio.create_task(self._bounded(call))
            self._calls[key] = running
            running.add_done_callback(lambda done: self._ended(key, done))
        # `asyncio.wait_for` and `asyncio.shield` do the same for three times the CPU.
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(self._patience, _end, turn)
        running.add_done_callback(lambda _: _end(turn))
        try:
            await turn
        finally:
            timer.cancel()
        if not running.done():
            raise TimeoutError(f"no answer within {self._patience:g} s")
        return running.result()

    async def _bounded(self, call: Callable[[], Coroutine[None, None, V]]) -> V:
        async with asyncio.timeout(self._limit):
            return await call()

    def _ended(self, key: K, running: asyncio.Task[V]) -> None:
        del self._calls[key]
        if not running.cancelled():
            # Marks an exception as seen, even when no caller waits for it any more.
            running.exception()

    async def close(self) -> None:
        """Cancel the calls that are still running."""
        calls = list(self._calls.values())
        for running in calls:
            running.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def _end(turn: "asyncio.Future[None]") -> None:
    """End the wait of a caller, unless it has ended."""
    if not turn.done():
        turn.set_result(None)
