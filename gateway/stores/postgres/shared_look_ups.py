"""Look-ups of users that share a query.

A query costs more CPU than the look-up of one user. Requests that wait for a user while queries are in flight
share the next one. So a busy gateway sends few large queries, and an idle one sends each at once.
"""

import asyncio
from typing import Final, TypeAlias

from gateway.core.model import Identity, StoreUnavailable, Tier
from gateway.stores.postgres import look_ups
from gateway.stores.postgres.errors import is_of_one_value
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.postgres.pool import Pool

MAX_BATCH: Final = 100
"""The largest number of identities for one query."""
AT_ONCE: Final = 2
"""The largest number of queries in flight. If one connection is silent, the other one still answers."""

_Waiting: TypeAlias = tuple[Identity, "asyncio.Future[FoundUser]"]


class SharedLookUps:
    """Looks up users over the connections of one pool.

    A query that fails fails the requests that share it. If it fails because of one value, each identity is
    looked up by itself.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: list[_Waiting] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._beginning: asyncio.Task[None] | None = None
        """The worker that has been started and has not taken a batch yet."""

    async def find(self, identity: Identity) -> FoundUser:
        """Return the user behind an identity. The query begins after this call.

        Raises `StoreUnavailable`, and `RecordUnusable` if the row cannot be read.
        """
        self._pool.check()
        answer: asyncio.Future[FoundUser] = asyncio.get_running_loop().create_future()
        self._waiting.append((identity, answer))
        if self._beginning is None and len(self._workers) < AT_ONCE:
            self._beginning = worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await answer

    async def close(self) -> None:
        """Give up the queries in flight. Requests that wait for one get `StoreUnavailable`."""
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        # A worker that is cancelled before it starts takes no batch.
        self._beginning = None
        waiting, self._waiting = self._waiting, []
        self._refuse(waiting, self._closed())

    async def _work(self) -> None:
        self._beginning = None
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            try:
                await self._answer(batch)
            except asyncio.CancelledError:
                self._refuse(batch, self._closed())
                raise

    async def _answer(self, batch: list[_Waiting]) -> None:
        identities = [identity for identity, _ in batch]
        try:
            found = await self._pool.ask(lambda connection: look_ups.find_all(connection, identities))
        except StoreUnavailable as error:
            if len(batch) == 1 or not is_of_one_value(error.__cause__):
                self._refuse(batch, error)
                return
            for each in batch:
                await self._answer([each])
        except Exception as error:  # noqa: BLE001 -- the waiting callers must get an answer for every error
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for (_, answer), user in zip(batch, found, strict=True):
                if answer.done():
                    continue
                if isinstance(user, StoreUnavailable):
                    answer.set_exception(user)
                else:
                    answer.set_result(user)

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(Tier.POSTGRES, f"{self._pool.address}: closed")

    @staticmethod
    def _refuse(batch: list[_Waiting], error: StoreUnavailable) -> None:
        """Fail requests. Each gets its own exception; a shared one would collect all tracebacks."""
        for _, answer in batch:
            if not answer.done():
                refusal = type(error)(error.store, error.detail)
                refusal.__cause__ = error.__cause__
                answer.set_exception(refusal)
