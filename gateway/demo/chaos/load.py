"""A small load: a few users who ask again and again, whatever they are told."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import orjson

from gateway.demo.chaos.promises import NO_ANSWER, Answer

_INTERVAL: Final = 0.1
"""Seconds between two requests on one connection."""
_CONNECTIONS: Final = 2
"""For each user."""
_PATIENCE: Final = 5.0
"""Seconds until a request counts as unanswered."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

_Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Load:
    """Sends requests to the gateway at `url`, with the token of each user, and notes each answer."""

    def __init__(self, url: str, tokens: Mapping[str, str], note: Callable[[Answer], None]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._tokens = tokens
        self._note = note

    async def run(self) -> None:
        """Send requests until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for who, token in self._tokens.items():
                for _ in range(_CONNECTIONS):
                    tasks.create_task(self._ask_on(who, token))

    async def _ask_on(self, who: str, token: str) -> None:
        streams: _Streams | None = None
        try:
            while True:
                asked_at = time.monotonic()
                label = NO_ANSWER
                try:
                    async with asyncio.timeout(_PATIENCE):
                        if streams is None:
                            streams = await asyncio.open_connection(self._host, self._port)
                        label, closes = await _ask(streams, token)
                except (OSError, EOFError, TimeoutError):
                    closes = True
                self._note(Answer(asked_at, who, label, time.monotonic() - asked_at))
                if closes:
                    _close(streams)
                    streams = None
                await asyncio.sleep(max(0.0, asked_at + _INTERVAL - time.monotonic()))
        finally:
            _close(streams)


async def _ask(streams: _Streams, token: str) -> tuple[str, bool]:
    """Send one request; return what was answered, and whether the connection ends with it."""
    reader, writer = streams
    writer.write(
        f"GET /echo/chaos HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    found = _LENGTH.search(head)
    document = orjson.loads(await reader.readexactly(int(found[1]) if found is not None else 0))
    status = head[9:12].decode()
    if status == "200":
        # The upstream echoes the request, and a user whom Postgres could not be asked about is marked there.
        label = "200 stale" if "X-Auth-Stale" in document["headers"] else "200"
    else:
        label = f"{status} {document['code']}"
    return label, _CLOSES.search(head) is not None


def _close(streams: _Streams | None) -> None:
    if streams is not None:
        with suppress(OSError):
            streams[1].close()
