"""Fills: answers of Postgres that are stored in Redis, many by one script."""

from dataclasses import dataclass

from gateway.stores.redis.batching import Batches
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.line import RedisLine
from gateway.stores.redis.ownership import Ownership
from gateway.stores.redis.scripts.users import FILL


@dataclass(frozen=True, slots=True)
class Fill:
    """An answer of Postgres about one identity, ready to be stored."""

    tombstone: str
    """The key that has the version of the identity's latest change."""
    user: str
    """The key of the document."""
    epoch: str
    """The epoch before Postgres was asked."""
    horizon: int
    """Every change of a lower version is in the document."""
    document: bytes
    milliseconds: int
    """The time to live of the document."""


class BatchedFills(Batches[Fill, bool]):
    """Stores documents. The answer to each is whether Redis took it, which the script `FILL` decides.

    `timeout` is in seconds.
    """

    def __init__(
        self, line: RedisLine, ownership: Ownership, keys: Keys, timeout: float, address: str
    ) -> None:
        super().__init__(timeout, address)
        self._line = line
        self._ownership = ownership
        self._keys = keys

    async def store(self, fill: Fill) -> bool:
        """Store a document unless it may be outdated; return whether it was stored.

        Raises `StoreUnavailable`.
        """
        return await self._ask(fill)

    async def _carry(self, questions: list[Fill]) -> list[bool]:
        keys = [self._keys.epoch, self._keys.ended_epoch]
        arguments: list[str | bytes] = []
        for fill in questions:
            keys += (fill.tombstone, fill.user)
            arguments += (fill.epoch, str(fill.horizon), fill.document, str(fill.milliseconds))
        stored = await self._call(self._ownership.run(FILL, keys, arguments, self._line.evaluate))
        return [each == 1 for each in stored]
