"""Cables that parse their protocol, and lose the notifications of changes while all other data passes.

The protocols are those of https://www.postgresql.org/docs/current/protocol-message-formats.html and
https://redis.io/docs/latest/develop/reference/protocol-spec/ (RESP3). Connections are not encrypted.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Final

from tests.stores.cable import Cable

_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class Tap(ABC):
    """One connection of a wire. The server's messages are told apart, and changes among them."""

    def __init__(self) -> None:
        self.listens = False
        """Whether the client has asked to be told of changes."""
        self.loses: Callable[[bytes], bool] = lambda _: False
        """A message that tells of a change → whether it vanishes."""
        self.flowing = asyncio.Event()
        """While cleared, the data of the server waits here."""
        self.flowing.set()
        self._buffer = bytearray()

    async def there(self, data: bytes) -> bytes:
        """Pass on what the client sent."""
        self._sent(data)
        return data

    async def back(self, data: bytes) -> bytes:
        """Pass on the whole messages of what the server sent, but not those that are to vanish."""
        await self.flowing.wait()
        self._buffer += data
        passed = bytearray()
        at = 0
        while (end := self._end(self._buffer, at)) is not None:
            message = bytes(self._buffer[at:end])
            if not (self._tells(message) and self.loses(message)):
                passed += message
            at = end
        del self._buffer[:at]
        return bytes(passed)

    @abstractmethod
    def _sent(self, data: bytes) -> None:
        """Take note of what the client sent."""

    @abstractmethod
    def _end(self, buffer: bytearray, at: int) -> int | None:
        """Return where the message ends that begins at `at`; None when it has not come wholly."""

    @abstractmethod
    def _tells(self, message: bytes) -> bool:
        """Tell whether a message tells of a change."""


class PostgresTap(Tap):
    def __init__(self) -> None:
        super().__init__()
        self._letter_expected = False
        self._process = b""

    def of_another_session(self, message: bytes) -> bool:
        """Tell whether a notification was sent by another session than the one that is listening.

        A PgBouncer that pools transactions delivers no such notification.
        """
        return message[5:9] != self._process

    def _sent(self, data: bytes) -> None:
        self._letter_expected = self._letter_expected or data.startswith(_SSL_REQUEST)
        self.listens = self.listens or b"LISTEN " in data

    def _end(self, buffer: bytearray, at: int) -> int | None:
        if self._letter_expected and len(buffer) > at:
            # The answer to SSLRequest is one letter, and no message.
            self._letter_expected = False
            return at + 1
        if len(buffer) < at + 5:
            return None
        end = at + 1 + int.from_bytes(buffer[at + 1 : at + 5])
        return end if end <= len(buffer) else None

    def _tells(self, message: bytes) -> bool:
        if message.startswith(b"K"):  # BackendKeyData
            self._process = message[5:9]
        return message.startswith(b"A")  # NotificationResponse


class RedisTap(Tap):
    def _sent(self, data: bytes) -> None:
        self.listens = self.listens or b"TRACKING" in data

    def _end(self, buffer: bytearray, at: int) -> int | None:
        # Only who has asked for pushes gets any; what others get need not be told apart.
        return _value_end(buffer, at) if self.listens else (len(buffer) if len(buffer) > at else None)

    def _tells(self, message: bytes) -> bool:
        return message.startswith(b">") and b"invalidate" in message[:24]


def _value_end(buffer: bytearray, at: int) -> int | None:
    """Return where a value of RESP3 ends; None when it has not come wholly."""
    line_end = buffer.find(b"\r\n", at)
    if line_end < 0:
        return None
    kind, end = bytes(buffer[at : at + 1]), line_end + 2
    if kind in (b"+", b"-", b":", b"_", b"#", b",", b"("):
        return end
    size = int(buffer[at + 1 : line_end])
    if kind in (b"$", b"!", b"="):
        end += 0 if size < 0 else size + 2
        return end if end <= len(buffer) else None
    assert kind in (b"*", b"~", b">", b"%", b"|"), f"no value of RESP3 begins like {buffer[at : at + 20]!r}"
    # An attribute is followed by what it is about.
    values = 2 * size + (kind == b"|") if kind in (b"%", b"|") else size
    for _ in range(values):
        found = _value_end(buffer, end)
        if found is None:
            return None
        end = found
    return end


class Wire(Cable):
    """A cable that may lose what tells of changes; `tap` makes what understands one connection."""

    def __init__(self, url: str, port: int, tap: Callable[[], Tap], *, host: str = "127.0.0.1") -> None:
        super().__init__(url, port, host=host)
        self._tap = tap
        self._taps: list[Tap] = []
        self._deaf: Callable[[Tap], Callable[[bytes], bool]] | None = None

    @contextmanager
    def deaf(self, loses: Callable[[Tap], Callable[[bytes], bool]]) -> Iterator[None]:
        """Lose what tells of changes, on all connections, those to come included.

        `loses` gives, for a connection, what chooses the messages that vanish.
        """
        self._deaf = loses
        for tap in self._taps:
            tap.loses = loses(tap)
        try:
            yield
        finally:
            self._deaf = None
            for tap in self._taps:
                tap.loses = lambda _: False

    @contextmanager
    def one_deaf(self) -> Iterator[None]:
        """Lose all that tells one of the listening connections of changes. Others hear, and new ones."""
        for tap in self._listening()[:1]:
            tap.loses = lambda _: True
        with self.deaf(lambda tap: tap.loses):
            yield

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Hold up all that the server sends to those who listen; as TCP does, deliver it in the end."""
        held = self._listening()
        for tap in held:
            tap.flowing.clear()
        try:
            yield
        finally:
            for tap in held:
                tap.flowing.set()

    def _listening(self) -> list[Tap]:
        return [tap for tap in self._taps if tap.listens]

    @contextmanager
    def _copying(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> Iterator[tuple[Coroutine[None, None, None], Coroutine[None, None, None]]]:
        tap = self._tap()
        if self._deaf is not None:
            tap.loses = self._deaf(tap)
        self._taps.append(tap)
        try:
            yield self._pass_on(reader, far_writer, tap.there), self._pass_on(far_reader, writer, tap.back)
        finally:
            self._taps.remove(tap)
