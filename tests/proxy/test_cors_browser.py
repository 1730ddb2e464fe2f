"""A page of another origin in a real Chromium: what it may read, and what it may not."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page

from gateway.core.model import JSON
from tests import tokens
from tests.conftest import _Databases
from tests.harness import KEYLESS_ISSUER, House, open_house, token
from tests.sockets import Exchange, RawUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 31\r\n\r\n<!doctype html><title>a</title>"
)
FETCH: Final = """
    async ([url, options]) => {
        try {
            const response = await fetch(url, options);
            const text = await response.text();
            return {
                status: response.status,
                code: response.ok ? text : JSON.parse(text).code,
                retry_after: response.headers.get("retry-after"),
                challenge: response.headers.get("www-authenticate"),
                request_id: response.headers.get("x-request-id"),
                total: response.headers.get("x-total"),
                secret: response.headers.get("x-secret"),
            };
        } catch (error) {
            return {failed: error.name};
        }
    }
"""
FAILED: Final = {"failed": "TypeError"}


@dataclass
class Pages:
    """A gateway, and a browser with a page of an origin that it lists, and one of another."""

    house: House
    context: BrowserContext
    listed: Page
    other: Page

    async def fetch(
        self,
        page: Page,
        path: str,
        bearer: bytes | None = None,
        *,
        method: str = "GET",
        credentials: str = "omit",
        **headers: str,
    ) -> Mapping[str, JSON]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if bearer is not None:
            given["Authorization"] = f"Bearer {bearer.decode()}"
        options = {"method": method, "headers": given, "credentials": credentials}
        found = await page.evaluate(FETCH, [self.house.url + path, options])
        assert isinstance(found, dict)
        return found


@asynccontextmanager
async def a_page(browser: BrowserContext, server: RawUpstream) -> AsyncIterator[Page]:
    server.answer(PAGE)
    page = await browser.new_page()
    await page.goto(f"{server.url}/")
    yield page
    await page.close()


@pytest_asyncio.fixture(loop_scope="session")
async def pages(
    browser: Browser,
    _databases: _Databases,
    _template: str,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Pages]:
    async with (
        _databases.copy("gateway_cors", _template) as dsn,
        RawUpstream() as listed,
        RawUpstream() as other,
    ):
        cors: JSON = {"origins": [listed.url], "expose": ["X-Total"]}
        with_cookies: JSON = {"origins": [listed.url], "expose": ["X-Total"], "credentials": True}
        routes: list[JSON] = [
            {"name": "plain", "match": {"path": "/plain/**"}, "upstream": "raw", "cors": cors},
            {
                "name": "admin",
                "match": {"path": "/admin/**"},
                "upstream": "raw",
                "require": {"roles": ["admin"]},
                "cors": cors,
            },
            {
                "name": "cookies",
                "match": {"path": "/cookies/**"},
                "upstream": "raw",
                "credentials": {"cookie": "session"},
                "allowed_origins": [listed.url],
                "cors": with_cookies,
            },
            {
                "name": "cookies-admin",
                "match": {"path": "/cookies-admin/**"},
                "upstream": "raw",
                "credentials": {"cookie": "session"},
                "require": {"roles": ["admin"]},
                "cors": with_cookies,
            },
            {"name": "without", "match": {"path": "/without/**"}, "upstream": "raw"},
        ]
        folder = tmp_path_factory.mktemp("cors")
        async with open_house(folder, dsn, redis_url, routes=routes) as house:
            house.upstream.behave(_lenient)
            context = await browser.new_context()
            async with a_page(context, listed) as page, a_page(context, other) as other_page:
                yield Pages(house, context, page, other_page)
            await context.close()


async def _lenient(exchange: Exchange) -> None:
    """Answer as a service that would let pages of all origins read everything."""
    await exchange.read_body()
    await exchange.send(
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nX-Total: 7\r\nX-Secret: s\r\n"
        b"Content-Length: 2\r\n\r\nok"
    )


async def test_a_page_can_distinguish_the_answers(pages: Pages) -> None:
    good = await pages.fetch(pages.listed, "/plain/x", token(), method="PUT", X_Request_Id="")
    assert good == FAILED, "X-Request-Id is not among the headers that it may send"
    good = await pages.fetch(pages.listed, "/plain/x", token(), method="PUT", Content_Type="application/json")
    assert (good["status"], good["code"], good["total"], good["secret"]) == (200, "ok", "7", None)
    assert good["request_id"]
    missing = await pages.fetch(pages.listed, "/plain/x")
    assert (missing["status"], missing["code"]) == (401, "credentials_missing")
    assert missing["challenge"] == 'Bearer realm="gateway"'
    refused = await pages.fetch(pages.listed, "/admin/x", token())
    assert (refused["status"], refused["code"]) == (403, "role_missing")
    keyless = tokens.sign({**tokens.claims(), "iss": KEYLESS_ISSUER}, tokens.rsa_key("main"))
    ours = await pages.fetch(pages.listed, "/plain/x", keyless)
    assert (ours["status"], ours["code"]) == (503, "keys_unavailable")
    assert int(str(ours["retry_after"])) > 0
    # The page never asked for a preflight of its own; the browser did, and none reached the service.
    assert {request.line.split()[0] for request in pages.house.upstream.requests} == {b"PUT"}


async def test_a_page_of_another_origin_reads_nothing(pages: Pages) -> None:
    for path, bearer in (("/plain/x", token()), ("/plain/x", None), ("/admin/x", token())):
        assert await pages.fetch(pages.other, path, bearer) == FAILED
    for page in (pages.listed, pages.other):
        assert await pages.fetch(page, "/without/x", token()) == FAILED
    assert pages.house.upstream.requests == []


async def test_cookies_go_only_where_credentials_are_allowed(pages: Pages) -> None:
    await pages.context.add_cookies(
        [{"name": "session", "value": token().decode(), "url": f"{pages.house.url}/"}]
    )
    try:
        assert urlsplit(pages.house.url).port != urlsplit(pages.listed.url).port
        for method in ("GET", "DELETE"):
            good = await pages.fetch(pages.listed, "/cookies/x", credentials="include", method=method)
            assert (good["status"], good["code"], good["total"]) == (200, "ok", "7")
        omitted = await pages.fetch(pages.listed, "/cookies/x", credentials="omit")
        assert (omitted["status"], omitted["code"]) == (401, "credentials_missing")
        # With credentials, a response that does not allow them cannot be read.
        assert await pages.fetch(pages.listed, "/plain/x", credentials="include") == FAILED
        assert await pages.fetch(pages.other, "/cookies/x", credentials="include") == FAILED
        assert await pages.fetch(pages.other, "/cookies/x", credentials="include", method="DELETE") == FAILED
        refused = await pages.fetch(pages.listed, "/cookies-admin/x", credentials="include")
        assert (refused["status"], refused["code"]) == (403, "role_missing")
        keyless = tokens.sign({**tokens.claims(), "iss": KEYLESS_ISSUER}, tokens.rsa_key("main"))
        await pages.context.add_cookies(
            [{"name": "session", "value": keyless.decode(), "url": f"{pages.house.url}/"}]
        )
        ours = await pages.fetch(pages.listed, "/cookies/x", credentials="include")
        assert (ours["status"], ours["code"]) == (503, "keys_unavailable")
        assert int(str(ours["retry_after"])) > 0
    finally:
        await pages.context.clear_cookies()
    missing = await pages.fetch(pages.listed, "/cookies/x", credentials="include")
    assert (missing["status"], missing["code"]) == (401, "credentials_missing")
    # A GET of a page needs no preflight, so it reaches the service; what came back was not shown.
    methods = [request.line.split()[0] for request in pages.house.upstream.requests]
    assert methods == [b"GET", b"DELETE", b"GET"]
