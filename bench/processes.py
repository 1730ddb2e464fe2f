"""The measured processes: their cores, and their CPU time and memory from /proc (proc(5))."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Final, Self

HOST: Final = "127.0.0.1"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0


class Refused(Exception):
    """A measurement that is impossible or would be misleading; the text says why."""


@dataclass(frozen=True, slots=True)
class Cores:
    """One core for the measured proxy, the others for everything around it."""

    proxy: int
    rest: frozenset[int]

    @classmethod
    def divide(cls) -> Self:
        """Divide the cores of this process. Raises Refused if there is only one."""
        first, *rest = sorted(os.sched_getaffinity(0))
        if not rest:
            raise Refused("two cores are needed: one for the proxy, one for clients and upstream")
        return cls(first, frozenset(rest))

    @property
    def all(self) -> frozenset[int]:
        return self.rest | {self.proxy}


class Process:
    """A program and the processes that it starts, until `stop`.

    They share `cores`; without it, they run where this process runs. Their output goes to `log`. They get
    `variables` in addition to the environment.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cores: frozenset[int] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        # Our environment variables would change the measured configuration.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OTEL_"))
        }
        environment |= variables or {}
        ours = os.sched_getaffinity(0)
        if cores is not None:
            os.sched_setaffinity(0, cores)  # inherited, also by later threads
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603 -- programs found by us, no shell
                    list(map(str, command)),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
        finally:
            os.sched_setaffinity(0, ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def family(self) -> frozenset[int]:
        """The process ids of the program and of all its running descendants."""
        return family(self.pid)

    @property
    def user_seconds(self) -> float:
        """The part of `cpu_seconds` outside of the kernel."""
        return sum(int(fields[11]) for fields in map(_stat, self.family) if fields) / _TICKS

    @property
    def children(self) -> frozenset[int]:
        return self.family - {self.pid}

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all its processes. Most machines count in steps of 10 ms."""
        return sum(int(fields[11]) + int(fields[12]) for fields in map(_stat, self.family) if fields) / _TICKS

    @property
    def resident_bytes(self) -> int:
        """Resident memory of all its processes. A page that two of them share counts twice."""
        return sum(map(_resident_bytes, self.family))

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait for the end of the program; return its exit code. Raises Refused when it does not end."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise Refused(f"{self._process.args!r} still runs after {seconds:g} s") from error

    def until(self, ready: Callable[[], bool], *, pause: float = 0.02) -> None:
        """Wait until `ready`. Raises Refused with the last output of the program when it takes too long."""
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            if not self.running or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace").strip().splitlines()
                raise Refused(f"{self._log.stem} did not start: {' / '.join(said[-5:]) or 'it said nothing'}")
            time.sleep(pause)

    def stop(self) -> None:
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def family(pid: int) -> frozenset[int]:
    """Return the process ids of a process and of all its running descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = frozenset({pid})
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@contextmanager
def moved(cores: frozenset[int]) -> Iterator[None]:
    """Run this process, and all that it has started, on these cores; move it back at the end."""
    before = os.sched_getaffinity(0)
    try:
        _move(cores)
        yield
    finally:
        _move(before)


def _move(cores: Iterable[int]) -> None:
    """Move every thread, and those that an unmoved thread starts meanwhile."""
    done: set[int] = set()
    while threads := {thread for pid in family(os.getpid()) for thread in _threads(pid)} - done:
        for thread in threads:
            # A store's processes that each serve one connection may end at any time.
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)
        done |= threads


def _threads(pid: int) -> list[int]:
    try:
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def python(module: str, *arguments: str | Path) -> tuple[str | Path, ...]:
    """Return the command that runs a module with this Python."""
    return (sys.executable, "-m", module, *arguments)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def status(port: int, path: str = "/", token: str | None = None, *, tls: bool = False) -> int | None:
    """Return the status of the answer to one GET; None if there is no answer."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection: HTTPConnection
    if tls:
        connection = HTTPSConnection(HOST, port, timeout=5, context=unverified())
    else:
        connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def unverified() -> ssl.SSLContext:
    """Return a TLS context for clients of our proxies, which does not check certificates."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on; None if the process has ended."""
    try:
        # The name is in parentheses, and may contain parentheses too.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _resident_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
