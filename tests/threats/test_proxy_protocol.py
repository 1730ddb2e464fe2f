"""Threats: forwarding headers: only a trusted proxy may begin a connection with a PROXY header."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.core.model import JSON
from tests.harness import House, open_house, token
from tests.sockets import RawClient, Response, request_bytes
from tests.test_app import self_signed

HEADER = b"PROXY TCP4 198.51.100.4 10.0.0.1 5061 443\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes((198, 51, 100, 4, 10, 0, 0, 1, 19, 197, 1, 187))
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
SERVER: dict[str, JSON] = {"listen": "127.0.0.1:0", "proxy_protocol": True}
REQUEST = request_bytes("GET", "/public/x")


@pytest.fixture
async def behind(tmp_path: Path, dsn: str, redis_url: str) -> AsyncIterator[House]:
    server: dict[str, JSON] = {
        "listen": "127.0.0.1:0",
        "trusted_proxies": ["127.0.0.0/8"],
        "proxy_protocol": True,
    }
    async with open_house(tmp_path, dsn, redis_url, server=server) as house:
        yield house


async def test_a_header_of_a_trusted_proxy_names_the_client(behind: House) -> None:
    for header in (HEADER, V2):
        async with behind.connect() as client:
            await client.send(header + REQUEST)
            response = await client.response()
            assert response is not None
            assert response.status == 200
            # It counts for the whole connection.
            await client.send(request_bytes("GET", "/private/x"))
            denied = await client.response()
            assert denied is not None
            assert denied.status == 401
        received = behind.upstream.requests[-1]
        assert received.values(b"x-forwarded-for") == [b"198.51.100.4"]
    assert {event["client"] for event in behind.events("denied")} == {"198.51.100.4"}


async def test_the_client_behind_a_header_is_not_trusted_itself(behind: House) -> None:
    async with behind.connect() as client:
        await client.send(HEADER, request_bytes("GET", "/public/x", b"X-Forwarded-For: 6.6.6.6"))
        assert await client.response()
    assert behind.upstream.requests[-1].values(b"x-forwarded-for") == [b"198.51.100.4"]


async def test_a_load_balancer_may_speak_for_itself(behind: House) -> None:
    async with behind.connect() as client:
        await client.send(LOCAL, REQUEST)
        response = await client.response()
        assert response is not None
        assert response.status == 200
    assert behind.upstream.requests[-1].values(b"x-forwarded-for") == [b"127.0.0.1"]


@pytest.mark.parametrize(
    "start",
    [
        REQUEST,
        b"PROXY TCP4 198.51.100.4 10.0.0.1 5061\r\n" + REQUEST,
        b"PROXY TCP4 198.51.100.4\r\nX-User-Id: forged\r\n\r\n" + REQUEST,
        HEADER + HEADER + REQUEST,
        LOCAL[:-4] + b"\x31\x11\x00\x00" + REQUEST,
    ],
    ids=["none", "cut", "forged-field", "two", "version-3"],
)
async def test_without_a_good_header_nothing_is_forwarded(behind: House, start: bytes) -> None:
    async with behind.connect() as client:
        await client.send(start)
        answer = await client.to_end()
        assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    assert behind.upstream.wires == []


async def test_a_header_of_an_untrusted_peer_is_no_request(tmp_path: Path, dsn: str, redis_url: str) -> None:
    server: dict[str, JSON] = {
        "listen": "127.0.0.1:0",
        "trusted_proxies": ["192.0.2.0/24"],
        "proxy_protocol": True,
    }
    async with open_house(tmp_path, dsn, redis_url, server=server) as house:
        for header in (HEADER, V2):
            response = await house.exchange(header + REQUEST)
            assert (response.status, response.code) == (400, "request_malformed")
        assert house.upstream.wires == []
        # Without a header it is served as itself.
        received = await house.forwarded("/public/x")
        assert received.values(b"x-forwarded-for") == [b"127.0.0.1"]


async def test_a_header_that_nothing_expects_is_no_request(behind: House, tmp_path: Path) -> None:
    async with behind.connect() as client:
        await client.send(HEADER, REQUEST)
        assert await client.response()
        await client.send(HEADER, REQUEST)
        response = await client.response()
        assert response is not None
        assert response.status == 400


async def test_a_header_that_does_not_come_ends_the_connection(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    server: dict[str, JSON] = {
        "listen": "127.0.0.1:0",
        "trusted_proxies": ["127.0.0.0/8"],
        "proxy_protocol": True,
        "limits": {"header_timeout": "200ms"},
    }
    async with open_house(tmp_path, dsn, redis_url, server=server) as house:
        async with house.connect() as client:
            await client.send(HEADER[:-1])
            assert await client.to_end() == b""
        (event,) = house.events("proxy_header_refused")
        assert event["peer"] == "127.0.0.1"


async def test_each_client_behind_a_proxy_has_its_own_connections(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    server: dict[str, JSON] = {
        "listen": "127.0.0.1:0",
        "trusted_proxies": ["127.0.0.0/8"],
        "proxy_protocol": True,
        "limits": {"connections_per_client": 1},
    }

    async def ask(client: RawClient, header: bytes) -> Response:
        await client.send(header + REQUEST)
        response = await client.response()
        assert response is not None
        return response

    async with (
        open_house(tmp_path, dsn, redis_url, server=server) as house,
        house.connect() as first,
        house.connect() as second,
        house.connect() as other,
        house.connect() as balancer,
        house.connect() as balancer_again,
    ):
        assert (await ask(first, HEADER)).status == 200
        assert (await ask(second, HEADER)).status == 429
        assert (await ask(other, HEADER.replace(b"198.51.100.4", b"198.51.100.5"))).status == 200
        assert (await ask(balancer, LOCAL)).status == (await ask(balancer_again, LOCAL)).status == 200


async def test_the_header_comes_before_tls(tmp_path: Path, dsn: str, redis_url: str) -> None:
    tls = self_signed(tmp_path)
    server: dict[str, JSON] = {
        "listen": "127.0.0.1:0",
        "trusted_proxies": ["127.0.0.0/8"],
        "proxy_protocol": True,
        "tls": dict(tls),
    }
    trust = ssl.create_default_context(cafile=tls["certificate"])
    trust.check_hostname = False
    async with open_house(tmp_path, dsn, redis_url, server=server) as house:
        parts = urlsplit(house.url)
        for header in (HEADER, V2):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(header)
            await writer.start_tls(trust)
            client = RawClient(reader, writer)
            await client.send(request_bytes("GET", "/private/x", token=token()))
            response = await client.response()
            assert response is not None
            assert response.status == 200
            received = house.upstream.requests[-1]
            assert received.values(b"x-forwarded-for") == [b"198.51.100.4"]
            assert received.values(b"x-forwarded-proto") == [b"https"]
            writer.close()
        # Within TLS it is no header any more.
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(LOCAL)
        await writer.start_tls(trust)
        client = RawClient(reader, writer)
        await client.send(HEADER, REQUEST)
        refused = await client.response()
        assert refused is not None
        assert refused.status == 400
        writer.close()
