"""The ways of an operator through the console: from a complaint to its end, and links that can be shared."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Browser, Request, Route, expect

from tests import tokens
from tests.cli.test_replay_pasted import CONFIGURATION, line
from tests.console.conftest import opened
from tests.console.driver import Operator
from tests.console.test_console import answered, user
from tests.harness import House, token

HOSTILE_KID: Final = "\u202eevil<img src=x onerror=window.xss=1>" + "k" * 20
XSS_PATH: Final = "<img/src=x/onerror=window.xss=1>"

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_from_a_denial_to_the_user_and_its_changes(operator: Operator) -> None:
    page, house = operator.page, operator.house
    subject = await user(house, name=f"Path {uuid.uuid4().hex[:8]}")
    await answered(house, 200, token(subject))
    await operator.open_user(subject)
    await page.get_by_role("button", name="Suspend").click()
    dialog = page.get_by_role("dialog", name="Suspend this user?")
    await dialog.get_by_role("button", name="Suspend").click()
    await expect(dialog).to_be_visible()  # without a reason, nothing happens
    await dialog.get_by_label("Reason").fill("laptop stolen")
    await operator.confirm("Suspend")
    await expect(page.get_by_text("The user is suspended.")).to_be_visible()
    changes = page.get_by_role("region", name="Changes")
    await expect(changes).to_contain_text("laptop stolen")
    await expect(changes).to_contain_text("api@127.0.0.1")
    await answered(house, 401, token(subject))

    refused = await house.request("/private/from-here", token=token(subject))
    request_id = str(refused.problem["request_id"])
    await operator.go("Denials")
    await operator.row(request_id).get_by_role("link", name=request_id).click()
    answer = page.get_by_role("region", name="Answer")
    request = answer.locator(".panel", has=page.get_by_role("heading", name="The request"))
    await expect(request).to_contain_text("GET /private/from-here")
    await request.get_by_role("link", name=re.compile("^[0-9a-f-]{36}$")).click()

    await expect(page.get_by_role("heading", level=1, name=re.compile("^Path "))).to_be_visible()
    recent = page.get_by_role("region", name="Recent denials")
    await expect(recent).to_contain_text("/private/from-here")
    await recent.get_by_role("link", name="All denials of this user").click()
    await expect(operator.heading("Denials")).to_be_visible()
    await expect(operator.row(request_id)).to_be_visible()
    assert "#/denials?user_id=" in page.url


async def test_an_address_has_no_token_of_a_url(operator: Operator) -> None:
    """A route may take tokens from the query: the URL of such a request has one."""
    raw = token().decode()
    await operator.go("Explain")
    await operator.explain(raw, url=f"https://ann:{raw}@api.example.com/browser/x?access_token={raw}")
    assert raw not in operator.page.url
    assert operator.page.url.endswith("#/explain?url=https%3A%2F%2Fapi.example.com%2Fbrowser%2Fx")


async def test_an_explained_token_leads_to_its_user(operator: Operator) -> None:
    await operator.go("Explain")
    await operator.explain(token("locked").decode())
    answer = operator.page.get_by_role("region", name="Answer")
    links = await answer.get_by_role("link").all_inner_texts()
    assert len(links) >= 2
    assert len(set(links)) == 1
    await answer.get_by_role("link").first.click()
    await expect(operator.heading("locked@example.org")).to_be_visible()


async def test_a_pasted_token_is_revoked_and_kept_nowhere(operator: Operator) -> None:
    page, house = operator.page, operator.house
    bearer = token(jti=uuid.uuid4().hex)
    await answered(house, 200, bearer)
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request))
    await operator.go("Revocations")
    await page.get_by_text("Revoke", exact=True).first.click()
    await page.get_by_label("Token", exact=True).fill(f"Bearer {bearer.decode()}")
    await page.get_by_label("Reason (optional)").fill("posted in a chat")
    await page.get_by_role("button", name="Revoke", exact=True).click()
    await expect(page.get_by_text("The revocation counts in all gateways.")).to_be_visible()
    await expect(operator.row("posted in a chat").first).to_contain_text("one token")
    await answered(house, 401, bearer)

    raw = bearer.decode()
    kept = await page.evaluate(
        "() => [document.documentElement.outerHTML, location.href, JSON.stringify({...sessionStorage}),"
        " JSON.stringify({...localStorage}),"
        " ...[...document.querySelectorAll('textarea, input')].map((field) => field.value)]"
    )
    assert raw not in "".join(kept)
    assert not any(raw in request.url for request in sent)
    assert sum(raw in (request.post_data or "") for request in sent) == 1


async def test_every_view_has_an_address(standing_console: House, browser: Browser) -> None:
    """A link that another operator sends shows the same, once its reader has signed in."""
    async with opened(browser, standing_console) as operator:
        page = operator.page
        shown = {
            "#/overview?range=6h": page.get_by_role("button", name="6 hours", pressed=True),
            "#/denials?reason=user_locked&since=2099-01-01T00%3A00%3A00.000Z": page.get_by_label("Since"),
            "#/explain?method=POST&url=%2Forders": page.get_by_label("URL or path"),
            "#/users?q=member&status=active": page.get_by_role("searchbox"),
            "#/revocations?expired=true": page.get_by_label("Show expired revocations"),
            "#/explain?url=https%3A%2F%2Fapi.example.com%2Forders": page.get_by_label("URL or path"),
            "#/limits?limit=tenants&subject=ann": page.get_by_label("Subject"),
            "#/denials?route=leave&shadow=true": page.get_by_label("Route"),
            "#/audit?target=caches": page.get_by_label("What was changed"),
            "#/configuration?q=admin.token": page.get_by_text("***"),
        }
        await operator.sign_in()
        for address, sign in shown.items():
            await page.evaluate("hash => { location.hash = hash; }", address)
            await expect(sign).to_be_visible()
            assert page.url.endswith(address)
            if (await sign.count()) and await sign.evaluate("e => e.matches('input:not([type=checkbox])')"):
                await expect(sign).not_to_have_value("")
        assert operator.token not in page.url


async def exhaust(house: House) -> None:
    """Go over a limit of a user, over one of failed authentications, and over one in shadow."""
    bearer = token("acme", tenant_id="acme")
    for number in range(4):
        await house.request("/tenant/x", token=bearer)
        await house.request("/leave/tried", token=bearer)
        await house.request("/admin/x", token=f"a.guess.{number}{uuid.uuid4().hex}".encode())
        forged = tokens.sign(tokens.claims("acme", jti=uuid.uuid4().hex), tokens.rsa_key(HOSTILE_KID))
        await house.request("/orders/x", token=forged)


async def test_limits_show_refused_subjects_until_an_operator_resets_a_budget(operator: Operator) -> None:
    page, house = operator.page, operator.house
    await exhaust(house)
    [row] = await house.sql("SELECT user_id::text FROM identities WHERE subject = 'acme'")
    acme = str(row["user_id"])
    await operator.go("Limits")
    now = page.get_by_role("region", name="Refused now")
    await expect(now.get_by_role("row").filter(has_text="127.0.0.1")).to_contain_text(
        "failed authentications"
    )
    refused = now.get_by_role("row").filter(has_text=acme)
    await expect(refused.filter(has_text="3 in 60 min")).to_contain_text("tenants")
    await expect(refused.filter(has_text="trial")).to_contain_text("in shadow")
    every = page.get_by_role("region", name="All limits")
    await expect(every.get_by_role("row").filter(has_text="100,000 a month, Europe/Berlin")).to_be_visible()
    await expect(every.get_by_role("row").filter(has_text="trial")).to_contain_text("passed in shadow")
    spent = page.get_by_role("region", name="Budgets spent most")
    await expect(spent.get_by_role("row").filter(has_text="tenants")).to_contain_text("3 of 3")
    # Clients choose the name of a key: it is text, and what turns a text around is seen.
    await expect(now.get_by_role("row").filter(has_text=r"\u202eevil<img src=x")).to_be_visible()
    assert await page.evaluate("() => window.xss") is None

    await page.get_by_role("button", name=f"Give {acme} its budget of tenants anew").click()
    await page.get_by_role("dialog").get_by_label("Reason").fill("a customer's launch")
    await operator.confirm("Give anew")
    await expect(page.get_by_role("status").filter(has_text="given anew")).to_be_focused()
    await expect(refused.filter(has_text="3 in 60 min")).to_have_count(0)
    await page.get_by_label("Subject").fill(acme)
    await page.get_by_label("Limit", exact=True).select_option("tenants")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("region", name="One budget")).to_contain_text("3 of 3")

    # What passed in shadow is listed apart, and leads to an explanation that does not call it denied.
    await operator.go("Denials")
    await page.get_by_label("Verdict").select_option("true")
    await page.get_by_role("button", name="Filter").click()
    passed = operator.row("/leave/tried").first
    await expect(passed).to_contain_text("passed in shadow, else 429")
    await passed.get_by_role("link").last.click()
    answer = page.get_by_role("region", name="Answer")
    await expect(answer.get_by_role("heading", name="Allowed")).to_be_visible()
    await expect(answer).to_contain_text("because of mode: shadow, and was counted")
    await expect(page.locator("tbody tr[data-id]")).to_have_count(1)
    assert "shadow=true" in page.url


async def test_a_new_configuration_is_tried_on_recorded_requests(operator: Operator, tmp_path: Path) -> None:
    page = operator.page
    await operator.go("Replay")
    configuration = page.get_by_label("New configuration")
    answer = page.get_by_role("region", name="Answer")
    replay = page.get_by_role("button", name="Replay", exact=True)
    await configuration.fill(CONFIGURATION)
    await replay.click()
    await expect(answer).to_contain_text("There are no recorded requests")
    records = tmp_path / "some.jsonl"
    records.write_text("<img src=x onerror=alert(1)>")
    await page.get_by_label("Recorded file").set_input_files(records)
    await replay.click()
    await expect(answer).to_contain_text("The first line is no record")

    records.write_text(
        "".join(line(number) for number in range(8)).replace("/orders/2", f"/orders/{XSS_PATH}")
    )
    await page.get_by_label("Recorded file").set_input_files(records)
    await replay.click()
    # Another process starts for it.
    await expect(answer.get_by_role("heading", name="4 verdicts change")).to_be_focused(timeout=60_000)
    group = answer.get_by_role("region", name="orders: allow to role_missing")
    await expect(group.get_by_role("row")).to_have_count(5)
    await expect(group).to_contain_text(XSS_PATH)
    await expect(answer).to_contain_text("HS_SECRET")
    assert "issuers:" not in page.url
    assert await page.evaluate("() => window.xss") is None


async def test_the_audit_log_is_filtered_and_leads_to_users(operator: Operator) -> None:
    page = operator.page
    await page.get_by_role("button", name="Flush caches").click()
    await operator.confirm("Flush")
    await operator.go("Audit")
    await page.get_by_label("What was changed").fill("caches")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("row").nth(1)).to_contain_text("caches.flush")
    assert page.url.endswith("#/audit?target=caches")


async def test_the_configuration_is_shown_without_secrets(operator: Operator) -> None:
    page = operator.page
    await operator.go("Configuration")
    await page.get_by_role("searchbox").fill("admin.")
    await page.keyboard.press("Enter")
    await expect(operator.row("admin.token")).to_contain_text("***")
    assert operator.token not in await page.content()
    await page.get_by_role("searchbox").fill("cache.local_ttl")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("No setting matches.")).to_be_visible()
    await page.get_by_label("Show defaults, too").check()
    await expect(operator.row("cache.local_ttl")).to_contain_text("30s default")


async def test_times_are_in_the_zone_that_the_reader_chose(standing_console: House, browser: Browser) -> None:
    """The browser of the tests is in Kolkata, five and a half hours ahead of UTC."""
    async with opened(browser, standing_console, zone="Asia/Kolkata") as operator:
        page = operator.page
        await operator.sign_in()
        choice = page.get_by_label("Time zone of all times")
        await expect(choice.locator("option:checked")).to_have_text("Local, UTC+5:30")
        await page.evaluate("() => { location.hash = '#/denials?since=2020-06-01T20:00:00Z'; }")
        since = page.get_by_label("Since")
        await expect(since).to_have_value("2020-06-02T01:30")
        await standing_console.request(f"/private/{uuid.uuid4().hex[:8]}", token=token("ghost"))
        shown = page.locator("tbody time").first
        local = await shown.inner_text()

        await choice.select_option("utc")

        await expect(since).to_have_value("2020-06-01T20:00")
        await expect(page.locator(".zone").first).to_have_text("UTC")
        assert await shown.inner_text() != local
        await page.get_by_role("button", name="Filter").click()
        await expect(page).to_have_url(re.compile("since=2020-06-01T20%3A00%3A00.000Z"))
        await page.reload()
        await expect(choice).to_have_value("utc")


async def test_charts_have_a_past_when_they_are_opened(operator: Operator) -> None:
    page = operator.page
    await operator.house.request("/private/x", token=token("locked"))
    now = datetime.now(UTC)
    asked: list[str] = []

    async def past(route: Route) -> None:
        asked.append(route.request.url)
        points = [
            {
                "at": (now - timedelta(minutes=ago)).isoformat(), "seconds": 60.0, "requests": {"2xx": 6000},
                "denials": {"user_locked": 7}, "lookups": {"local": 6000}, "latency": [6000, *[0] * 15],
            }
            for ago in (200, 100, 3, 2, 1)
        ]  # fmt: skip
        await route.fulfill(json={"bounds": [0.0005 * 2**n for n in range(15)], "points": points})

    await page.route("**/v1/history*", past)
    await page.reload()
    requests = page.get_by_role("img", name=re.compile("^Requests: "))
    await expect(requests.locator("path.line.good").first).to_have_attribute("d", re.compile("^M.+L.+L"))
    await page.get_by_role("button", name="6 hours").click()
    await expect(requests).to_have_attribute("aria-label", re.compile("answered 2xx 100,"))
    await expect(requests.locator("text").filter(has_text="3 h ago,")).to_be_visible()
    await expect(
        page.get_by_role("region", name="Denials by reason").get_by_text("Last 6 hours")
    ).to_be_visible()
    assert [re.sub(".*history", "", url) for url in asked] == ["?minutes=6&step=1", "?minutes=360&step=5"]
    assert json.loads(await page.evaluate("() => JSON.stringify(location.hash)")) == "#/overview?range=6h"


async def test_older_denials_are_shown_page_by_page(operator: Operator) -> None:
    page, house = operator.page, operator.house
    path = f"/private/{uuid.uuid4().hex[:8]}"
    await house.request(f"{path}/first", token=token("locked"))
    for number in range(52):
        await house.request(f"{path}/{number}", token=token("locked"))
    await page.evaluate("() => { location.hash = '#/denials?reason=user_locked'; }")
    await expect(operator.row(f"{path}/51")).to_be_visible()
    await expect(page.locator("tbody tr")).to_have_count(50)
    await expect(operator.row(f"{path}/first")).to_have_count(0)
    await page.get_by_role("button", name="Show older").click()
    await expect(operator.row(f"{path}/first")).to_be_visible()
