"""A separate network host for the gateway, which can be cut off from the hosts of the stores.

A network namespace with three pairs of virtual interfaces: one towards the clients and the upstream, one
towards Postgres, one towards Redis. A queue without room drops all packets that leave an interface, so that
each direction can be cut separately. Packets vanish without an error, as behind a broken switch.
"""

import asyncio
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

Peer: TypeAlias = Literal["clients", "postgres", "redis"]
Direction: TypeAlias = Literal["from", "to"]

PEERS: Final[tuple[Peer, ...]] = ("clients", "postgres", "redis")
_NAME: Final = re.compile(r"gateway-(\d+)-[0-9a-f]{8}")
_VANISH: Final = ("root", "pfifo", "limit", "0")


class NoHosts(Exception):
    """This machine gives no network namespaces; the text says why."""


@dataclass(frozen=True, slots=True)
class _Link:
    near: str
    """The interface on the side of the stores and the clients."""
    far: str
    """The interface of the gateway."""
    near_address: str
    far_address: str


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace."""

    name: str
    links: Mapping[Peer, _Link]

    @property
    def within(self) -> tuple[str, ...]:
        """The beginning of a command that is to run there."""
        return ("ip", "netns", "exec", self.name)

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return self.links["clients"].far_address

    def address_of(self, peer: Peer) -> str:
        """Where a peer is to listen, to be reached from the host on the link that leads to it."""
        return self.links[peer].near_address

    @asynccontextmanager
    async def cut_off(self, peer: Peer, *directions: Direction) -> AsyncIterator[None]:
        """Let everything vanish that goes to a peer, or comes from it, or both."""
        link = self.links[peer]
        queues = {"from": ("tc", "qdisc"), "to": ("tc", "-n", self.name, "qdisc")}
        devices = {"from": link.near, "to": link.far}
        try:
            for direction in directions:
                await _run(*queues[direction], "replace", "dev", devices[direction], *_VANISH)
            yield
        finally:
            for direction in directions:
                await _run(*queues[direction], "del", "dev", devices[direction], "root")


@contextmanager
def new_host() -> Iterator[Host]:
    """Make a host, and remove it in the end. Raises `NoHosts`, with the reason, where that cannot be."""
    if os.geteuid() != 0:
        raise NoHosts("only root may make network namespaces")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise NoHosts(f"there is no `{program}`: apt-get install iproute2")
    _remove_orphans()
    token = secrets.token_hex(4)
    name = f"gateway-{os.getpid()}-{token}"
    links: dict[Peer, _Link] = {}
    try:
        _do("ip", "netns", "add", name)
        _do("ip", "netns", "exec", name, "ip", "link", "set", "lo", "up")
        for peer in PEERS:
            near, far = _two_addresses()
            link = links[peer] = _Link(f"gw{token}{peer[0]}", f"to-{peer}", near, far)
            _do("ip", "link", "add", link.near, "type", "veth", "peer", "name", link.far, "netns", name)
            for where, device, address in (((), link.near, near), (("-n", name), link.far, far)):
                _do("ip", *where, "address", "add", f"{address}/30", "dev", device)
                _do("ip", *where, "link", "set", device, "up")
            # Whether a direction can be cut is known now, and not in the middle of a run.
            _do("tc", "qdisc", "replace", "dev", link.near, *_VANISH)
            _do("tc", "qdisc", "del", "dev", link.near, "root")
        yield Host(name, links)
    finally:
        for link in links.values():
            _undo("ip", "link", "del", link.near)
        _undo("ip", "netns", "del", name)


def _two_addresses() -> tuple[str, str]:
    """Choose a network of two; from those for tests of networks (RFC 2544), which lead nowhere."""
    number = secrets.randbelow(2**15)
    start = f"198.{18 + (number >> 14)}.{(number >> 6) & 255}"
    last = (number & 63) << 2
    return f"{start}.{last + 1}", f"{start}.{last + 2}"


def _remove_orphans() -> None:
    """Remove the hosts of processes that were killed before they could."""
    folder = Path("/run/netns")
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is not None and not Path(f"/proc/{match[1]}").exists():
            # Its interfaces go with it, and their peers.
            _undo("ip", "netns", "del", path.name)


def _do(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 -- our own words, no shell
    if done.returncode != 0:
        raise NoHosts(f"{' '.join(command)}: {done.stderr.strip()}")


def _undo(*command: str) -> None:
    with suppress(NoHosts):
        _do(*command)


async def _run(*command: str) -> None:
    await asyncio.to_thread(_do, *command)
