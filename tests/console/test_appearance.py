"""How the console looks and reads: widths, colours, the keyboard, and screenshots of every page."""

import os
import re
import uuid
from pathlib import Path
from typing import Final, Literal

import pytest
from playwright.async_api import Browser, Page, expect

from gateway.core.model import JSON
from tests.console.conftest import opened
from tests.console.driver import Operator
from tests.console.test_paths import exhaust
from tests.harness import House, token

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES: Final = (
    "Overview", "Denials", "Explain", "Users", "Revocations", "Limits", "Issuers", "Audit",
    "Configuration", "Replay",
)  # fmt: skip

SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")

AXE: Final = Path(__file__).parents[1] / "node" / "node_modules" / "axe-core" / "axe.min.js"

# All rules of axe-core, those of best practice too.
FAULTS: Final = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
  .map(({id, help, nodes}) => `${id}: ${help}: ${nodes.map(({html}) => html.slice(0, 200)).join(" | ")}`)"""

UNREADABLE: Final = """() => {
  // The contrast of every text with what it stands on (WCAG 2.2, 1.4.3).
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => colour.slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = rgba(getComputedStyle(each).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const texts = [...element.childNodes].filter((node) => node.nodeType === 3);
    const text = texts.map((node) => node.data.trim()).join("");
    if (!text || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = rgba(element instanceof SVGElement ? style.fill : style.color);
    const [one, other] = [ink, ground(element)].map(luminance);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) found.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""

BROKEN: Final = """() => {
  // Words of up to 20 letters and digits that do not stand in one line.
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    if (!text.parentElement.checkVisibility()) continue;
    for (const { 0: word, index } of text.data.matchAll(/[\\p{L}\\p{N}_]{1,}/gu)) {
      const range = document.createRange();
      range.setStart(text, index);
      range.setEnd(text, index + word.length);
      const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (word.length <= 20 && lines.size > 1) found.push(word);
    }
  }
  return found;
}"""

REPLAYED: Final[JSON] = {
    "requests": 100_000, "changed": 3, "undecided": 31, "truncated": True, "unread": ["HS_SECRET"],
    "groups": [
        {
            "route": "orders", "before": before, "after": after, "count": count,
            "requests": [
                {
                    "method": "GET", "path": "/orders/a-path-that-is-rather-long/7",
                    "user": str(uuid.UUID(int=7)), "at": "2026-01-01T00:00:00Z", "detail": "missing: read",
                }
            ],
        }
        for before, after, count in (("allow", "scope_insufficient", 2), ("role_missing", "allow", 1))
    ],
}  # fmt: skip
"""What a replay may say: a real one takes seconds."""

UNNAMED: Final = """() => [...document.querySelectorAll("input, select, textarea, button, a")]
  .filter((element) => element.checkVisibility() && !element.closest("[hidden]"))
  .filter((element) => !element.labels?.length && !element.getAttribute("aria-label"))
  .filter((element) => !element.textContent.trim())
  .map((element) => element.outerHTML)"""


@pytest.mark.parametrize("width", [1280, 390])
async def test_every_page_fits_and_can_be_read(standing_console: House, browser: Browser, width: int) -> None:
    house = standing_console
    async with opened(browser, house, width=width) as operator:
        page = operator.page
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            await operator.screenshot(f"sign-in-{width}-{scheme}")
            await is_accessible(page)
        await operator.sign_in()
        for name in PAGES:
            for subject in ("member", "member", "ghost", "suspended", "pending"):
                await house.request(
                    f"/private/{name.lower()}/a-path-that-is-rather-long", token=token(subject)
                )
            await operator.go(name)
            await fill(operator, name)
            await looked_at(operator, name.lower(), width)
        await operator.open_user("member")
        await page.get_by_text("Edit", exact=True).click()
        await expect(page.get_by_role("region", name="Changes").locator("[aria-busy]")).to_have_count(0)
        await looked_at(operator, "user", width)
        await page.get_by_role("button", name="Revoke tokens").click()
        await looked_at(operator, "dialog", width)


async def fill(operator: Operator, name: str) -> None:
    """Bring a page to what there is to see on it."""
    page = operator.page
    if name == "Overview":
        await expect(page.locator("path.line.good").first).to_have_attribute("d", re.compile("^M.+L"))
    elif name == "Denials":
        await expect(operator.row("user_suspended").first).to_be_visible()
    elif name == "Explain":
        await operator.explain(token("Member").decode(), url="/orders/1")
    elif name == "Users":
        await expect(page.get_by_role("row").nth(2)).to_be_visible()
    elif name == "Revocations":
        await page.get_by_text("Revoke", exact=True).first.click()
        await page.get_by_label("What", exact=True).select_option("jti")
        await page.get_by_label("Issuer").select_option("main")
        await page.get_by_label("jti", exact=True).fill(uuid.uuid4().hex)
        await page.get_by_label("Reason (optional)").fill("sent to a wrong address")
        await page.get_by_role("button", name="Revoke", exact=True).click()
        await expect(page.get_by_text("The revocation counts in all gateways.")).to_be_visible()
    elif name == "Limits":
        await exhaust(operator.house)
        await page.reload()
        await page.get_by_label("Subject").fill("127.0.0.1")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("region", name="Refused now").get_by_role("row").nth(2)).to_be_visible()
    elif name == "Replay":
        await page.route("**/v1/replay", lambda route: route.fulfill(json=REPLAYED))
        await page.get_by_label("New configuration").fill("routes: []")
        await page.get_by_role("button", name="Replay", exact=True).click()
        await expect(page.get_by_role("heading", name="3 verdicts change")).to_be_focused()
    elif name == "Issuers":
        await expect(page.get_by_role("region", name="main")).to_be_visible()
    elif name == "Audit":
        await expect(page.get_by_role("row").nth(1)).to_be_visible()
    elif name == "Configuration":
        await page.get_by_role("searchbox").fill("issuer")
        await page.keyboard.press("Enter")
        await expect(operator.row("issuers[main].issuer")).to_be_visible()


async def looked_at(operator: Operator, name: str, width: int) -> None:
    """Look at a page in light and in dark: a scheme has colours of its own, and nothing else."""
    page = operator.page
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        # The denials of all tests before make a long page.
        await operator.screenshot(f"{name}-{width}-{scheme}", whole=name != "denials")
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert await page.evaluate(BROKEN) == []
        assert await page.evaluate(UNREADABLE) == []
        assert await page.evaluate(UNNAMED) == []
        assert await page.locator("h1").count() == 1
        if width == 1280:
            await is_accessible(page)


async def is_accessible(page: Page) -> None:
    """Let axe-core look, if npm has installed it: `npm ci --prefix tests/node`."""
    if not AXE.is_file():
        assert os.environ.get("GATEWAY_TEST_NODE") != "required", "axe-core is missing"
        return
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(AXE.read_text(encoding="utf-8"))
    assert await page.evaluate(FAULTS) == []


async def test_long_words_widen_no_page(operator: Operator) -> None:
    """A SQL client may write any: an address, a tenant, a reason."""
    page, house, word = operator.page, operator.house, "w" * 300
    await house.sql(
        "INSERT INTO users (status, email, display_name, tenant, roles)"
        " VALUES ('active', $1, $1, $1, ARRAY[$1])",
        word,
    )
    await house.sql(
        "INSERT INTO revocations (kind, issuer, value, revoked_at, reason, revoked_by)"
        " VALUES ('jti', 'main', $1, now(), $1, $1)",
        word,
    )
    try:
        for width in (1280, 1000, 760, 390):
            await page.set_viewport_size({"width": width, "height": 800})
            for name in ("Users", "Revocations"):
                await operator.go("Overview")
                await operator.go(name)
                await expect(page.get_by_role("row").filter(has_text=word).first).to_be_visible()
                wide = await page.evaluate("() => document.documentElement.scrollWidth")
                assert (name, width, wide) == (name, width, min(wide, width))
    finally:
        await house.sql("DELETE FROM users WHERE tenant = $1", word)
        await house.sql("DELETE FROM revocations WHERE value = $1", word)


async def test_the_keyboard_is_enough(operator: Operator) -> None:
    page = operator.page
    await page.reload()
    await expect(operator.heading("Overview")).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
    assert page.url.endswith("/console")

    await page.get_by_role("link", name="Overview").focus()
    for name in PAGES[1:4]:
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name=name)).to_be_focused()
    outline = "() => getComputedStyle(document.activeElement).outlineStyle"
    assert await page.evaluate(outline) == "solid"
    await page.keyboard.press("Enter")
    await expect(operator.heading("Users")).to_be_focused()
    await expect(page.get_by_role("link", name="Users")).to_have_attribute("aria-current", "page")

    await page.keyboard.press("Tab")
    await expect(page.get_by_role("searchbox")).to_be_focused()
    await page.keyboard.type("nobody at all")
    await page.keyboard.press("Enter")
    await expect(page.locator("#live")).to_have_text("No user found")


