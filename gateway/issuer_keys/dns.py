"""Addresses of issuers' hosts: one look-up per host at a time, each in its own thread.

A look-up of the system cannot be cancelled: its thread runs until the name service has answered, or the
system's own time limit is over. The event loop has few threads for all look-ups of the process. So each
look-up here has its own thread, and a host whose look-up hangs blocks only that thread.
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
    """The loop's time until which callers wait for it."""
    outcome: asyncio.Future[tuple[_Address, ...] | Exception]
    """It never raises, because all callers may have left."""


class SystemLookups(AbstractResolver):
    """The system's name service, for aiohttp's connector; used inside one event loop.

    `patience` is the number of seconds that a look-up may take. A longer one continues, and until it has
    ended, all others for its host fail at once.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._running: dict[tuple[str, int], _LookUp] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host: start a look-up, or join the one in progress.

        Raises OSError; `TimeoutError`, with an `errno`, when the look-up takes too long.
        """
        loop = asyncio.get_running_loop()
        look_up = self._running.get((host, family)) or self._begin(loop, host, family)
        # `wait` does not cancel the future when this caller is cancelled.
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
        """Leave look-ups in progress to the system: they cannot be cancelled."""

    def _begin(self, loop: asyncio.AbstractEventLoop, host: str, family: int) -> _LookUp:
        look_up = _LookUp(loop.time() + self._patience, loop.create_future())

        def ended(outcome: tuple[_Address, ...] | Exception) -> None:
            del self._running[host, family]
            look_up.outcome.set_result(outcome)

        def work() -> None:
            outcome = _asked(host, family)
            with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
                loop.call_soon_threadsafe(ended, outcome)

        # No pool, because the process would wait for its threads at the end.
        thread = threading.Thread(target=work, name=f"look-up of {host}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "the system cannot start a thread for the look-up") from error
        self._running[host, family] = look_up
        return look_up


def _asked(host: str, family: int) -> tuple[_Address, ...] | Exception:
    """Look the host up with the system's resolver, without a time limit."""
    try:
        found = socket.getaddrinfo(
            host, None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    except Exception as error:  # noqa: BLE001 -- the waiting callers raise it; if it were lost, the look-up would never end
        return error
    return tuple(_Address(family, protocol, str(address[0])) for family, _, protocol, _, address in found)
