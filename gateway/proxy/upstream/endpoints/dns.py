"""Names → addresses, looked up periodically, because they change while the gateway runs."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import structlog

from gateway.proxy.upstream.endpoints.dial import Origin
from gateway.telemetry import logs

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host name and port → IP addresses; raises OSError."""

RETRY_SECONDS: Final = 1.0
"""The wait after a failed look-up, unless the configured one is shorter."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def system_resolve(host: str, port: int) -> tuple[str, ...]:
    """Look a name up with the system's resolver, without blocking the event loop. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class OriginResolver:
    """The addresses of an upstream's origins. If a look-up fails, the name keeps its last addresses."""

    def __init__(
        self,
        upstream: str,
        origins: Sequence[Origin],
        resolve: Resolve,
        ttl: float,
        on_change: Callable[[], None],
    ) -> None:
        """`on_change` is called after each look-up that changed an address."""
        self._upstream = upstream
        self._names = tuple(origin for origin in origins if origin.is_name)
        self._resolve = resolve
        self._ttl = ttl
        self._on_change = on_change
        self._running: asyncio.Task[None] | None = None
        self._failing: set[Origin] = set()
        self.addresses: dict[Origin, tuple[str, ...]] = {
            origin: () if origin.is_name else (origin.host,) for origin in origins
        }

    def __bool__(self) -> bool:
        """Return whether there is a name to look up."""
        return bool(self._names)

    async def keep_fresh(self) -> None:
        """Look all names up every `ttl` seconds, for ever."""
        while True:
            succeeded = False
            try:
                await self.refresh()
                succeeded = not self._failing
            except Exception:
                # No caller awaits this task. If it ended, the addresses would never change again.
                log.exception("names_not_looked_up", upstream=self._upstream)
            await asyncio.sleep(self._ttl if succeeded else min(self._ttl, RETRY_SECONDS))

    async def refresh(self) -> None:
        """Look all names up once. Concurrent callers wait for the same answer."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._look_up_all())
        # The cancellation of one caller must not affect the others.
        await asyncio.shield(self._running)

    def close(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def _look_up_all(self) -> None:
        before = dict(self.addresses)
        await asyncio.gather(*(self._look_up(origin) for origin in self._names))
        if self.addresses != before:
            self._on_change()

    async def _look_up(self, origin: Origin) -> None:
        try:
            found = tuple(sorted(await self._resolve(origin.host, origin.port or 0)))
        except (OSError, UnicodeError) as error:  # a name that IDNA cannot encode
            self._failed(origin, str(error))
            return
        if not found:
            self._failed(origin, "it has no address")
            return
        self._failing.discard(origin)
        self.addresses[origin] = found

    def _failed(self, origin: Origin, detail: str) -> None:
        if origin not in self._failing:
            self._failing.add(origin)
            logs.dependency_down(f"upstream:{self._upstream}", f"looking up {origin.host} failed: {detail}")
