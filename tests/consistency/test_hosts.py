"""A host that is cut off in one or both directions and restored, without leftovers."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.consistency.hosts import Direction, Host, NoHosts, new_host

_TALK: Final = """
import socket, sys
talk = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for line in sys.stdin.buffer:
    talk.sendall(line)
    talk.settimeout(float(sys.argv[3]))
    try:
        print(talk.recv(100).decode().strip() or "end", flush=True)
    except TimeoutError:
        print("nothing", flush=True)
"""
_SILENCE: Final = 0.3
"""Seconds after which nothing more is expected to come."""


@pytest.fixture
def host() -> Iterator[Host]:
    try:
        with new_host() as host:
            yield host
    except NoHosts as reason:
        pytest.skip(f"needs network namespaces: {reason}")


@asynccontextmanager
async def talking(host: Host) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[bytes]]]:
    """Run a client on the host, which says what it is told to, and prints what it hears."""
    arrived: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            arrived.append(line)
            writer.write(b"answer to " + line)
        writer.close()

    address = host.address_of("redis")
    async with await asyncio.start_server(answer, address, 0) as server:
        port = str(server.sockets[0].getsockname()[1])
        client = await asyncio.create_subprocess_exec(
            *host.within, sys.executable, "-c", _TALK, address, port, str(_SILENCE),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield client, arrived
        finally:
            client.kill()
            await client.communicate()


async def say(client: asyncio.subprocess.Process, word: bytes) -> bytes:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(word + b"\n")
    async with asyncio.timeout(20):
        return (await client.stdout.readline()).strip()


@pytest.mark.parametrize(
    ("directions", "arrives"), [(("from", "to"), False), (("to",), False), (("from",), True)]
)
async def test_nothing_comes_through_until_it_is_healed(
    host: Host, directions: tuple[Direction, ...], arrives: bool
) -> None:
    async with talking(host) as (client, arrived):
        assert await say(client, b"one") == b"answer to one"
        async with host.cut_off("redis", *directions):
            assert await say(client, b"two") == b"nothing"
            assert (b"two\n" in arrived) == arrives
        # TCP sends it again.
        while b"two" not in (said := await say(client, b"three")):
            assert said == b"nothing"
        assert b"two\n" in arrived


async def test_the_other_links_stay(host: Host) -> None:
    async with talking(host) as (client, _), host.cut_off("postgres", "from", "to"):
        assert await say(client, b"one") == b"answer to one"


def test_nothing_is_left_even_after_an_error(host: Host) -> None:
    made: list[Host] = []

    def fail() -> None:
        with new_host() as other:
            made.append(other)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not Path("/run/netns", made[0].name).exists()
    assert all(not Path("/sys/class/net", link.near).exists() for link in made[0].links.values())
    assert Path("/run/netns", host.name).exists()
    assert all(Path("/sys/class/net", link.near).exists() for link in host.links.values())


_KILLED: Final = """
import os, signal
from tests.consistency.hosts import new_host
with new_host() as host:
    print(host.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_has_left_is_removed_by_the_next(host: Host) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED], capture_output=True, text=True, check=False)  # noqa: S603 -- our own words
    left = Path("/run/netns", done.stdout.strip())
    assert left.exists(), done.stderr
    with new_host():
        assert not left.exists()
        assert Path("/run/netns", host.name).exists()