async def test_a_dialog_keeps_the_focus_and_gives_it_back(operator: Operator) -> None:
    page = operator.page
    await operator.open_user("member")
    opener = page.get_by_role("button", name="Delete")
    await opener.focus()
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Delete this user?")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(opener).to_be_focused()


async def test_landmarks_and_tables_have_names(operator: Operator) -> None:
    page = operator.page
    for landmark in ("banner", "navigation", "main"):
        await expect(page.get_by_role(landmark)).to_have_count(1)
    await operator.go("Users")
    table = page.get_by_role("table", name="Users")
    await expect(table.get_by_role("columnheader")).to_have_count(6)
    await expect(table.get_by_role("rowheader")).not_to_have_count(0)
    # The same on a narrow screen, where each row is laid out as a block.
    await page.set_viewport_size({"width": 390, "height": 800})
    await expect(table.get_by_role("columnheader")).to_have_count(6)
    await expect(table.get_by_role("rowheader")).not_to_have_count(0)


async def test_a_narrow_screen_shows_the_important_columns_first(
    standing_console: House, browser: Browser
) -> None:
    async with opened(browser, standing_console, width=390) as operator:
        page = operator.page
        await operator.sign_in()
        await operator.go("Explain")
        await operator.explain(token("Member").decode())
        passed = operator.row("signature").filter(has_text="pass")
        await expect(passed.get_by_text("it is valid")).to_be_visible()
        await expect(passed.get_by_text("a signature of key")).to_be_hidden()
        failed = operator.row("identity.postgres")
        await expect(failed.get_by_text("an active user")).to_be_visible()
        await page.set_viewport_size({"width": 1280, "height": 800})
        await expect(passed.get_by_text("a signature of key")).to_be_visible()


