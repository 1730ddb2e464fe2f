"""`gateway check --live`: clocks, certificates and TLS, against servers with something wrong."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from gateway.cli.check import network
from gateway.cli.check.clock import IssuerClock, difference_noted
from gateway.cli.check.result import CheckResult
from gateway.core.model import JSON
from gateway.settings import Settings
from tests import tokens
from tests.test_app import self_signed

WELL = CheckResult("issuer:main", "pass", "1 usable key")


def settings(**changes: JSON) -> Settings:
    return Settings.model_validate(
        {
            "issuers": [
                {
                    "name": "main",
                    "issuer": "https://idp.example.com/",
                    "audiences": ["api"],
                    "keys": {"jwks_uri": "http://127.0.0.1:1/"},
                }
            ],
            "postgres": {"dsn": "postgresql://127.0.0.1/none"},
            "redis": {"url": "redis://127.0.0.1"},
            "upstreams": {"echo": {"urls": ["http://127.0.0.1:1"]}},
            "routes": [{"name": "all", "match": {"path": "/**"}, "upstream": "echo"}],
            **changes,
        }
    )


async def result(name: str, **changes: JSON) -> CheckResult:
    (check,) = [each for each in network.checks(settings(**changes)) if each.name == name]
    return await check.run()


# Clocks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "age", "outcome", "text"),
    [
        (0, None, "pass", ""),
        (3, None, "pass", ""),
        (-3, None, "pass", ""),
        (12, None, "warn", "ahead of this machine's"),
        (-12, None, "warn", "behind this machine's"),
        (90, None, "fail", "more than `leeway` (30 s)"),
        (-90, None, "fail", "more than `leeway` (30 s)"),
        # An answer from a cache is as old as it says; what is left may be the cache's fault.
        (-3600, 3600, "pass", ""),
        (-3600, 0, "warn", "behind"),
    ],
)
def test_a_clock_that_differs(ahead: float, age: int | None, outcome: str, text: str) -> None:
    now = time.time()
    headers = {"Date": formatdate(now + ahead, usegmt=True)} | ({} if age is None else {"Age": str(age)})
    clock = IssuerClock()
    clock.heard(headers, now - 0.2)
    found = clock.judged(WELL, leeway=30.0)
    assert (found.outcome, text in found.found) == (outcome, True)
    assert (found.fix is None) == (outcome == "pass")


@pytest.mark.parametrize(
    "headers", [{}, {"Date": "today"}, {"Date": "Mon, 30 Nov 2026 15:00:00 GMT", "Age": "x"}]
)
def test_a_clock_that_cannot_be_read_says_nothing(headers: Mapping[str, str]) -> None:
    clock = IssuerClock()
    clock.heard(headers, time.time())
    assert clock.judged(WELL, leeway=30.0) is WELL


def test_a_failed_check_is_not_changed_by_the_clock() -> None:
    clock, failed = IssuerClock(), CheckResult("issuer:main", "fail", "no answer", "start it")
    clock.heard({"Date": formatdate(time.time() + 90, usegmt=True)}, time.time())
    assert clock.judged(failed, leeway=30.0) is failed


@pytest.mark.parametrize(("ahead", "said"), [(0.2, False), (-4.9, False), (6.0, True), (-60.0, True)])
def test_the_clock_of_a_database(ahead: float, *, said: bool) -> None:
    assert (difference_noted(ahead) is not None) is said


@pytest.mark.parametrize(("ahead", "outcome"), [(0, "pass"), (600, "fail")])
async def test_an_issuers_answer_shows_its_clock(ahead: float, outcome: str) -> None:
    body = json.dumps({"keys": [tokens.rsa_key("main").jwk()]}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        date = formatdate(time.time() + ahead, usegmt=True)
        head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        issuer: JSON = {"name": "main", "issuer": "i", "audiences": ["api"], "keys": {"jwks_uri": url}}
        found = await result("issuer:main", issuers=[issuer])
    assert (found.outcome, found.found.startswith("1 usable key")) == (outcome, True), found


# Certificates --------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(files: Mapping[str, str] | None) -> AsyncIterator[int]:
    """Listen with TLS or without; yield the port."""
    tls = None
    if files is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(files["certificate"], files["key"])

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("secured", "trusted", "text"),
    [
        (True, False, "its certificate is not trusted"),
        (True, True, "its certificate expires on"),
        (False, True, "TLS cannot be established"),
    ],
    ids=["not trusted", "expires", "no TLS"],
)
async def test_an_upstream_is_tried_with_tls(
    tmp_path: Path, text: str, *, secured: bool, trusted: bool
) -> None:
    files = self_signed(tmp_path)
    async with serving(files if secured else None) as port:
        upstream: dict[str, JSON] = {"urls": [f"https://127.0.0.1:{port}"]}
        if trusted:
            upstream["tls"] = {"ca": files["certificate"]}
        found = await result("upstream:echo", upstreams={"echo": upstream})
    assert (found.outcome, text in found.found) == ("warn", True), found
    assert found.fix is not None


async def test_the_own_certificate(tmp_path: Path) -> None:
    files = self_signed(tmp_path)
    found = await result("server.tls", server={"tls": dict(files)})
    assert (found.outcome, "expires on" in found.found, found.fix) == ("warn", True, "renew it")
    (tmp_path / "other.pem").write_bytes(tokens.ec_key("other").private_pem())
    found = await result("server.tls", server={"tls": {**files, "key": str(tmp_path / "other.pem")}})
    assert (found.outcome, found.fix) == ("fail", "give the key of this certificate")
