"""A real Chromium in front of a real gateway."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from gateway.core.model import JSON
from tests.conftest import _Databases
from tests.console.driver import Operator
from tests.harness import House, open_house

ADMIN_TOKEN = "the-token-of-this-test"
LIMITS: Final[list[JSON]] = [
    {"name": "tenants", "per": "user", "rate": "3/1h", "routes": ["tenant"]},
    {"name": "trial", "per": "user", "rate": "1/1h", "routes": ["leave"], "mode": "shadow"},
    {"name": "guessing", "per": "client", "rate": "2/1h", "routes": ["admin"], "counts": "failed"},
    {"name": "keys", "per": "kid", "rate": "1/1h", "routes": ["orders"], "counts": "failed"},
    {"name": "uploads", "per": "user", "concurrency": 4, "routes": ["orders"]},
    {"name": "monthly", "per": "tenant", "quota": "100000/month", "time_zone": "Europe/Berlin"},
]


def chromium() -> str:
    """Return the browser's path, or skip the test."""
    for name in (os.environ.get("GATEWAY_TEST_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    pytest.skip("there is no Chromium: apt-get install chromium, or name one in GATEWAY_TEST_CHROMIUM")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    # Chromium's sandbox refuses to run as root, which containers mostly do.
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=args)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_console(
    browser: Browser,
    _databases: _Databases,
    _template: str,
    standing_redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    """A gateway whose admin API is on; after the browser, without which it is not needed."""
    async with (
        _databases.copy("gateway_console", _template) as dsn,
        open_house(
            tmp_path_factory.mktemp("console"),
            dsn,
            standing_redis_url,
            admin={"token": ADMIN_TOKEN},
            limits=LIMITS,
        ) as house,
    ):
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def operator(standing_console: House, browser: Browser) -> AsyncIterator[Operator]:
    """A signed-in user with a wide screen."""
    async with opened(browser, standing_console) as operator:
        await operator.sign_in()
        yield operator


@asynccontextmanager
async def opened(
    browser: Browser,
    house: House,
    *,
    width: int = 1280,
    reduced_motion: bool = False,
    zone: str | None = None,
    also: int | None = None,
) -> AsyncIterator[Operator]:
    """Open the console; at the end nothing may have gone wrong in the page.

    `also` is the port of a provider to which the page may lead.
    """
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        reduced_motion="reduce" if reduced_motion else "no-preference",
        timezone_id=zone,
    )
    page = await context.new_page()
    wrong: list[str] = []
    _watch(page, house, wrong, also)
    await page.goto(f"{house.admin_url}/console")
    yield Operator(page, house, ADMIN_TOKEN)
    await context.close()
    assert wrong == []


def _watch(page: Page, house: House, wrong: list[str], also: int | None) -> None:
    """Note what a script did not catch, what the policy refused, and each request to elsewhere."""
    here = {urlsplit(house.admin_url).netloc, f"127.0.0.1:{also}"}
    page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
    page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    page.on(
        "console",
        lambda message: (
            wrong.append(f"console: {message.text}")
            # Chromium reports every status of 400 and above; some tests are about those.
            if message.type in {"error", "warning"} and "Failed to load resource" not in message.text
            else None
        ),
    )
    page.on(
        "request",
        lambda request: (
            wrong.append(f"elsewhere: {request.url}") if urlsplit(request.url).netloc not in here else None
        ),
    )
