"""Listening sockets. They are bound separately from serving, so that processes can share and pass them on.

Several sockets may be bound to one TCP address with SO_REUSEPORT; the kernel spreads new connections
over those that listen, and each has its own queue.
"""

import ctypes
import errno
import socket
import stat
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

Endpoint: TypeAlias = tuple[str, int] | Path
"""A listening address: a host, which may have several addresses, and a port; or the path of a Unix socket."""

_Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]

BACKLOG: Final = 1024
"""Connections that may wait in a socket's queue until they are accepted."""

_ALL_IPV4: Final = "0.0.0.0"  # noqa: S104 -- what `[::]` stands for, too
_ALL_IPV6: Final = "::"

# Linux, asm-generic/socket.h; Python has no name for it.
_SO_ATTACH_FILTER: Final = 26
# A classic BPF program over the TCP header (linux/filter.h): drop packets with the flag SYN, keep the rest.
_NO_SYN: Final = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte with the flags
        (0x45, 0, 1, 0x02),  # SYN set? next, else skip one
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # keep
    )
)


_PICKS: Final = 20
"""How often a free port is picked before it counts as taken."""
_ADVICE: Final = {
    errno.EADDRINUSE: "stop the program that uses it, or choose another one",
    errno.EADDRNOTAVAIL: "write an address of this machine, or 0.0.0.0 for all of them",
    errno.EACCES: "choose a port above 1023 or a writable folder, or grant the right to use it",
    errno.ENOENT: "create the folder of the socket",
}


def bind(endpoint: Endpoint, setting: str = "the address") -> tuple[socket.socket, ...]:
    """Bind a socket to each address of an endpoint; port 0 picks a free one. They do not listen yet.

    `::` is all addresses of both families.

    Raises OSError when an address is taken, even by a socket that would share it: two gateways on one
    port would each get half of the requests. `setting` is the name of the address in the error's text.
    """
    try:
        return (_bind_path(endpoint),) if isinstance(endpoint, Path) else _bind_host(*endpoint)
    except socket.gaierror as error:
        place = f"{setting}: {endpoint[0]}" if isinstance(endpoint, tuple) else setting
        raise OSError(
            f"{place} is not a known host → write an address of this machine, or 0.0.0.0 for all of them"
        ) from error
    except OSError as error:
        place = f"unix:{endpoint}" if isinstance(endpoint, Path) else f"{endpoint[0]}:{endpoint[1]}"
        advice = _ADVICE.get(error.errno or 0, "choose another address")
        raise OSError(
            f"{setting}: {place} cannot be listened on: {error.strerror or error} → {advice}"
        ) from error


def _bind_host(host: str, port: int) -> tuple[socket.socket, ...]:
    attempts = _PICKS if port == 0 else 1
    while True:
        attempts -= 1
        try:
            return _bind_all(port) if host == _ALL_IPV6 else _bind_addresses(_addresses(host, port))
        except OSError as error:
            # The port that was picked may be taken for the next address, or by another process meanwhile.
            if error.errno != errno.EADDRINUSE or attempts == 0:
                raise


def _addresses(host: str, port: int) -> Iterable[tuple[int, _Address]]:
    return dict.fromkeys(
        (family, address)
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )


def _bind_all(port: int) -> tuple[socket.socket, ...]:
    """Bind all addresses of both families at one port.

    These are two sockets, so that peers with IPv4 have addresses of IPv4. A machine without IPv4 has one.
    """
    (six,) = _bind_addresses([(socket.AF_INET6, (_ALL_IPV6, port))])
    try:
        return (six, *_bind_addresses([(socket.AF_INET, (_ALL_IPV4, six.getsockname()[1]))]))
    except OSError as error:
        if error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            return (six,)
        six.close()
        raise


def _bind_addresses(addresses: Iterable[tuple[int, _Address]]) -> tuple[socket.socket, ...]:
    bound: list[socket.socket] = []
    try:
        for family, address in addresses:
            with _bind(family, address, share=False) as probe:
                free = probe.getsockname()
            bound.append(_bind(family, free, share=True))
    except OSError:
        close(bound)
        raise
    return tuple(bound)


def beside(bound: Iterable[socket.socket]) -> tuple[socket.socket, ...]:
    """Bind more sockets to the same addresses. A Unix socket cannot be bound twice, and is shared.

    Raises OSError.
    """
    return tuple(
        one if one.family == socket.AF_UNIX else _bind(one.family, one.getsockname(), share=True)
        for one in bound
    )


def refuse(listener: socket.socket) -> None:
    """Refuse new connections. Handshakes in progress may still finish, and their connections are queued.

    A connection that arrives after the queue was emptied and before the socket is closed would be reset with
    its request, so a process that closes a socket for good does this first, waits for a moment, and then
    takes the queue. It affects all processes that share the socket. A Unix socket does not need this: once
    its file is gone, no client finds it.
    """
    if listener.family == socket.AF_UNIX:
        return
    instructions = ctypes.create_string_buffer(_NO_SYN)
    program = struct.pack("HP", len(_NO_SYN) // 8, ctypes.addressof(instructions))
    # If this does not exist, or is forbidden, the time between the last two steps must be short enough.
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def take_queue(listener: socket.socket) -> list[socket.socket]:
    """Accept all waiting connections. When the last process closes the socket, the rest are reset."""
    waiting = []
    listener.settimeout(0)
    # An OSError means the end of the queue, a connection that broke while it waited, or no more descriptors.
    with suppress(OSError):
        while True:
            waiting.append(listener.accept()[0])
    return waiting


def close(sockets: Iterable[socket.socket]) -> None:
    """Close this process's descriptors of sockets."""
    for one in sockets:
        one.close()


def remove(endpoint: Endpoint) -> None:
    """Remove the file of a Unix socket. Call it before closing, while the file is this process's."""
    if isinstance(endpoint, Path):
        endpoint.unlink(missing_ok=True)


def url(scheme: str, sockets: Sequence[socket.socket]) -> str:
    """Return a URL of the first socket. For one that listens on all addresses, it uses loopback."""
    if sockets[0].family == socket.AF_UNIX:
        return f"unix:{sockets[0].getsockname()}"
    host, port = sockets[0].getsockname()[:2]
    reachable = {_ALL_IPV4: "127.0.0.1", _ALL_IPV6: "::1"}.get(host, host)
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


def _bind(family: int, address: _Address, *, share: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one


def _bind_path(path: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_abandoned(path)
        one.bind(str(path))
    except OSError:
        one.close()
        raise
    return one


def _remove_abandoned(path: Path) -> None:
    """Remove a Unix socket that a process left behind, unless a process listens on it."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
