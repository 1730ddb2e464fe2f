"""The stream from Redis: which keys were touched, the moment it happens.

Server-assisted client-side caching in broadcasting mode (`CLIENT TRACKING ON BCAST`, Redis 6): Redis pushes
the names of all keys below some prefixes that any client set or deleted, or that expired. Pushes come in
one order. So a heartbeat, a key that another connection writes, proves with its push that nothing is
missing before it. A reply on the tracking connection itself would prove nothing of pushes, nor of where
other programs write.
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
"""Seconds before an attempt to connect again; each failure doubles them."""
_LOOK_AGAIN: Final = 0.05
"""Seconds that an event loop gets to find what has come already: it may have been too busy to look."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class KeysListener(Protocol):
    """Hears of touched keys. Calls come in the order of events, and are not to wait."""

    def tracking(self) -> None:
        """Take note that from here on every touched key is told."""

    def touched(self, keys: Sequence[str] | None) -> None:
        """Take note of keys that were written, deleted or have expired; None: Redis was emptied."""

    def proven(self) -> None:
        """Take note of a heartbeat: every key that was touched before has been told."""

    def lost(self, detail: str) -> None:
        """Take note that keys may be touched untold, until `tracking` is called again.

        Told once, and also when tracking could not begin.
        """


class RedisStream:
    """Follows the tracked keys, on a connection of its own that recovers by itself.

    A heartbeat is written by `write`, over another connection, every `beat` seconds: a key below the first
    prefix. When Redis tells of none until `beat` + `patience` seconds after the last one that it told of
    was written, the stream is lost. `connect_timeout` is in seconds too. `write` may raise
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
        """Why not every touched key is told; None while it is."""
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
        """Whether the tracking connection finds the latest heartbeat's key; None: it has not answered."""
        self._pause = _FIRST_PAUSE
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def up(self) -> bool:
        """True while it is certain that every key that was touched has been told.

        It is not for a process that was halted and has not looked at its connection since.
        """
        return time.monotonic() - self._proven_at < self._beat + self._patience

    def start(self) -> None:
        """Connect, and stay connected until `close`."""
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the stream; the listener is not told."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._proven_at = -math.inf

    async def _run(self) -> None:
        # A cancellation may be lost in a client that is being timed out at that moment.
        while not self._closed:
            # The waits are bounded here; between pushes there may be any time.
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
            # Workers that lost the same server do not come back in step.
            await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads load, guards nothing
            self._pause = min(2 * self._pause, _LAST_PAUSE)

    async def _open(self, connection: AbstractConnection) -> None:
        options = [word for prefix in self._tracked.prefixes for word in ("PREFIX", prefix)]
        with translated(self.address):
            async with asyncio.timeout(self._connect_timeout):
                await connection.connect()  # type: ignore[no-untyped-call] # has no annotations
                # redis-py has no public way to hear of pushes.
                connection._parser.set_invalidation_push_handler(_as_it_is)  # type: ignore[attr-defined] # noqa: SLF001
                await connection.send_command(
                    "CLIENT", "TRACKING", "ON", "BCAST", *options, check_health=False
                )
                await connection.read_response()

    async def _follow(self, connection: AbstractConnection) -> None:
        """Read pushes and send heartbeats until that fails."""
        # A name that no earlier connection had: Redis tells also of a key that expires.
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
        """Have a heartbeat written elsewhere, and wait for its push. Raises `StoreUnavailable`."""
        self._seen = None
        told = self._told = asyncio.get_running_loop().create_future()
        writing = asyncio.create_task(self._write_beat(connection))
        try:
            await self._wait(reading, told, writing)
            # Its reply comes with the push, or a little later.
            await asyncio.wait((writing,), timeout=self._beat)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write_beat(self, connection: AbstractConnection) -> None:
        try:
            await self._write(self._awaited)
        except StoreUnavailable as error:
            # Why is told of Redis itself.
            detail = f"{self.address}: no heartbeat can be written: see what is said of Redis"
            raise StoreUnavailable(Tier.REDIS, detail) from error
        with translated(self.address):
            # Proves nothing, but tells what is wrong; a node that has handed over its slot says so.
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
                "it answers, and tells of no key that is touched: what stands between swallows pushes"
                " (RESP3); let `redis.url` lead past it"
            )
        return (
            "a key that was written over another connection is not there: `redis.url` leads to several"
            " servers, or to one that lags; let it lead to the primary alone"
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
            # Heartbeats of other gateways, too, are about no user.
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
