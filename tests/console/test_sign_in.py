"""Signing in by OpenID Connect: Chromium, the gateway and the provider (npm's oidc-provider) are real."""

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, expect

from gateway.core.model import JSON
from tests.console.conftest import opened
from tests.console.test_appearance import PAGES, is_accessible
from tests.console.test_console import user
from tests.harness import House, open_house, unused_port
from tests.node.issuers import running

REFUSED: Final = """async () => {
  // What each operation that changes something answers to a viewer who sends it without the page.
  const { paths } = await (await fetch("v1/openapi.json")).json();
  const changes = Object.entries(paths).flatMap(([path, item]) => Object.keys(item)
    .filter((method) => method !== "get" && path !== "/explain")
    .map((method) => [method.toUpperCase(), path]));
  const headers = { "X-Gateway-Console": "1", "Content-Type": "application/json" };
  const status = async (method, path) => {
    const place = path.replace(/{[^}]*}/g, "00000000-0000-4000-8000-000000000000");
    return (await fetch(`v1${place}`, { method, headers, body: "{}" })).status;
  };
  return Object.fromEntries(await Promise.all(changes.map(
    async ([method, path]) => [`${method} ${path}`, await status(method, path)])));
}"""

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_people_sign_in_at_their_provider(
    standing_console: House, browser: Browser, tmp_path: Path
) -> None:
    port, console = unused_port(), f"http://127.0.0.1:{unused_port()}"
    oidc: dict[str, JSON] = {
        "issuer": f"http://127.0.0.1:{port}",
        "client_id": "gateway-console",
        "client_secret": "the secret of the console: 100 %",
        "redirect_uri": f"{console}/console/callback",
        "roles": {"claim": "groups", "viewer": ["gateway-viewers"], "operator": ["gateway-operators"]},
    }
    admin: dict[str, JSON] = {"listen": urlsplit(console).netloc, "oidc": oidc}
    stores = standing_console.dsn, standing_console.redis_url
    async with (
        running("console_provider.mjs", {"redirect_uri": oidc["redirect_uri"], "port": port}) as provider,
        open_house(tmp_path, *stores, seeded=False, admin=admin) as house,
    ):
        async with opened(browser, house, also=port) as ada:
            page = ada.page
            subject = await user(house, name="Grace of the sign-in")
            await page.evaluate("() => { location.hash = '#/users?q=Grace*(\u00e9)'; }")
            await is_accessible(page)
            await page.get_by_role("link", name="Sign in with OpenID Connect").click()

            await expect(ada.heading("Users")).to_be_visible()
            assert page.url == f"{console}/console#/users?q=Grace*%28%C3%A9%29"
            await expect(page.get_by_role("banner")).to_contain_text("Ada Lovelace (operator)")
            kept = "() => [document.cookie, {...sessionStorage}, {...localStorage}]"
            assert await page.evaluate(kept) == ["", {}, {}]
            await ada.open_user(subject)
            await ada.refuse("Suspend", "a test of the sign-in")
            await expect(page.get_by_role("region", name="Changes")).to_contain_text(
                "oidc:ada (Ada Lovelace)"
            )
            await page.reload()
            await expect(ada.heading("Grace of the sign-in")).to_be_visible()
            await ada.go("Denials")
            await expect(page.get_by_text("live", exact=True)).to_be_visible()
            # The end of a session, as the browser sees it.
            await page.context.clear_cookies()
            await expect(ada.heading("Sign in")).to_be_visible()
            await expect(page.get_by_role("alert")).to_contain_text("the session has ended")
            await page.get_by_role("link", name="Sign in with OpenID Connect").click()
            await expect(ada.heading("Denials")).to_be_visible()
            await page.get_by_role("button", name="Sign out").click()
            await expect(ada.heading("Sign in")).to_be_visible()
            await page.reload()
            await expect(ada.heading("Sign in")).to_be_visible()

        await provider.call("/as", sub="vic", name="Vic", groups=["gateway-viewers"])
        async with opened(browser, house, also=port) as vic:
            page = vic.page
            await page.get_by_role("link", name="Sign in with OpenID Connect").click()
            await expect(page.get_by_role("banner")).to_contain_text("Vic (viewer)")
            await expect(page.get_by_role("button", name="Flush caches")).to_have_count(0)
            for name in PAGES:
                await vic.go(name)
            await expect(page.get_by_text("This needs the role of an operator")).to_be_visible()
            await vic.open_user(subject)
            await expect(page.get_by_role("region", name="Changes")).to_contain_text("a test of the sign-in")
            assert await page.locator("button:visible").all_inner_texts() == ["Sign out"]
            refused = await page.evaluate(REFUSED)
            assert len(refused) > 10
            assert {name: status for name, status in refused.items() if status != 403} == {}

        await provider.call("/as", sub="eve", name="Eve", groups=["others"])
        async with opened(browser, house, also=port) as eve:
            await eve.page.get_by_role("link", name="Sign in with OpenID Connect").click()
            await expect(eve.heading("Sign-in failed")).to_be_visible()
            await expect(eve.page.get_by_text("have no role in this console")).to_be_visible()
            await is_accessible(eve.page)
            await eve.page.get_by_role("link", name="Back to the console").click()
            await expect(eve.heading("Sign in")).to_be_visible()
