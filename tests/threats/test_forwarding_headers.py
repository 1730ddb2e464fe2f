"""Threats: forwarding headers: only a trusted proxy may name the client and its request."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.harness import House, open_house, token

ALL = (
    b"X-Forwarded-For: 6.6.6.6",
    b"X-Forwarded-Uri: /public/forged",
    b"X-Forwarded-Method: FORGED",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: forged.example.com",
    b"X-Forwarded-Port: 6666",
    b"X-Forwarded-Prefix: /forged",
    b"X-Forwarded-Server: forged",
    b"X-Forwarded-Scheme: forged",
    b"X-Forwarded-Groups: forged",
    b"X-Real-IP: 6.6.6.6",
    b"Forwarded: for=6.6.6.6;host=forged.example.com;proto=https",
    b"X-Original-URL: /public/forged",
    b"X-Original-Method: FORGED",
    b"X-Original-Host: forged.example.com",
    b"X-Original-Proto: forged",
    b"X-Original-For: 6.6.6.6",
    b"X-Original-Forwarded-For: 6.6.6.6",
    b"X-Rewrite-URL: /public/forged",
    b"X-Request-Id: forged",
)
SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "as-it-is": bytes,
    "lower": bytes.lower,
    "underscores": lambda name: name.replace(b"-", b"_"),
    "dots": lambda name: name.replace(b"-", b"."),
}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("target", ["/private/x", "/optional/x", "/public/x"])
async def test_what_an_untrusted_peer_forwards_never_arrives(
    house: House, spell: Callable[[bytes], bytes], target: str
) -> None:
    def spelled(field: bytes) -> bytes:
        name, colon, value = field.partition(b":")
        return spell(name) + colon + value

    received = await house.forwarded(target, *map(spelled, ALL), token=token())
    assert b"forged" not in received.head.lower()
    assert b"6.6.6.6" not in received.head
    assert b": 6666\r" not in received.head
    assert received.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert received.values(b"x-forwarded-proto") == [b"http"]
    assert received.values(b"x-forwarded-host") == [b"gateway.test"]


@pytest.mark.asyncio(loop_scope="session")
async def test_what_an_untrusted_peer_forwards_chooses_no_rule(house: House) -> None:
    """The request itself is for a route that needs a token."""
    response = await house.request("/private/x", *ALL)
    assert (response.status, response.code) == (401, "credentials_missing")
    response = await house.request("/host/x", b"X-Forwarded-Host: internal.example.com")
    assert (response.status, response.code) == (404, "route_not_found")
    assert house.upstream.wires == []


@pytest.fixture
async def trusting(tmp_path: Path, dsn: str, redis_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, dsn, redis_url, server={"trusted_proxies": ["127.0.0.0/8"]}) as house:
        yield house


async def test_a_trusted_peer_is_believed_about_its_client_and_nothing_else(trusting: House) -> None:
    received = await trusting.forwarded("/private/x", *ALL, token=token())
    assert received.values(b"x-forwarded-for") == [b"6.6.6.6, 127.0.0.1"]
    assert received.values(b"x-forwarded-proto") == [b"https"]
    assert received.values(b"x-forwarded-host") == [b"forged.example.com"]
    assert received.values(b"x-request-id") == [b"forged"]
    # They name the client of X-Forwarded-For.
    assert received.values(b"x-real-ip") == [b"6.6.6.6"]
    assert received.values(b"forwarded") == [b"for=6.6.6.6;host=forged.example.com;proto=https"]
    for name in (b"x-original-url", b"x-original-method", b"x-rewrite-url"):
        assert received.values(name) == []


async def test_a_client_behind_a_trusted_proxy_does_not_choose_its_address(trusting: House) -> None:
    """The proxy has appended the address that it saw; it passes all else of the client on."""
    forged = (
        b"X-Forwarded-For: 6.6.6.6, 127.0.0.9, 198.51.100.4",
        b"X-Real-IP: 6.6.6.6",
        b"Forwarded: for=6.6.6.6",
    )
    received = await trusting.forwarded("/public/x", *forged)
    assert received.values(b"x-forwarded-for") == [b"6.6.6.6, 127.0.0.9, 198.51.100.4, 127.0.0.1"]
    assert received.values(b"x-real-ip") == received.values(b"forwarded") == []
    await trusting.request("/private/x", *forged)
    assert [event["client"] for event in trusting.events("request")] == ["198.51.100.4", "198.51.100.4"]
    assert [event["client"] for event in trusting.events("denied")] == ["198.51.100.4"]


@pytest.mark.asyncio(loop_scope="session")
async def test_a_client_without_a_trusted_proxy_is_logged_as_it_connected(house: House) -> None:
    await house.request("/private/x", b"X-Forwarded-For: 6.6.6.6", b"Forwarded: for=6.6.6.6")
    assert [event["client"] for event in house.events("denied")] == ["127.0.0.1"]


async def test_not_even_a_trusted_peer_chooses_the_route_by_a_header(trusting: House) -> None:
    response = await trusting.request("/private/x", *ALL)
    assert (response.status, response.code) == (401, "credentials_missing")
    response = await trusting.request("/host/x", b"X-Forwarded-Host: internal.example.com")
    assert (response.status, response.code) == (404, "route_not_found")


async def test_a_trusted_peer_cannot_pass_an_odd_spelling_on(trusting: House) -> None:
    received = await trusting.forwarded(
        "/private/x", b"X_Forwarded_For: 6.6.6.6", b"X.Forwarded.Host: forged.example.com", token=token()
    )
    assert b"6.6.6.6" not in received.head
    assert b"forged" not in received.head


@pytest.mark.parametrize("value", [b"a b", b"a" * 129, b"<script>", b'"a"', b""])
async def test_an_invalid_request_id_is_replaced(trusting: House, value: bytes) -> None:
    response = await trusting.request("/public/x", b"X-Request-Id: " + value)
    (received,) = trusting.upstream.requests
    (own,) = received.values(b"x-request-id")
    assert own != value
    assert response.field(b"x-request-id") == own
