"""Changes of users in another system's tables, where no trigger can report them to the workers.

One process of all gateways holds a lease, reads the changes, and reports them on the channel of the gateway's
own tables, as a trigger would. So all other workers receive them in order, and nothing else of the change
stream is different. It reads them in one of two ways: it polls the tables (`changes: poll`), or it listens to
the triggers on the server that has the tables (`users.source.dsn`).

With each report, the holder of the lease writes the time at which it began to read. Workers do not trust
their memory if that time is too long ago (`Watched.feed_patience`).
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

import structlog

from gateway.core.model import StoreUnavailable, User
from gateway.core.revocations import Revoked
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.stores.postgres.change_stream.listener import (
    Changed,
    ChangeListener,
    Everything,
    PostgresStream,
)
from gateway.stores.postgres.source.feed import Feed
from gateway.stores.postgres.source.polling import Poller
from gateway.stores.redis.user_documents import CachedUser

LEASE: Final = 3.0
"""Seconds for which the lease is held beyond the next poll."""
_RELEASING: Final = 1.0
"""Seconds that giving up the lease may take."""
_BATCH: Final = 1000
"""Users that are compared by one statement."""
_SAME_INSTANT: Final = 1.0
"""Seconds by which two reads of one instant may differ: clocks are not exact."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Documents(Protocol):
    """The remembered users: those in Redis, which include those of every worker's memory."""

    def cached_users(self) -> AsyncIterator[Sequence[tuple[str, str, bytes]]]:
        """Return issuer name, subject and document of each, in parts. Raises `StoreUnavailable`."""

    def cached_user(self, document: bytes, iss: str) -> CachedUser | None:
        """Read a document; None: it does not count."""


class Reader(Protocol):
    """Reads the changes of a source, while this process holds the lease."""

    async def serve(self) -> str:
        """Report changes until the lease or the connection ends; returns why. Raises `StoreUnavailable`."""


