"""Many who ask the same at the same time, one question."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Shares one running call among all who ask for its key; remembers nothing afterwards.

    The call belongs to none of those who wait: one that is cancelled, or gives up after `patience`
    seconds with TimeoutError, leaves it running for the others. A call that takes longer than `limit`
    seconds is given up, and fails for all with TimeoutError. What fails is not tried again: whoever
    comes next starts a call of their own.
    """

    def __init__(self, patience: float, limit: float) -> None:
        self._patience = patience
        self._limit = limit
        self._flights: dict[K, asyncio.Task[V]] = {}

    async def do(self, key: K, call: Callable[[], Coroutine[None, None, V]]) -> V:
        """Return what the running call for `key` returns, or raise what it raises; starts one if need be."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._bounded(call))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        try:
            return await asyncio.wait_for(asyncio.shield(flight), self._patience)
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {self._patience:g} s") from error

    async def _bounded(self, call: Callable[[], Coroutine[None, None, V]]) -> V:
        async with asyncio.timeout(self._limit):
            return await call()

    def _landed(self, key: K, flight: asyncio.Task[V]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            # Marks an exception as seen, even when everybody who waited for it has gone.
            flight.exception()

    async def close(self) -> None:
        """Give up what is still running."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
