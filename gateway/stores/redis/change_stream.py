"""The change stream from Redis: the keys that were changed, at once.

Server-assisted client-side caching in broadcasting mode (`CLIENT TRACKING ON BCAST`, Redis 6): Redis pushes
the names of all keys below some prefixes that any client set or deleted, or that expired. Pushes arrive in
order. So the push of a heartbeat, a key that another connection writes, proves that no earlier push is
missing. A reply on the tracking connection would prove neither that pushes arrive, nor that other programs
write to the same server.
"""

import asyncio
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog
from redis.asyncio.connection import AbstractConnection

from gateway.core.model import StoreUnavailable, Tier
from gateway.stores.redis.errors import translated
from gateway.stores.redis.keys import Tracked
from gateway.stores.redis.topology import server_at

_FIRST_PAUSE: Final = 0.1
_LAST_PAUSE: Final = 2.0
"""Seconds before a reconnect; each failure doubles them."""
_LOOK_AGAIN: Final = 0.05
"""Seconds that a busy event loop gets to read the data that has already arrived."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class KeysListener(Protocol):
    """Receives touched keys. The calls are in the order of events, and must not block."""

    def tracking(self) -> None:
        """Note that from now on, every touched key is reported."""

    def touched(self, keys: Sequence[str] | None) -> None:
        """Record keys that were written, deleted or have expired; None: Redis was emptied."""

    def proven(self) -> None:
        """Record a heartbeat: every key that was touched before it has been reported."""

    def lost(self, detail: str) -> None:
        """Note that touched keys may be missed from now on, until `tracking` is called again.

        Called once, also if tracking could not begin.
        """


class RedisStream:
    """Follows the tracked keys on its own connection, which recovers by itself.

    A heartbeat is written by `write`, over another connection, every `beat` seconds: a key below the first
    prefix. If Redis pushes no heartbeat within `beat` + `patience` seconds after the last one was
    written, the stream counts as lost. `connect_timeout` is in seconds too. `write` may raise
    `StoreUnavailable`. Raises ValueError when the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        tracked: Tracked,
        listener: KeysListener,
        write: Callable[[str], Awaitable[None]],
        *,
        connect_timeout: float = 1.0,
        tls_strict: bool = False,
        beat: float = 0.5,
        patience: float = 1.5,
    ) -> None:
        self._server = server_at(url, tracked.prefixes[0], strict=tls_strict)
        self.address = self._server.address
        """Host and port, for messages."""
        self.detail: str | None = "no heartbeat has come back yet"
        """Why touched keys may be missed; None while all are reported."""
        self._tracked = tracked
        self._listener = listener
        self._write = write
        self._connect_timeout = connect_timeout
        self._beat = beat
        self._patience = patience
        self._proven_at = -math.inf
        self._tracking = False
        self._lost = False
        self._awaited = ""
        """The key of this connection's heartbeats."""
        self._told: asyncio.Future[None] | None = None
        self._seen: bool | None = None
        """Whether the tracking connection can read the latest heartbeat's key; None: no answer yet."""
        self._pause = _FIRST_PAUSE
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def up(self) -> bool:
        """True while it is certain that every touched key has been reported.

        False for a process that was stopped and has not read its connection since.
        """
        return time.monotonic() - self._proven_at < self._beat + self._patience

    def start(self) -> None:
        """Connect, and stay connected until `close`."""
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the stream, without a call to the listener."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._proven_at = -math.inf

    async def _run(self) -> None:
        # The client may lose a cancellation during its own timeout.
        while not self._closed:
            # This code limits the waits; the time between pushes is not limited.
            connection = self._server.connection(
                protocol=3, socket_timeout=None, socket_connect_timeout=self._connect_timeout
            )
            try:
                await self._open(connection)
                await self._follow(connection)
            except StoreUnavailable as error:
                self._lose(error.detail)
            except Exception as error:
                log.exception("redis_stream_failed")
                self._lose(f"{self.address}: {type(error).__name__}")
            finally:
                self._proven_at = -math.inf
                await connection.disconnect(nowait=True)
            # Workers that lost the same server must not reconnect at the same time.
            await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads load, guards nothing
            self._pause = min(2 * self._pause, _LAST_PAUSE)

    async def _open(self, connection: AbstractConnection) -> None:
        options = [word for prefix in self._tracked.prefixes for word in ("PREFIX", prefix)]
        with translated(self.address):
            async with asyncio.timeout(self._connect_timeout):
                await connection.connect()  # type: ignore[no-untyped-call] # has no annotations
                # redis-py has no public API for pushes.
                connection._parser.set_invalidation_push_handler(_as_it_is)  # type: ignore[attr-defined] # noqa: SLF001
                await connection.send_command(
                    "CLIENT", "TRACKING", "ON", "BCAST", *options, check_health=False
                )
                await connection.read_response()

    async def _follow(self, connection: AbstractConnection) -> None:
        """Read pushes and send heartbeats until that fails."""
        # A new name for each connection, because Redis also reports keys that expire.
        self._awaited = self._tracked.heartbeat(secrets.token_hex(8))
        reading = asyncio.create_task(self._read(connection))
        try:
            while True:
                asked_at = time.monotonic()
                await self._prove(connection, reading)
                self._proven_at = asked_at
                if not self._tracking:
                    self._tracking, self._lost, self.detail = True, False, None
                    self._pause = _FIRST_PAUSE
                    self._listener.tracking()
                self._listener.proven()
                await asyncio.wait((reading,), timeout=asked_at + self._beat - time.monotonic())
                if reading.done():
                    reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _prove(self, connection: AbstractConnection, reading: "asyncio.Task[None]") -> None:
        """Write a heartbeat over the other connection, and wait for its push. Raises `StoreUnavailable`."""
        self._seen = None
        told = self._told = asyncio.get_running_loop().create_future()
        writing = asyncio.create_task(self._write_beat(connection))
        try:
            await self._wait(reading, told, writing)
            # The reply arrives with the push, or shortly after it.
            await asyncio.wait((writing,), timeout=self._beat)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write_beat(self, connection: AbstractConnection) -> None:
        try:
            await self._write(self._awaited)
        except StoreUnavailable as error:
            # The status of Redis itself has the cause.
            detail = f"{self.address}: no heartbeat can be written: see the status of Redis"
            raise StoreUnavailable(Tier.REDIS, detail) from error
        with translated(self.address):
            # This proves nothing, but may give the cause: a node that has lost its slot reports that.
            await connection.send_command("EXISTS", self._awaited, check_health=False)

    async def _wait(
        self, reading: "asyncio.Task[None]", told: "asyncio.Future[None]", writing: "asyncio.Task[None]"
    ) -> None:
        deadline = time.monotonic() + self._patience
        waiting = {reading, told, writing}
        while not told.done():
            left = deadline - time.monotonic()
            await asyncio.wait(
                waiting, timeout=left if left > 0 else _LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED
            )
            if reading.done():
                reading.result()
            if told.done():
                return
            if writing.done():
                writing.result()
                waiting.discard(writing)
            if left <= 0:
                raise StoreUnavailable(Tier.REDIS, f"{self.address}: {self._why_deaf()}")

    def _why_deaf(self) -> str:
        if self._seen is None:
            return "no answer in time"
        if self._seen:
            return (
                "it answers, but reports no touched keys: a proxy swallows pushes"
                " (RESP3); point `redis.url` past it"
            )
        return (
            "a key that was written over another connection is missing: `redis.url` leads to several"
            " servers, or to one that lags; point it at the primary only"
        )

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            with translated(self.address):
                message = await connection.read_response(push_request=True)
            if not isinstance(message, list):
                self._seen = message == 1
            elif message[0] == b"invalidate":
                keys = message[1]
                self._hear(None if keys is None else [key.decode(errors="replace") for key in keys])

    def _hear(self, keys: list[str] | None) -> None:
        if keys is not None:
            if self._awaited in keys and self._told is not None and not self._told.done():
                self._told.set_result(None)
            # Heartbeats of other gateways are not about a user either.
            keys = [key for key in keys if not self._tracked.is_heartbeat(key)]
            if not keys:
                return
        self._listener.touched(keys)

    def _lose(self, detail: str) -> None:
        self._proven_at = -math.inf
        self.detail = detail
        self._tracking = False
        if not self._lost:
            self._lost = True
            self._listener.lost(detail)


async def _as_it_is(push: list[object]) -> list[object]:
    return push
