"""A user of the console in tests."""

from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Locator, Page, expect

from tests.harness import House

ARTIFACTS = Path(__file__).parents[2] / "artifacts" / "console"
"""Where screenshots are kept; git ignores it."""


@dataclass(frozen=True)
class Operator:
    page: Page
    house: House
    token: str

    async def sign_in(self) -> None:
        await self.page.get_by_label("Admin token").fill(self.token)
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.heading("Overview")).to_be_visible()

    def heading(self, name: str) -> Locator:
        return self.page.get_by_role("heading", level=1, name=name, exact=True)

    async def go(self, page: str) -> None:
        """Follow the link of that name in the navigation."""
        await self.page.get_by_role("navigation").get_by_role("link", name=page).click()
        await expect(self.heading(page)).to_be_focused()

    async def open_user(self, subject: str) -> None:
        [row] = await self.house.sql("SELECT user_id FROM identities WHERE subject = $1", subject)
        await self.page.evaluate("id => { location.hash = `#/users/${id}`; }", str(row["user_id"]))
        await expect(
            self.page.get_by_role("cell", name=subject, exact=True).or_(
                self.page.get_by_role("rowheader", name=subject, exact=True)
            )
        ).to_be_visible()

    async def explain(self, token: str, *, url: str = "") -> None:
        await self.page.get_by_label("Token", exact=True).fill(token)
        await self.page.get_by_label("URL or path").fill(url)
        await self.page.get_by_role("button", name="Explain").click()
        await expect(
            self.page.get_by_role("region", name="Answer").get_by_role("heading").first
        ).to_be_focused()

    def row(self, text: str) -> Locator:
        return self.page.get_by_role("row").filter(has_text=text)

    async def confirm(self, verb: str) -> None:
        await self.page.get_by_role("dialog").get_by_role("button", name=verb).click()
        await expect(self.page.get_by_role("dialog")).to_have_count(0)

    async def refuse(self, verb: str, reason: str = "a test") -> None:
        """Suspend or lock the user whose page is shown."""
        await self.page.get_by_role("button", name=verb).click()
        await self.page.get_by_role("dialog").get_by_label("Reason").fill(reason)
        await self.confirm(verb)

    async def screenshot(self, name: str, *, whole: bool = True) -> None:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=whole)
