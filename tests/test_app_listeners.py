"""The last moments of a gateway's sockets."""

import asyncio
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.app import serve
from gateway.core.model import JSON
from gateway.proxy import listener
from gateway.settings import Settings
from tests.harness import configuration
from tests.sockets import RawClient, RawUpstream, Response, request_bytes
from tests.test_app import self_signed


async def test_a_connection_that_waits_in_the_queue_when_the_gateway_stops_is_served(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    async with RawUpstream() as upstream:
        settings = configuration(tmp_path, upstream.url, dsn, redis_url, "gateway:")
        async with serve(Settings.model_validate(settings)) as running:
            parts = urlsplit(running.url)
            # The kernel makes the connection; the event loop has no chance to accept it before the exit.
            queued = socket.create_connection((parts.hostname, parts.port))
            queued.sendall(request_bytes("GET", "/public/x"))
        client = RawClient(*await asyncio.open_connection(sock=queued))
        response = await client.response()
        assert response is not None
        assert (response.status, response.content) == (200, b"ok")
        assert response.values(b"connection") == [b"close"]
        await client.close()


@pytest.mark.parametrize("with_tls", [False, True])
async def test_a_connection_with_a_proxy_header_in_the_queue_is_served_too(
    tmp_path: Path, dsn: str, redis_url: str, *, with_tls: bool
) -> None:
    async with RawUpstream() as upstream:
        settings = configuration(tmp_path, upstream.url, dsn, redis_url, "gateway:")
        server: dict[str, JSON] = {"listen": "127.0.0.1:0", "trusted_proxies": ["127.0.0.0/8"]}
        trust: ssl.SSLContext | None = None
        if with_tls:
            files = self_signed(tmp_path)
            server |= {"tls": dict(files)}
            trust = ssl.create_default_context(cafile=files["certificate"])
            trust.check_hostname = False
        settings["server"] = {**server, "proxy_protocol": True}
        async with serve(Settings.model_validate(settings)) as running:
            parts = urlsplit(running.url)
            # The event loop has no chance to accept it before the exit.
            queued = socket.create_connection((parts.hostname, parts.port))
            queued.sendall(b"PROXY TCP4 198.51.100.4 10.0.0.1 5061 443\r\n")
            reader, writer = await asyncio.open_connection(sock=queued)

            async def ask() -> Response | None:
                if trust is not None:
                    await writer.start_tls(trust)
                client = RawClient(reader, writer)
                await client.send(request_bytes("GET", "/public/x"))
                return await client.response()

            asking = asyncio.create_task(ask())
        response = await asking
        assert response is not None
        assert (response.status, response.content) == (200, b"ok")
        assert upstream.requests[-1].values(b"x-forwarded-for") == [b"198.51.100.4"]
        writer.close()


async def test_all_addresses_of_both_families_are_served(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with RawUpstream() as upstream:
        settings = configuration(tmp_path, f"{upstream.url}/base", dsn, redis_url, "gateway:")
        settings["server"] = {"listen": "[::]:0"}
        async with serve(Settings.model_validate(settings)) as running:
            port = urlsplit(running.url).port
            for host in ("127.0.0.1", "::1"):
                client = RawClient(*await asyncio.open_connection(host, port))
                await client.send(request_bytes("GET", "/public/x"))
                response = await client.response()
                assert response is not None
                assert response.status == 200
                received = upstream.requests[-1]
                assert received.values(b"x-forwarded-for") == [host.encode()]
                # Below the base path of the upstream's URL.
                assert received.target == b"/base/public/x"
                await client.close()


async def test_a_client_in_the_queue_that_begins_no_handshake_does_not_hold_the_end_up(
    tmp_path: Path, dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.1)
    settings = configuration(tmp_path, "http://127.0.0.1:9", dsn, redis_url, "gateway:")
    settings["server"] = {"listen": "127.0.0.1:0", "tls": dict(self_signed(tmp_path))}
    with socket.socket() as silent:
        async with asyncio.timeout(20), serve(Settings.model_validate(settings)) as running:
            parts = urlsplit(running.url)
            silent.connect((parts.hostname, parts.port))


async def test_a_path_in_front_is_removed_at_the_end(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with RawUpstream() as upstream:
        settings = configuration(tmp_path, upstream.url, dsn, redis_url, "gateway:")
        path = tmp_path / "front.sock"
        settings["server"] = {"listen": f"unix:{path}"}
        async with serve(Settings.model_validate(settings)) as running:
            assert running.url == f"unix:{path}"
            client = RawClient(*await asyncio.open_unix_connection(str(path)))
            await client.send(request_bytes("GET", "/public/x"))
            response = await client.response()
            assert response is not None
            assert response.status == 200
            await client.close()
        assert not path.exists()
