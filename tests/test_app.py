"""The composition root: a gateway starts, stops in order, and can be started beside another."""

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from gateway.app import serve
from gateway.settings import Settings
from tests import tokens
from tests.harness import House, configuration, open_house, token
from tests.sockets import PATIENCE, Exchange, RawClient, RawUpstream, request_bytes


async def test_stopping_lets_requests_finish_and_takes_no_new_ones(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        begun.set()
        await released.wait()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    context = open_house(tmp_path, dsn, redis_url)
    house: House = await context.__aenter__()
    house.upstream.behave(answer)
    parts = urlsplit(house.url)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/private/x", token=token()))
        await begun.wait()
        stopping = asyncio.create_task(context.__aexit__(None, None, None))
        while True:
            try:
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            except ConnectionError:
                break
            writer.close()
            await asyncio.sleep(0.005)
        released.set()
        response = await client.response()
        assert response is not None
        assert response.content == b"ok"
    await stopping


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_behind(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:
        port = urlsplit(house.url).port
        settings = configuration(tmp_path, house.upstream.url, dsn, redis_url, "gateway:")
        settings["server"] = {"listen": f"127.0.0.1:{port}"}
        with pytest.raises(OSError, match="in use"):
            async with serve(Settings.model_validate(settings)):
                pytest.fail("two gateways listen on one port")
        assert (await house.request("/private/x", token=token())).status == 200


async def test_two_gateways_run_side_by_side(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with (
        open_house(tmp_path, dsn, redis_url) as one,
        open_house(tmp_path, dsn, redis_url, seeded=False) as other,
    ):
        for house in (one, other):
            assert (await house.request("/private/x", token=token())).status == 200
            assert (
                await house.metric("gateway_requests_total", route="private", method="GET", status="200") == 1
            )


def self_signed(folder: Path) -> dict[str, str]:
    """Write a certificate for 127.0.0.1 and its key."""
    key = tokens.ec_key("tls").private
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(tokens.ec_key("tls").private_pem())
    return {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}


async def test_tls_in_front_and_behind(tmp_path: Path, dsn: str, redis_url: str) -> None:
    """Clients speak TLS with the gateway. An upstream with an untrusted certificate is refused."""
    files = self_signed(tmp_path)
    trust = ssl.create_default_context(cafile=files["certificate"])
    async with open_house(tmp_path, dsn, redis_url, server={"tls": dict(files)}) as house:
        assert house.url.startswith("https://")
        parts = urlsplit(house.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=trust)
        client = RawClient(reader, writer)
        await client.send(request_bytes("GET", "/private/x", token=token()))
        response = await client.response()
        assert response is not None
        assert response.status == 200
        assert house.upstream.requests[0].values(b"x-forwarded-proto") == [b"https"]
        house.upstream.answer(b"HTTP/1.1 200 OK\r\n\r\nabc", rst=True)
        await client.send(request_bytes("GET", "/private/x", token=token()))
        broken = await client.response()
        assert broken is None or not broken.complete
        writer.close()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files["certificate"], files["key"])
    upstream = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server)
    port = upstream.sockets[0].getsockname()[1]
    async with open_house(
        tmp_path,
        dsn,
        redis_url,
        seeded=False,
        upstreams={"gone": {"urls": [f"https://127.0.0.1:{port}"]}},
    ) as house:
        refused = await house.request("/gone/x")
        assert (refused.status, refused.code) == (502, "upstream_unreachable")
    upstream.close()


async def test_stopping_closes_idle_connections_at_once(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with RawUpstream() as upstream:
        settings = configuration(tmp_path, upstream.url, dsn, redis_url, "gateway:")
        context = serve(Settings.model_validate(settings))
        running = await context.__aenter__()
        parts = urlsplit(running.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        client = RawClient(reader, writer)
        await client.send(request_bytes("GET", "/public/x"))
        assert await client.response() is not None
        # The time to drain is for requests, and there is none.
        async with asyncio.timeout(PATIENCE):
            await context.__aexit__(None, None, None)
        assert await client.closed()
        writer.close()
        (wire,) = upstream.wires
        await wire.until_ended()