class SourceFeed:
    """Takes the lease when no other process holds it, and has the changes read while it holds the lease.

    `interval` is the time in seconds between two attempts to get the lease.
    """

    def __init__(self, feed: Feed, reader: Reader, *, interval: float = 1.0) -> None:
        self._feed = feed
        self._reader = reader
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self.detail: str | None = None
        """Why the latest attempt to read the changes ended; None: this process has not tried."""
        self.serving = False
        """Whether this process reads the changes for all."""

    def start(self) -> None:
        """Begin to work in the background, until `close`."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop, and give the lease up. Until another process has it, no change is read."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.serving:
            # If this fails, the lease lapses.
            with suppress(StoreUnavailable, TimeoutError):
                await asyncio.wait_for(self._feed.release(), _RELEASING)

    async def _run(self) -> None:
        while True:
            pause = self._interval
            try:
                if await self._feed.hold(LEASE):
                    self.serving = True
                    self.detail = await self._reader.serve()
                    # Another process may have a better connection.
                    pause = LEASE
            except StoreUnavailable as error:
                self.detail = error.detail
                log.warning("source_not_read", error=error.detail)
                pause = LEASE if self.serving else self._interval
            except Exception as error:
                # No caller awaits this task. If it ended silently, changes would go unread.
                log.exception("source_not_read")
                self.detail = f"unexpected {type(error).__name__}"
            self.serving = False
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 -- spreads load


class Polling:
    """Polls the tables every `interval` seconds, and compares the remembered users every `compare` seconds.

    Without a column, each poll compares them.
    """

    def __init__(
        self,
        feed: Feed,
        poller: Poller,
        documents: Documents,
        issuers: Mapping[str, str],
        *,
        interval: float,
        compare: float,
    ) -> None:
        self._feed = feed
        self._poller = poller
        self._documents = documents
        self._issuers = IssuerNames(issuers)
        self._interval = interval
        self._compare = compare
        self._equal: dict[tuple[str, str], tuple[int, int | None]] = {}
        """By issuer name and subject: the hash of the document and the state of the user that it is equal to.
        """

    async def serve(self) -> str:
        """Poll until another process holds the lease."""
        self._equal = {}
        await self._feed.report(await self._poller.begin())
        compared_at = -self._compare
        while True:
            began = time.monotonic()
            change = await self._poller.changes()
            if change is not None:
                await self._feed.report(change)
            compared = True
            if began - compared_at >= self._compare:
                compared = await self._compare_documents()
                compared_at = began if compared else -math.inf
            age = time.monotonic() - began if compared else None
            if not await self._feed.hold(self._interval + LEASE, age):
                return "another process reads the changes"
            await asyncio.sleep(max(0.0, self._interval - (time.monotonic() - began)))

    async def _compare_documents(self) -> bool:
        """Report each remembered user that differs from the tables; False if Redis did not return all."""
        before, self._equal = self._equal, {}
        waiting: dict[str, list[tuple[str, bytes]]] = {}
        try:
            async for part in self._documents.cached_users():
                for name, subject, document in part:
                    waiting.setdefault(name, []).append((subject, document))
                    if len(waiting[name]) >= _BATCH:
                        await self._compare_with_tables(name, waiting.pop(name), before)
        except StoreUnavailable as error:
            if error.store.value == "postgres":
                raise
            return False
        for name, entries in waiting.items():
            await self._compare_with_tables(name, entries, before)
        return True

    async def _compare_with_tables(
        self,
        name: str,
        entries: Sequence[tuple[str, bytes]],
        before: Mapping[tuple[str, str], tuple[int, int | None]],
    ) -> None:
        iss = self._issuers.get(name)
        if iss is None:
            return
        states, _ = await self._poller.digests(name, [subject for subject, _ in entries])
        documents = {
            subject: (document, (hash(document), states.get(subject))) for subject, document in entries
        }
        unsure = [subject for subject, (_, pair) in documents.items() if before.get((name, subject)) != pair]
        if not unsure:
            self._equal |= {(name, subject): pair for subject, (_, pair) in documents.items()}
            return
        # The report has the state that is read now, which includes changes since the first query.
        users, version = await self._poller.users(name, unsure)
        differing = []
        for subject, (document, pair) in documents.items():
            if subject not in unsure:
                self._equal[name, subject] = pair
            elif subject in users and self._is_equal(document, iss, users[subject][0]):
                # Keep the state that was compared: that of the query before may differ.
                self._equal[name, subject] = pair[0], users[subject][1]
            else:
                differing.append((iss, subject))
        if differing:
            await self._feed.report(Changed(tuple(differing), (), version))

    def _is_equal(self, document: bytes, iss: str, user: User | None) -> bool:
        cached = self._documents.cached_user(document, iss)
        # A document that cannot be read does not count.
        return cached is None or _is_same(cached.user, user)


def _is_same(one: User | None, other: User | None) -> bool:
    if one is None or other is None:
        return one is other
    if replace(one, valid_until=None) != replace(other, valid_until=None):
        return False
    if one.valid_until is None or other.valid_until is None:
        return one.valid_until is other.valid_until
    return abs(one.valid_until - other.valid_until) <= _SAME_INSTANT


class Relay:
    """Passes on the reports of triggers on another server.

    `listen` returns a stream of that server for a listener; `latest` returns the highest id of a transaction
    there.
    """

    def __init__(
        self,
        feed: Feed,
        listen: Callable[[ChangeListener], PostgresStream],
        latest: Callable[[], Awaitable[int]],
    ) -> None:
        self._feed = feed
        self._listen = listen
        self._latest = latest

    async def serve(self) -> str:
        """Pass on changes until the connection is lost, or another process holds the lease."""
        ear = _Ear()
        stream = self._listen(ear)
        stream.start()
        try:
            while True:
                heard = await ear.queue.get()
                match heard:
                    case str():
                        return heard
                    case Changed() | Everything():
                        await self._feed.report(heard)
                    case _Began():
                        await self._feed.report(Everything(await self._latest()))
                    case float():
                        if not await self._feed.hold(LEASE, time.monotonic() - heard):
                            return "another process reads the changes"
        finally:
            await stream.close()


class _Began:
    """Listening began: what changed before is unknown."""


class _Ear:
    """Puts the reports of a stream into a queue: changes, the time of a proof, or why it was lost."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Changed | Everything | _Began | float | str] = asyncio.Queue()

    def listening(self) -> None:
        self.queue.put_nowait(_Began())

    def changed(self, change: Changed | Revoked | Everything) -> None:
        if not isinstance(change, Revoked):
            self.queue.put_nowait(change)

    def heard(self, heartbeat: str, own: bool) -> None:  # noqa: ARG002, FBT001 -- the Protocol's
        if own:
            self.queue.put_nowait(time.monotonic())

    def lost(self, detail: str) -> None:
        self.queue.put_nowait(detail)
