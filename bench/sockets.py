"""Which TCP sockets a process holds, from /proc/net/tcp and its open files (proc(5)); IPv4 only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ESTABLISHED: Final = "01"
_LISTENING: Final = "0A"


def listens(pid: int, port: int) -> bool:
    """Whether the process has a socket listening on this port."""
    return any(_sockets(pid, port, _LISTENING))


def connections(pid: int, port: int) -> int:
    """How many accepted, open connections to this port the process holds."""
    return sum(1 for _ in _sockets(pid, port, _ESTABLISHED))


def _sockets(pid: int, port: int, state: str) -> Iterator[str]:
    files = set(_open_files(pid))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        socket = f"socket:[{fields[9]}]"
        if fields[3] == state and int(fields[1].partition(":")[2], 16) == port and socket in files:
            yield socket


def _open_files(pid: int) -> Iterator[str]:
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            yield str(entry.readlink())
    except (FileNotFoundError, ProcessLookupError):
        return
