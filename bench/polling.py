"""Clients that poll every worker, and record which worker changes its answer, and when."""

import asyncio
import re
from collections.abc import Iterable
from time import monotonic
from typing import Final, Self, cast

from bench.processes import HOST, Refused
from bench.sockets import clients

_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:[^\r]+\r\n)*?content-length: (\d+)\r\n(?:[^\r]+\r\n)*\r\n",
    re.IGNORECASE,
)
REST: Final = 0.01
"""Seconds of rest after a new answer, so that this worker leaves the core to the others."""
_PATIENCE: Final = 10.0
_MOST_CONNECTIONS: Final = 500


class Poll(asyncio.Protocol):
    """A kept connection that sends its next request as soon as the last one is answered."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self._asked_at = 0.0
        self._rested = False
        self._transport: asyncio.Transport | None = None
        self._news = asyncio.Event()
        self.turns: list[tuple[int, float]] = [(0, 0.0)]
        """Each status that differs from the one before, and when it arrived by `time.monotonic`.

        0 before the first answer, and after the end of the connection.
        """
        self.intervals: list[float] = []
        """The seconds between two requests, except those after a rest."""

    @classmethod
    async def open(cls, port: int, request: bytes) -> Self:
        """Connect, and wait for the first answer. Raises Refused, or OSError when no process listens."""
        _, poll = await asyncio.get_running_loop().create_connection(lambda: cls(request), HOST, port)
        poll.ask()
        await poll.becomes(200)
        return poll

    @property
    def status(self) -> int:
        """The status of the last answer."""
        return self.turns[-1][0]

    @property
    def port(self) -> int:
        """The client's port."""
        return 0 if self._transport is None else int(self._transport.get_extra_info("sockname")[1])

    def ask(self) -> None:
        if self._transport is not None:
            now = monotonic()
            if self._asked_at and not self._rested:
                self.intervals.append(now - self._asked_at)
            self._asked_at, self._rested = now, False
            self._transport.write(self._request)

    async def becomes(self, status: int) -> float:
        """Wait until the answers have this status; return since when. Raises Refused after `_PATIENCE`."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while self.status != status:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise Refused(f"a worker answers {self.status}, not {status}, after {_PATIENCE:g} s") from error
        return self.turns[-1][1]

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    # Called by asyncio ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = _HEAD.match(self._received)
        if head is None or len(self._received) < head.end() + int(head[2]):
            return
        self._received = b""
        self._rested = self._becomes(int(head[1]), monotonic())
        if self._rested:
            asyncio.get_running_loop().call_later(REST, self.ask)
        else:
            self.ask()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._becomes(0, monotonic())

    def _becomes(self, status: int, since: float) -> bool:
        """Record an answer; return whether its status differs from the one before."""
        if status == self.status:
            return False
        self.turns.append((status, since))
        self._news.set()
        return True


async def poll_each(pids: Iterable[int], port: int, request: bytes) -> list[Poll]:
    """Open connections until each process has one; the kernel distributes them. Raises Refused."""
    found: dict[int, Poll] = {}
    missing = set(pids)
    for _ in range(_MOST_CONNECTIONS):
        if not missing:
            return list(found.values())
        poll = await Poll.open(port, request)
        owner = next((pid for pid in missing if poll.port in clients(pid, port)), None)
        if owner is None:
            poll.close()
            continue
        found[owner] = poll
        missing.discard(owner)
    raise Refused(f"{len(missing)} workers got none of {_MOST_CONNECTIONS} connections")
