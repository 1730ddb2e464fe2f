"""`python -m tests.consistency.broken run --config FILE`: `gateway run` with a planted fault.

BREAK_RULE names the rule that it breaks, which the checker must find. Everything else is the normal gateway.
"""

import asyncio
import os
import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final
from unittest.mock import patch

from redis.asyncio.connection import AbstractConnection

from gateway.__main__ import main
from gateway.core.model import Claims
from gateway.core.revocations import Revocations
from gateway.identity.local_cache import LocalCache
from gateway.identity.revocations.learnt_revocations import LearntRevocations
from gateway.stores.postgres.change_stream.heartbeats import CHANNEL, Place
from gateway.stores.postgres.change_stream.listener import PostgresStream
from gateway.stores.redis.answers import SharedAnswer
from gateway.stores.redis.change_stream import RedisStream
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.user_documents import CachedUser

_SLOWEST: Final = 0.4
"""Seconds."""


def _without_revocations() -> None:
    """Take no notice of what the blacklist says."""
    read = RedisTier.read

    async def deaf(self: RedisTier, claims: Claims, user_id: str | None) -> SharedAnswer:
        return replace(await read(self, claims, user_id), revocations=Revocations())

    patch.object(RedisTier, "read", deaf).start()


def _without_forgetting() -> None:
    """Keep users in memory, and ignore received changes."""

    def keep(_: LocalCache, __: Iterable[object]) -> None:
        return

    patch.multiple(LocalCache, forget_identities=keep, forget_users=keep).start()


def _without_burial() -> None:
    """Leave the documents in Redis as they are."""

    async def leave(_: RedisTier, __: Sequence[tuple[str, str]], ___: int) -> None:
        return

    patch.object(RedisTier, "bury", leave).start()


def _without_tombstones() -> None:
    """Drop documents from Redis, and let readers put them back. That these are slow breaks no rule."""
    store_user = RedisTier.store_user

    async def store_late(
        self: RedisTier, claims: Claims, cached: CachedUser, ttl: float, *, horizon: int
    ) -> bool:
        await asyncio.sleep(random.uniform(0, _SLOWEST))  # noqa: S311 -- no secret
        return await store_user(self, claims, cached, ttl, horizon=horizon)

    async def drop(self: RedisTier, identities: Sequence[tuple[str, str]], _: int) -> None:
        await self.forget_users(identities)

    patch.multiple(RedisTier, store_user=store_late, bury=drop).start()


def _without_proof() -> None:
    """Believe that changes are heard, because heartbeats are sent."""

    async def believe(self: PostgresStream, _: Place) -> None:
        self._heartbeat = secrets.token_hex(16)
        await self._heartbeats.send(self._heartbeat)
        self._hear(CHANNEL, self._heartbeat)

    patch.object(PostgresStream, "_prove", believe).start()


def _without_pushes() -> None:
    """Believe that Redis tells of touched keys, because it is there."""

    async def believe(self: RedisStream, connection: AbstractConnection, _: "asyncio.Task[None]") -> None:
        await self._write_beat(connection)

    patch.object(RedisStream, "_prove", believe).start()


def _without_owner() -> None:
    """Use the data in Redis without a check of the owner."""
    patch("gateway.builders.databases.place_of", lambda *_: None).start()


def _without_memory() -> None:
    """Forget what Redis alone knew."""

    def ignore(*_: object) -> None:
        return

    patch.multiple(LearntRevocations, touched=ignore, told=ignore, against=ignore).start()


RULES: Final[Mapping[str, Callable[[], None]]] = {
    "revocations count": _without_revocations,
    "memory forgets": _without_forgetting,
    "Redis forgets": _without_burial,
    "slow readers are refused": _without_tombstones,
    "heartbeats come the way of changes": _without_proof,
    "pushes are proven": _without_pushes,
    "Redis belongs to one database": _without_owner,
    "refusals are remembered": _without_memory,
}

if __name__ == "__main__":
    RULES[os.environ["BREAK_RULE"]]()
    main()
