"""The TCP sockets of a process, from /proc/net/tcp and its open files (proc(5)); IPv4 only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_ESTABLISHED: Final = "01"
_LISTENING: Final = "0A"


class _Socket(NamedTuple):
    """A line of /proc/net/tcp."""

    file: str
    """Its name among the open files of its process."""
    port: int
    peer_port: int
    state: str


def listens(pid: int, port: int) -> bool:
    """Return whether the process has a socket that listens on this port."""
    return any(socket.state == _LISTENING for socket in _sockets(pid, port))


def connections(pid: int, port: int) -> int:
    """Return how many accepted, open connections to this port the process has."""
    return len(list(clients(pid, port)))


def clients(pid: int, port: int) -> Iterator[int]:
    """Return the clients' ports of these connections."""
    return (socket.peer_port for socket in _sockets(pid, port) if socket.state == _ESTABLISHED)


def _sockets(pid: int, port: int) -> Iterator[_Socket]:
    files = set(_open_files(pid))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        socket = _Socket(f"socket:[{fields[9]}]", _port(fields[1]), _port(fields[2]), fields[3])
        if socket.port == port and socket.file in files:
            yield socket


def _port(address: str) -> int:
    return int(address.partition(":")[2], 16)


def _open_files(pid: int) -> Iterator[str]:
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            yield str(entry.readlink())
    except (FileNotFoundError, ProcessLookupError):
        return
