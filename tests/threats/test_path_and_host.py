"""Threats: path and host: the path that was matched is the path that is forwarded."""

import pytest

from tests.harness import House, token

pytestmark = pytest.mark.asyncio(loop_scope="session")

AMBIGUOUS = {
    "dot-segment": "/public/./x",
    "dot-dot": "/public/../private/x",
    "dot-dot-at-the-end": "/public/..",
    "dot-at-the-end": "/public/.",
    "dot-dot-encoded": "/public/%2e%2e/private/x",
    "dot-dot-half-encoded": "/public/.%2E/private/x",
    "dot-dot-encoded-twice": "/public/%252e%252e/private/x",
    "slash-encoded": "/public/..%2fprivate/x",
    "slash-encoded-in-capitals": "/public%2Fx",
    "slash-encoded-twice": "/public/%252f",
    "backslash": "/public\\..\\private\\x",
    "backslash-encoded": "/public/..%5cprivate/x",
    "nul-encoded": "/public/x%00.png",
    "line-end-encoded": "/public/x%0d%0aX-User-Id:%20forged",
    "empty-segment": "/public//x",
    "empty-segment-first": "//public/x",
    "empty-segment-before-dots": "/public//../private/x",
    "parameter": "/public;a=b/x",
    "parameter-with-dots": "/public/..;/private/x",
    "fragment": "/public/x#y",
    "fragment-with-path": "/public/x#/../private",
    "fragment-in-the-query": "/public/x?y#z",
    "percent-alone": "/public/%",
    "percent-with-one-digit": "/public/%4",
    "percent-without-digits": "/public/%zz",
    "percent-u": "/public/%u002e%u002e/private",
    "overlong-utf8-slash-raw": "/public/\xc0\xaf",
    "not-ascii": "/public/\xe9",
    "delete": "/public/\x7f",
    "not-ascii-in-the-query": "/public/x?\xe9",
    "asterisk": "*",
    "authority": "gateway.test:80",
    "no-slash": "public/x",
    "absolute-for-another-host": "http://internal.example.com/public/x",
    "absolute-with-user": "http://user@gateway.test/public/x",
    "absolute-with-other-port": "http://gateway.test:81/public/x",
    "absolute-with-other-scheme": "ftp://gateway.test/public/x",
    "absolute-with-dots": "http://gateway.test/public/../private/x",
    "absolute-without-host": "http:///public/x",
}


@pytest.mark.parametrize("target", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_a_target_that_can_be_read_two_ways_is_refused(house: House, target: str) -> None:
    method = "OPTIONS" if target == "*" else "GET"
    response = await house.request(target, method=method, token=token())
    assert (response.status, response.code) == (400, "request_malformed")
    assert house.upstream.wires == []


@pytest.mark.parametrize("octet", [*range(0x21), 0x7F])
async def test_no_control_or_space_passes_in_a_target(house: House, octet: int) -> None:
    response = await house.request(f"/public/a{chr(octet)}b")
    assert (response.status, response.code) == (400, "request_malformed")
    assert house.upstream.wires == []


FORWARDED = {
    "plain": ("/public/a/b", "/public/a/b"),
    "slash-at-the-end": ("/public/", "/public/"),
    "query": ("/public/x?a=1&b=%2F..%2f&c=//;#"[:-1], "/public/x?a=1&b=%2F..%2f&c=//;"),
    "empty-query": ("/public/x?", "/public/x?"),
    "two-question-marks": ("/public/x?a?b", "/public/x?a?b"),
    "encoded-question-mark": ("/public/x%3Fa=1", "/public/x%3Fa=1"),
    "encoded-hash": ("/public/x%23a", "/public/x%23a"),
    "encoded-space": ("/public/a%20b", "/public/a%20b"),
    "encoded-utf8": ("/public/%c3%a9", "/public/%C3%A9"),
    "encoded-letter": ("/%70ublic/x", "/public/x"),
    "encoded-percent": ("/public/100%25", "/public/100%25"),
    "reserved-characters": ("/public/a!$&'()*+,=:@b", "/public/a!$&'()*+,=:@b"),
    "absolute": ("http://gateway.test/public/x?y", "/public/x?y"),
    "absolute-in-capitals": ("HTTP://GATEWAY.TEST/public/x", "/public/x"),
    "three-dots": ("/public/...", "/public/..."),
    "dot-file": ("/public/.well-known/x", "/public/.well-known/x"),
}


@pytest.mark.parametrize(("target", "forwarded"), FORWARDED.values(), ids=FORWARDED)
async def test_the_path_that_was_matched_is_the_path_that_is_forwarded(
    house: House, target: str, forwarded: str
) -> None:
    received = await house.forwarded(target)
    assert received.target.decode() == forwarded


@pytest.mark.parametrize("target", ["/%70rivate/x", "/priv%61te/x", "/privat%65"])
async def test_an_encoded_letter_does_not_open_another_route(house: House, target: str) -> None:
    response = await house.request(target)
    assert (response.status, response.code) == (401, "credentials_missing")


@pytest.mark.parametrize("target", ["/PRIVATE/x", "/private%20/x", "/privatex", "/nowhere", "/"])
async def test_a_near_miss_is_no_route(house: House, target: str) -> None:
    response = await house.request(target, token=token())
    assert (response.status, response.code) == (404, "route_not_found")
    assert house.upstream.wires == []


@pytest.mark.parametrize(
    "host",
    [
        b"internal.example.com",
        b"INTERNAL.Example.com",
        b"internal.example.com:8443",
        b"internal.example.com.",
        b"internal.example.com:",
    ],
)
async def test_a_host_is_matched_without_case_port_and_dot(house: House, host: bytes) -> None:
    received = await house.forwarded("/host/x", b"Host: " + host)
    assert received.values(b"host") == [host]


@pytest.mark.parametrize(
    "host", [b"example.com", b"a.internal.example.com", b"internal.example.com.evil", b"internal_example_com"]
)
async def test_another_host_is_another_host(house: House, host: bytes) -> None:
    response = await house.request("/host/x", b"Host: " + host)
    assert (response.status, response.code) == (404, "route_not_found")


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: internal.example.com\r\nHost: gateway.test",
        b"Host: internal.example.com\r\nHost: internal.example.com",
        b"Host: internal.example.com, gateway.test",
        b"Host: internal.example.com/public",
        b"Host: user@internal.example.com",
        b"Host: internal.example.com:80:81",
        b"Host: internal.example.com:port",
        b"Host: internal.example.com#",
        b"Host: [::1",
        b"Host:",
        b"Host: a b",
    ],
)
async def test_a_host_that_can_be_read_two_ways_is_refused(house: House, fields: bytes) -> None:
    response = await house.request("/host/x", fields)
    assert (response.status, response.code) == (400, "request_malformed")
    assert house.upstream.wires == []


async def test_a_request_without_host_is_refused(house: House) -> None:
    for version in (b"1.0", b"1.1"):
        response = await house.exchange(b"GET /public/x HTTP/" + version + b"\r\n\r\n")
        assert (response.status, response.code) == (400, "request_malformed")
    assert house.upstream.wires == []
