"""The supervisor's view of one worker process: its life cycle, and the messages from and to it."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.listeners import Urls
from gateway.telemetry.series import Snapshot
from gateway.workers.messages import Message, decode, encode, unpack

CRASHED: Final = 70
"""The exit code of a worker that a bug ended (sysexits.h: EX_SOFTWARE)."""
_READ: Final = 256 * 1024


@dataclass(eq=False, slots=True)
class Process:
    """A worker process that was started and not reaped yet."""

    pid: int
    channel: socket.socket
    started: float = field(default_factory=time.monotonic)
    ready: bool = False
    channel_ended: bool = False
    """True once its channel has ended."""
    leaving: bool = False
    """True once it has been asked to end."""
    kill_at: float | None = None
    """When it is killed."""
    failure: str | None = None
    """Why it cannot start, as it reported."""
    urls: Urls = field(default_factory=lambda: Urls("", ""))
    """Its URLs."""
    _counted: Any = ()  # rows of `messages.pack`, unpacked when they are needed
    _incoming: bytearray = field(default_factory=bytearray)
    _outgoing: bytearray = field(default_factory=bytearray)

    @property
    def unsent(self) -> bool:
        return bool(self._outgoing)

    @property
    def counted(self) -> list[Snapshot]:
        """The metrics that it reported last."""
        return unpack(self._counted)

    def remember(self, rows: object) -> None:
        """Keep the metrics that it reported."""
        self._counted = rows

    def send(self, message: Message) -> None:
        """Send a message now if there is room; else `flush` sends it."""
        self._outgoing += encode(message)
        self.flush()

    def flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self.channel.send(self._outgoing)]
        except BlockingIOError:
            return
        except OSError:
            # The worker has ended.
            self._outgoing.clear()

    def receive(self) -> list[Message]:
        """Return the messages that have arrived. At the end of the channel, set `channel_ended`."""
        try:
            while data := self.channel.recv(_READ):
                self._incoming += data
            self.channel_ended = True
        except BlockingIOError:
            pass
        except OSError:
            self.channel_ended = True
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = rest
        return [decode(bytes(line)) for line in lines]

    def end_by_force(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def exit_status(self) -> str | None:
        """Reap it without blocking; return how it ended, None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def fork(body: Callable[[socket.socket], None], forget: Callable[[], None]) -> Process:
    """Start a process that calls `forget`, to close what it must not keep, and then `body` with its channel.

    Raises OSError when the system has no room for another process.
    """
    ours, theirs = socket.socketpair()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        code = CRASHED
        try:
            code = _child(body, theirs, [ours], forget)
        finally:
            # Nothing of the supervisor's stack may run in the child, even after an error: no `finally` of
            # a caller, which would end the workers, and no exit handler.
            os._exit(code)
    theirs.close()
    ours.setblocking(False)  # noqa: FBT003 -- the signature of sockets
    return Process(pid, ours)


def _child(
    body: Callable[[socket.socket], None],
    channel: socket.socket,
    unused: Iterable[socket.socket],
    forget: Callable[[], None],
) -> int:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # It is for the supervisor, and would end a worker that gets it by mistake.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for each in unused:
            each.close()
        forget()
        body(channel)
    except BaseException:  # noqa: BLE001 -- the outermost place of this process
        traceback.print_exc()
        return CRASHED
    else:
        return 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
