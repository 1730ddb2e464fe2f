"""The attributes of HTTP spans: few names, no secrets, whatever a client sends."""

import pytest

from gateway.telemetry.tracing.http import server_attributes, span_name


@pytest.mark.parametrize(
    ("method", "route", "name"),
    [
        ("GET", None, "GET"),
        ("GET", "/orders/**", "GET /orders/**"),
        ("PROPFIND", "/dav/**", "HTTP /dav/**"),
        ("get", None, "HTTP"),
    ],
)
def test_names_are_few(method: str, route: str | None, name: str) -> None:
    assert span_name(method, route) == name


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        (b"api.example.com", "api.example.com", None),
        (b"api.example.com:8443", "api.example.com", 8443),
        (b"[::1]:80", "::1", 80),
        (b"[::1", None, None),
        (b"a:b", None, None),
        (b"", None, None),
    ],
)
def test_the_server_is_that_of_the_host_field(host: bytes, address: str | None, port: int | None) -> None:
    headers = ((b"Host", host), (b"User-Agent", b"curl/8"), (b"Authorization", b"Bearer secret"))
    attributes = server_attributes(
        "BREW", "/pot?secret", headers, "https", "192.0.2.1", "10.0.0.1", modern=False
    )
    expected = {
        "http.request.method": "_OTHER",
        "http.request.method_original": "BREW",
        "url.scheme": "https",
        "url.path": "/pot",
        "client.address": "192.0.2.1",
        "network.peer.address": "10.0.0.1",
        "network.protocol.version": "1.0",
        "user_agent.original": "curl/8",
    }
    if address is not None:
        expected["server.address"] = address
    assert attributes == expected | ({} if port is None else {"server.port": port})
