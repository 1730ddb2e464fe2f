"""The messages for operators about a Redis that cannot be used."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core.model import StoreUnavailable
from gateway.stores.redis.errors import in_words, translated
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.topology import server_at
from tests.issuer_keys.test_fetch import certificate
from tests.stores.tls_front import tls_front

LOCATED = ["+sentinel://{}/main", "+cluster://{}"]


@pytest.fixture
def port(redis_url: str) -> int:
    """Where a Redis without TLS is, which is neither a Sentinel nor in a cluster."""
    port = urlsplit(redis_url).port
    assert port is not None
    return port


async def why(url: str) -> str:
    """Return why this URL cannot be used."""
    redis = RedisTier(url, prefix="{gateway}:")
    with pytest.raises(StoreUnavailable) as caught:
        await redis.ping()
    await redis.close()
    return caught.value.detail


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (OSError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] x"),
            "Connection refused",
        ),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ConnectionResetError("Connection lost"), "the connection was lost"),
        (OSError(), "cannot connect"),
    ],
)
def test_every_event_loop_has_the_same_words(cause: OSError, words: str) -> None:
    error = RedisConnectionError("Error 111 connecting to 127.0.0.1:1.")
    error.__cause__ = cause
    assert in_words(error) == words


async def test_a_certificate_that_is_not_trusted(tmp_path: Path, port: int) -> None:
    async with tls_front(certificate(tmp_path), port) as front:
        expected = f"127.0.0.1:{front}: its certificate is not trusted: self"
        assert (await why(f"rediss://127.0.0.1:{front}")).startswith(expected)


async def test_a_certificate_for_another_name(tmp_path: Path, port: int) -> None:
    file = certificate(tmp_path)
    async with tls_front(file, port) as front:
        detail = await why(f"rediss://localhost:{front}?ssl_ca_certs={file}")
        assert "its certificate is not trusted: Hostname mismatch" in detail


@pytest.mark.parametrize("url", LOCATED)
class TestNobodyKnowsThePrimary:
    async def test_for_no_certificate_is_trusted(self, tmp_path: Path, port: int, url: str) -> None:
        async with tls_front(certificate(tmp_path), port) as front:
            hosts = f"127.0.0.1:1,127.0.0.1:{front}"
            assert (await why("rediss" + url.format(hosts))).startswith(
                f"{hosts}: no server knows where the primary is (127.0.0.1:1: Connection refused;"
                f" 127.0.0.1:{front}: its certificate is not trusted: self"
            )

    async def test_for_they_are_no_such_servers(self, port: int, url: str) -> None:
        detail = await why("redis" + url.format(f"127.0.0.1:{port}"))
        assert f"(127.0.0.1:{port}: refuses the command: " in detail

    async def test_because_they_refuse_the_password(self, port: int, url: str) -> None:
        parameters = "?sentinel_username=ann&sentinel_password=hunter2" if "sentinel" in url else ""
        detail = await why("redis" + url.format(f"ann:hunter2@127.0.0.1:{port}") + parameters)
        assert f"(127.0.0.1:{port}: invalid username-password pair" in detail
        assert "hunter2" not in detail


@pytest.mark.parametrize("url", LOCATED)
class TestThePrimaryItself:
    async def test_a_server_with_an_untrusted_certificate_is_named(
        self, tmp_path: Path, port: int, url: str
    ) -> None:
        async with tls_front(certificate(tmp_path), port) as front:
            assert (await why_told("rediss" + url.format("a,b"), front)).startswith(
                f"a,b: 127.0.0.1:{front}: its certificate is not trusted: self"
            )

    async def test_a_server_that_is_down_is_named(self, url: str) -> None:
        assert await why_told("redis" + url.format("a,b"), 1) == "a,b: 127.0.0.1:1: Connection refused"


async def why_told(url: str, port: int) -> str:
    """Return why the server on `port` cannot be used, if it is named as the primary."""

    async def locate(_: float | None) -> tuple[str, int]:
        return "127.0.0.1", port

    server = server_at(url, "{gateway}:")
    with pytest.raises(StoreUnavailable) as caught, translated(server.address):
        await server.connection(locate=locate).connect()  # type: ignore[no-untyped-call] # has no annotations
    return caught.value.detail
