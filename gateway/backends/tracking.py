"""The stream from Redis: which keys somebody has touched, the moment it happens.

Server-assisted client-side caching in broadcasting mode (`CLIENT TRACKING ON BCAST`, Redis 6): Redis pushes
the names of all keys below some prefixes that were set, deleted or expired, whoever did it. Pushes and
replies come in one order, so each answered heartbeat proves that nothing is missing before it.
"""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from typing import Final, Protocol

import structlog
from redis.asyncio.connection import AbstractConnection

from gateway.backends.redis_errors import translated
from gateway.backends.redis_server import server_at
from gateway.core.model import StoreUnavailable, Tier

_FIRST_PAUSE: Final = 0.1
_LAST_PAUSE: Final = 2.0
"""Seconds before an attempt to connect again; each failure doubles them."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class KeysListener(Protocol):
    """Hears of touched keys. Calls come in the order of events, and are not to wait."""

    def tracking(self) -> None:
        """Take note that from here on every touched key is told."""

    def touched(self, keys: Sequence[str] | None) -> None:
        """Take note of keys that were written, deleted or have expired; None: Redis was emptied."""

    def lost(self, detail: str) -> None:
        """Take note that keys may be touched untold, until `tracking` is called again."""


class RedisStream:
    """Follows the keys below `prefixes`, on a connection of its own that recovers by itself.

    A heartbeat is sent every `beat` seconds. When one stays unanswered until `beat` + `patience` seconds
    after the last answered one was sent, the stream is lost. `connect_timeout` is in seconds too.
    Raises ValueError when the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        prefixes: Sequence[str],
        listener: KeysListener,
        *,
        connect_timeout: float = 1.0,
        beat: float = 0.5,
        patience: float = 1.5,
    ) -> None:
        self._server = server_at(url, prefixes[0])
        self.address = self._server.address
        """Host and port, for messages."""
        self._prefixes = tuple(prefixes)
        self._listener = listener
        self._connect_timeout = connect_timeout
        self._beat = beat
        self._patience = patience
        self._proven_at = -math.inf
        self._tracking = False
        self._reported = False
        self._answered: asyncio.Future[None] | None = None
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
        pause = _FIRST_PAUSE
        # A cancellation may be lost in a client that is being timed out at that moment.
        while not self._closed:
            # The waits are bounded here; between pushes there may be any time.
            connection = self._server.connection(
                protocol=3, socket_timeout=None, socket_connect_timeout=self._connect_timeout
            )
            try:
                await self._open(connection)
                pause = _FIRST_PAUSE
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
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- spreads load, guards nothing
            pause = min(2 * pause, _LAST_PAUSE)

    async def _open(self, connection: AbstractConnection) -> None:
        options = [word for prefix in self._prefixes for word in ("PREFIX", prefix)]
        with translated(self.address):
            async with asyncio.timeout(self._connect_timeout):
                await connection.connect()  # type: ignore[no-untyped-call] # has no annotations
                # redis-py has no public way to hear of pushes.
                connection._parser.set_invalidation_push_handler(_as_it_is)  # type: ignore[attr-defined] # noqa: SLF001
                asked_at = time.monotonic()
                await connection.send_command(
                    "CLIENT", "TRACKING", "ON", "BCAST", *options, check_health=False
                )
                await connection.read_response()
        self._proven_at = asked_at
        self._tracking = True
        self._reported = False
        self._listener.tracking()

    async def _follow(self, connection: AbstractConnection) -> None:
        """Read pushes and send heartbeats until that fails."""
        reading = asyncio.create_task(self._read(connection))
        try:
            while True:
                asked_at = time.monotonic()
                self._answered = asyncio.get_running_loop().create_future()
                with translated(self.address):
                    # About a key, so that a node that has handed over its slot says so.
                    await connection.send_command("EXISTS", self._prefixes[0], check_health=False)
                await self._wait(reading, self._answered)
                self._proven_at = asked_at
                await asyncio.wait((reading,), timeout=asked_at + self._beat - time.monotonic())
                if reading.done():
                    reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _wait(self, reading: "asyncio.Task[None]", answered: "asyncio.Future[None]") -> None:
        await asyncio.wait((reading, answered), timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
        # An event loop that was too busy to look finds the answer and the timer together.
        if not answered.done():
            raise StoreUnavailable(Tier.REDIS, f"{self.address}: no answer in time")

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            with translated(self.address):
                message = await connection.read_response(push_request=True)
            if not isinstance(message, list):
                if self._answered is not None and not self._answered.done():
                    self._answered.set_result(None)
            elif message[0] == b"invalidate":
                keys = message[1]
                self._listener.touched(
                    None if keys is None else [key.decode(errors="replace") for key in keys]
                )

    def _lose(self, detail: str) -> None:
        self._proven_at = -math.inf
        if self._tracking:
            self._tracking = False
            self._listener.lost(detail)
        elif not self._reported:
            log.warning("redis_does_not_track", error=detail)
        self._reported = True


async def _as_it_is(push: list[object]) -> list[object]:
    return push
