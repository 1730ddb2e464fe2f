"""Addresses of issuers' hosts: one look-up per host at a time, in a thread that holds up nothing else.

A look-up of the system cannot be cancelled: its thread stays until the name service has answered, or the
system's own time is over. The event loop has few threads for all look-ups of the process. So each look-up
here has a thread of its own, and a host whose look-up hangs holds that one thread.
"""

import asyncio
import contextlib
import errno
import socket
import threading
from dataclasses import dataclass
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

_LITERAL: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


@dataclass(frozen=True, slots=True)
class _Address:
    family: int
    protocol: int
    host: str


@dataclass(frozen=True, slots=True)
class _LookUp:
    deadline: float
    """The loop's time until which requests wait for it."""
    outcome: asyncio.Future[tuple[_Address, ...] | Exception]
    """Never raises: all callers may have left."""


class SystemLookups(AbstractResolver):
    """The system's name service, for aiohttp's connector; used inside one event loop.

    `patience` is the number of seconds that a look-up may take. One that takes longer goes on, and until it
    has ended all others of its host fail at once.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._running: dict[tuple[str, int], _LookUp] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host: start a look-up, or join the one that is under way.

        Raises OSError; `TimeoutError`, with an `errno`, when the look-up takes too long.
        """
        loop = asyncio.get_running_loop()
        look_up = self._running.get((host, family)) or self._begin(loop, host, family)
        # `wait` leaves the future alone when this caller is cancelled.
        await asyncio.wait((look_up.outcome,), timeout=max(look_up.deadline - loop.time(), 0))
        if not look_up.outcome.done():
            raise TimeoutError(errno.ETIMEDOUT, "the name service does not answer")
        outcome = look_up.outcome.result()
        if isinstance(outcome, Exception):
            raise outcome
        return [
            ResolveResult(
                hostname=host,
                host=address.host,
                port=port,
                family=address.family,
                proto=address.protocol,
                flags=_LITERAL,
            )
            for address in outcome
        ]

    async def close(self) -> None:
        """Leave those that are under way to the system: nothing can end them."""

    def _begin(self, loop: asyncio.AbstractEventLoop, host: str, family: int) -> _LookUp:
        look_up = _LookUp(loop.time() + self._patience, loop.create_future())

        def ended(outcome: tuple[_Address, ...] | Exception) -> None:
            del self._running[host, family]
            look_up.outcome.set_result(outcome)

        def work() -> None:
            outcome = _asked(host, family)
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(ended, outcome)

        # No pool: its threads would be waited for at the end of the process.
        thread = threading.Thread(target=work, name=f"look-up of {host}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "the system gives no thread for the look-up") from error
        self._running[host, family] = look_up
        return look_up


def _asked(host: str, family: int) -> tuple[_Address, ...] | Exception:
    """Ask the system, for as long as it takes."""
    try:
        found = socket.getaddrinfo(
            host, None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    except Exception as error:  # noqa: BLE001 -- raised where it is waited for; lost here, the look-up would never end
        return error
    return tuple(_Address(family, protocol, str(address[0])) for family, _, protocol, _, address in found)
