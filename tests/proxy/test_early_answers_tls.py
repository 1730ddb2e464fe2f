"""Early answers over TLS: with the client, with the upstream, and with both."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from gateway.core.model import JSON
from tests.harness import House, open_house
from tests.proxy.test_early_answers_relayed import resetting
from tests.proxy.upstream.test_tls import Authority
from tests.proxy.upstream.test_tls_ends import LOOPS, PATTERN, blocking_server
from tests.sockets import PATIENCE
from tests.test_app import self_signed

UPLOAD: Final = 5 * 1024 * 1024
BLOCK: Final = bytes(64 * 1024)
TIMES: Final = 10


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority.create(tmp_path_factory.mktemp("tls"), "authority")
    authority.issue("localhost")
    return authority


def refusal(size: int) -> bytes:
    return b"HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\n\r\n" % size + PATTERN[:size]


@dataclass(frozen=True, slots=True)
class Client:
    """A client with blocking sockets, because event loops have their own TLS."""

    port: int
    tls: ssl.SSLContext | None

    def upload(self, *, chunked: bool) -> tuple[bytes, bytes]:
        """Send as much of a body as possible; return head and body of the answer."""
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % UPLOAD
        piece = b"10000\r\n%b\r\n" % BLOCK if chunked else BLOCK
        with self._connect() as client:
            client.sendall(b"POST /public/x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
            with suppress(OSError):
                for _ in range(UPLOAD // len(BLOCK)):
                    client.sendall(piece)
                client.sendall(b"0\r\n\r\n" if chunked else b"")
            answer = b""
            while data := client.recv(65536):
                answer += data
                head, end, body = answer.partition(b"\r\n\r\n")
                if end and len(body) == self._length(head) and b"close" not in head:
                    break
        head, _, body = answer.partition(b"\r\n\r\n")
        return head, body

    def _connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname="127.0.0.1")

    @staticmethod
    def _length(head: bytes) -> int:
        return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


@asynccontextmanager
async def gateway(
    folder: Path, dsn: str, redis_url: str, *, secured: bool, upstreams: Mapping[str, JSON] | None = None
) -> AsyncIterator[tuple[House, Client]]:
    server: dict[str, JSON] = {"listen": "127.0.0.1:0"}
    files = self_signed(folder)
    if secured:
        server["tls"] = dict(files)
    changes = {"server": server, "upstreams": upstreams or {}}
    async with open_house(folder, dsn, redis_url, seeded=False, prefix=None, **changes) as house:
        tls = ssl.create_default_context(cafile=files["certificate"]) if secured else None
        yield house, Client(urlsplit(house.url).port or 0, tls)


async def all_arrive(house: House, client: Client, size: int) -> None:
    for number in range(TIMES):
        head, body = await asyncio.to_thread(client.upload, chunked=number % 2 == 1)
        assert head.startswith(b"HTTP/1.1 413 "), head
        assert body == PATTERN[:size]
    assert house.events("endpoint_ejected") == []


# Fits in a receive buffer, so that the sender has sent everything before the reset.
@pytest.mark.parametrize("size", [3, 40_000])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_speaks_tls_gets_the_whole_answer(
    tmp_path: Path, dsn: str, redis_url: str, loop: str, size: int
) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), gateway(tmp_path, dsn, redis_url, secured=True) as (house, client):
            house.upstream.behave(resetting(refusal(size)))
            await all_arrive(house, client, size)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())


@pytest.mark.parametrize("size", [3, 200_000])
@pytest.mark.parametrize("secured", [False, True], ids=["plain-client", "tls-client"])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_whole_answer_of_an_upstream_that_speaks_tls_arrives(
    tmp_path: Path, dsn: str, redis_url: str, authority: Authority, loop: str, secured: bool, size: int
) -> None:
    """It closes without reading the body, which resets the connection."""

    async def run(port: int) -> None:
        raw: JSON = {
            "urls": [f"https://localhost:{port}"],
            "tls": {"ca": str(authority.folder / "authority.pem")},
        }
        async with (
            asyncio.timeout(60),
            gateway(tmp_path, dsn, redis_url, secured=secured, upstreams={"raw": raw}) as (house, client),
        ):
            await all_arrive(house, client, size)

    with (
        blocking_server(authority.folder / "localhost.crt") as server,
        asyncio.Runner(loop_factory=LOOPS[loop]) as runner,
    ):
        server.answer, server.end = refusal(size), "reset"
        runner.run(run(server.port))