async def test_a_button_stands_right_below_its_fields_or_level_with_them(
    standing_console: House, browser: Browser
) -> None:
    async with opened(browser, standing_console, width=390) as operator:
        page = operator.page
        await operator.sign_in()
        await operator.open_user("member")
        hint = await page.get_by_text("Its configured name").bounding_box()
        link = await page.get_by_role("button", name="Link", exact=True).bounding_box()
        assert hint is not None
        assert link is not None
        assert 0 < link["y"] - hint["y"] - hint["height"] <= 16
        await operator.go("Denials")
        last = await page.get_by_label("Client", exact=True).bounding_box()
        button = await page.get_by_role("button", name="Filter").bounding_box()
        assert last is not None
        assert button is not None
        level = last["y"] == pytest.approx(button["y"], abs=1)
        assert level or 0 < button["y"] - last["y"] - last["height"] <= 16


@pytest.mark.parametrize("reduced", [True, False])
async def test_nothing_moves_with_reduced_motion(
    standing_console: House, browser: Browser, reduced: bool
) -> None:
    async with opened(browser, standing_console, reduced_motion=reduced) as operator:
        await operator.sign_in()
        await operator.go("Denials")
        await expect(operator.page.get_by_text("live", exact=True)).to_be_visible()
        path = f"/private/{uuid.uuid4().hex[:8]}"
        await standing_console.request(path, token=token("ghost"))
        cell = operator.row(path).get_by_role("cell").first
        await expect(cell).to_be_visible()
        name = await cell.evaluate("cell => getComputedStyle(cell).animationName")
        assert name == ("none" if reduced else "arrive")
