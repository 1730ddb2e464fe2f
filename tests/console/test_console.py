"""The console end to end: Chromium, the gateway, Postgres and Redis are real."""

import asyncio
import json
import re
import time
import uuid
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from gateway.core.model import JSON
from tests.console.conftest import opened
from tests.console.driver import Operator
from tests.harness import House, open_house, token

pytestmark = pytest.mark.asyncio(loop_scope="session")

XSS = '"><img src=x onerror="window.xss = 1"><script>window.xss = 1</script>'


async def answered(house: House, status: int, bearer: bytes) -> None:
    """Wait until the gateway answers a token so."""
    deadline = time.monotonic() + 5
    while (response := await house.request("/private/x", token=bearer)).status != status:
        assert time.monotonic() < deadline, response.body
        await asyncio.sleep(0.02)


async def user(house: House, *, subject: str | None = None, name: str | None = None) -> str:
    """Add an active user of the test's own; return its subject."""
    subject = subject or f"console-{uuid.uuid4().hex[:12]}"
    await house.sql(
        "WITH u AS (INSERT INTO users (status, email, display_name) VALUES ('active', $1, $2) RETURNING id)"
        " INSERT INTO identities (issuer, subject, user_id)"
        " SELECT 'https://idp.example.com/', $3, id FROM u",
        f"{uuid.uuid4().hex[:12]}@example.com", name or f"User {subject}", subject,
    )  # fmt: skip
    return subject


# Signing in ----------------------------------------------------------------------------------------


async def test_signing_in_and_out(standing_console: House, browser: Browser) -> None:
    async with opened(browser, standing_console) as operator:
        page = operator.page
        await expect(page.get_by_label("Admin token")).to_be_focused()
        await page.get_by_label("Admin token").fill("a guess")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("token")
        await expect(page.get_by_role("navigation")).to_have_count(0)

        await operator.sign_in()
        places = await page.evaluate(
            "() => [Object.values(sessionStorage), {...localStorage}, document.cookie, location.href]"
        )
        assert places[0] == [operator.token]
        assert operator.token not in str(places[1:])

        await page.reload()
        await expect(operator.heading("Overview")).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Admin token")).to_be_focused()
        assert await page.evaluate("() => sessionStorage.length") == 0
        await page.reload()
        await expect(page.get_by_label("Admin token")).to_be_visible()


async def test_a_token_that_is_accepted_no_longer(operator: Operator) -> None:
    await operator.page.evaluate("() => sessionStorage.setItem('gateway.admin_token', 'of yesterday')")
    await operator.page.reload()
    await expect(operator.page.get_by_label("Admin token")).to_be_focused()
    await expect(operator.page.get_by_role("alert")).to_be_visible()


async def test_without_an_admin_token_the_console_shows_how_to_set_one(
    tmp_path: Path, dsn: str, redis_url: str, browser: Browser
) -> None:
    async with (
        open_house(tmp_path, dsn, redis_url, seeded=False) as house,
        opened(browser, house) as operator,
    ):
        await operator.page.get_by_label("Admin token").fill("anything")
        await operator.page.keyboard.press("Enter")
        await expect(operator.page.get_by_role("alert")).to_contain_text("admin.token")


# Overview ------------------------------------------------------------------------------------------


async def test_the_overview_is_live(operator: Operator) -> None:
    page, house = operator.page, operator.house
    dependencies = page.get_by_role("region", name="Dependencies")
    await expect(
        dependencies.get_by_role("listitem").filter(has_text=re.compile("^postgres"))
    ).to_contain_text("up")
    await expect(dependencies.get_by_role("listitem").filter(has_text="issuer:keyless")).to_contain_text(
        "down"
    )
    before = await house.metric(
        "gateway_denials_total", route="private", issuer="main", reason="user_not_found"
    )

    for _ in range(20):
        await house.request("/private/x", token=token())
        await house.request("/private/x", token=token("ghost"))

    denials = (
        page.get_by_role("region", name="Denials by reason")
        .get_by_role("row")
        .filter(has_text="user_not_found")
    )
    await expect(denials.get_by_role("cell").last).to_have_text(f"{before + 20:.0f}")
    requests = page.get_by_role(
        "img", name=re.compile(r"^Requests: answered 2xx [\d.]+,.*refused 4xx [\d.]+")
    )
    await expect(requests).to_be_visible()
    await expect(
        page.get_by_role("img", name=re.compile(r"^Latency: median [\d.]+ (µs|ms|s)"))
    ).to_be_visible()
    await expect(
        page.get_by_role("img", name=re.compile(r"^User look-ups: local [\d.]+, redis [\d.]+"))
    ).to_be_visible()
    # What is drawn anew every other second takes nothing away from the keyboard.
    link = denials.get_by_role("link", name="user_not_found")
    await link.focus()
    async with page.expect_response("**/v1/overview"):
        await house.request("/private/x", token=token("ghost"))
    async with page.expect_response("**/v1/overview"):
        pass
    await expect(link).to_be_focused()
    # A line of at least two points, the second of which came by itself.
    await expect(requests.locator("path.line.good").first).to_have_attribute("d", re.compile(r"^M.+L"))


async def test_flushing_the_caches(operator: Operator) -> None:
    await operator.page.get_by_role("button", name="Flush caches").click()
    await operator.confirm("Flush")
    await expect(operator.page.get_by_text("The caches have been flushed.")).to_be_visible()


async def test_a_missing_answer_is_shown_and_requested_again(operator: Operator) -> None:
    page = operator.page
    await page.route("**/v1/overview", lambda route: route.abort())
    await expect(page.get_by_role("alert")).to_contain_text("The gateway does not answer")
    await expect(page.get_by_role("banner")).to_contain_text("no answer")
    await page.unroute("**/v1/overview")
    await expect(page.get_by_role("alert")).to_have_count(0)
    await expect(page.get_by_role("banner")).to_contain_text("degraded")


# Denials -------------------------------------------------------------------------------------------


async def test_denials_arrive_by_themselves(operator: Operator) -> None:
    page, house = operator.page, operator.house
    path = f"/private/{uuid.uuid4().hex[:8]}"
    await house.request(f"{path}/before?secret=1", token=token("ghost"))
    await operator.go("Denials")
    await expect(operator.row(f"{path}/before")).to_contain_text("user_not_found")
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await house.request(f"{path}/after", token=token("suspended"))
    await expect(operator.row(f"{path}/after")).to_contain_text("user_suspended")
    assert "secret=1" not in await page.content()
    # The newest is on top.
    rows = await page.get_by_role("row").all_inner_texts()
    assert [f"{path}/after" in row for row in rows].index(True) < [
        f"{path}/before" in row for row in rows
    ].index(True)

    await page.get_by_role("button", name="Pause").click()
    await house.request(f"{path}/held", token=token("suspended"))
    await expect(page.get_by_text("1 held back")).to_be_visible()
    await expect(operator.row(f"{path}/held")).to_have_count(0)
    await page.get_by_role("button", name="Resume").click()
    await expect(operator.row(f"{path}/held")).to_be_visible()


async def test_a_broken_stream_is_opened_again(operator: Operator) -> None:
    page = operator.page
    await page.route("**/v1/denials*", lambda route: route.abort(), times=1)
    await operator.go("Denials")
    await expect(page.get_by_role("alert")).to_contain_text("The gateway does not answer")
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await expect(page.get_by_role("alert")).to_have_count(0)


def denial(number: int, reason: str = "user_not_found") -> dict[str, JSON]:
    return {
        "id": f"{number:022x}", "at": "2026-01-01T00:00:00Z", "reason": reason, "status": 401,
        "route": "private", "issuer": "main", "subject_hash": None, "method": "GET", "path": f"/{number}",
        "client": "127.0.0.1", "request_id": "r", "detail": None, "tier": None,
    }  # fmt: skip


async def serve_denials(
    page: Page, streamed: list[dict[str, JSON]], listed: list[dict[str, JSON]]
) -> Locator:
    """Stand in for the API: for its stream, once, and for its list, which comes after the stream was shown.

    Returns the requests that the page shows.
    """
    streams = iter(["".join(f"data: {json.dumps(each)}\n\n" for each in streamed)])
    shown = page.get_by_role("table").locator("code", has_text="GET")

    async def answer(route: Route) -> None:
        if "event-stream" in route.request.headers["accept"]:
            await route.fulfill(content_type="text/event-stream", body=next(streams, ":\n\n"))
            return
        await expect(shown.first).to_be_visible()
        await route.fulfill(json={"items": listed, "next": None})

    await page.route("**/v1/denials*", answer)
    return shown


async def test_earlier_denials_are_listed_below_streamed_ones(operator: Operator) -> None:
    streamed, listed = [denial(7), denial(8)], [denial(8), denial(6), denial(5)]
    shown = await serve_denials(operator.page, streamed, listed)
    await operator.go("Denials")
    await expect(shown).to_have_text([f"GET /{number}" for number in (8, 7, 6, 5)])


async def test_a_page_that_stays_open_does_not_remember_every_denial(operator: Operator) -> None:
    """A denial that is told again is looked at again only if its id is forgotten."""
    streamed = [denial(number) for number in range(2500)]
    again = [denial(2400, "remembered"), denial(0, "forgotten")]
    await serve_denials(operator.page, streamed + again, [])
    await operator.go("Denials")
    await expect(operator.page.locator("datalist option[value=forgotten]")).to_have_count(1)
    await expect(operator.page.locator("datalist option[value=remembered]")).to_have_count(0)


async def test_denials_are_filtered(operator: Operator) -> None:
    page, house = operator.page, operator.house
    path = f"/private/{uuid.uuid4().hex[:8]}"
    await house.request(f"{path}/ghost", token=token("ghost"))
    await house.request(f"{path}/locked", token=token("locked"))
    await operator.go("Denials")
    await expect(operator.row(f"{path}/ghost")).to_be_visible()
    await page.get_by_label("Reason").fill("user_locked")
    await page.keyboard.press("Enter")
    await expect(operator.row(f"{path}/ghost")).to_have_count(0)
    await expect(operator.row(f"{path}/locked")).to_be_visible()
    assert page.url.endswith("#/denials?reason=user_locked")
    await house.request(f"{path}/ghost-again", token=token("ghost"))
    await house.request(f"{path}/locked-again", token=token("locked"))
    await expect(operator.row(f"{path}/locked-again")).to_be_visible()
    await expect(operator.row(f"{path}/ghost-again")).to_have_count(0)


async def test_a_request_id_leads_to_its_explanation(operator: Operator) -> None:
    page, house = operator.page, operator.house
    subject = await user(house)
    await house.sql(
        "UPDATE users SET status = 'suspended' WHERE id ="
        " (SELECT user_id FROM identities WHERE subject = $1)",
        subject,
    )
    await answered(house, 401, token(subject))
    refused = await house.request("/private/complaint", token=token(subject))
    request_id = str(refused.problem["request_id"])
    await operator.go("Denials")

    # As it is copied from a mail.
    await page.get_by_label("Request id").fill(f" {request_id} ")
    await page.keyboard.press("Enter")

    answer = page.get_by_role("region", name="Answer")
    await expect(answer.get_by_role("heading", name="Denied")).to_be_visible()
    await expect(answer).to_contain_text("user_suspended")
    await expect(answer).to_contain_text("gateway users activate")
    await expect(page.locator("tbody tr[data-id]")).to_have_count(1)
    await page.get_by_label("Request id").fill("of-nobody")
    await page.keyboard.press("Enter")
    await expect(answer).to_contain_text("no worker keeps a denial")

    await page.get_by_label("Request id").fill("")
    await page.keyboard.press("Enter")
    await expect(answer).to_be_empty()
    await operator.row(request_id).get_by_role("link", name=request_id).click()
    await expect(answer).to_contain_text("user_suspended")


async def test_from_a_complaint_to_a_request_that_passes(operator: Operator) -> None:
    page, house = operator.page, operator.house
    subject = await user(house)
    await house.sql(
        "UPDATE users SET status = 'suspended' WHERE id ="
        " (SELECT user_id FROM identities WHERE subject = $1)",
        subject,
    )
    await answered(house, 401, token(subject))
    refused = await house.request("/private/complaint", token=token(subject))
    await operator.go("Denials")
    await page.get_by_label("Request id").fill(str(refused.problem["request_id"]))
    await page.keyboard.press("Enter")
    answer = page.get_by_role("region", name="Answer")

    # The exact change is shown first, and nothing is done before it is agreed to.
    await answer.get_by_role("button", name="Apply this fix").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Is the reason settled for which the user is suspended?")
    await expect(dialog.get_by_role("row").filter(has_text="status")).to_contain_text("suspended")
    await expect(dialog.get_by_role("row").filter(has_text="status")).to_contain_text("active")
    await page.keyboard.press("Escape")
    await answered(house, 401, token(subject))
    await answer.get_by_role("button", name="Apply this fix").click()
    await dialog.get_by_label("Your name").fill("Ann of the test")
    await operator.confirm("Apply")

    done = answer.get_by_role("status")
    await expect(done).to_be_focused()
    await expect(done).to_contain_text("The user is active now")
    await expect(answer.get_by_role("button", name="Apply this fix")).to_have_count(0)
    await answered(house, 200, token(subject))
    await done.get_by_role("link", name="The audit log has it").click()
    await expect(operator.heading("Audit")).to_be_focused()
    entry = operator.row("Ann of the test").first
    await expect(entry).to_contain_text("user.change")
    await expect(entry).to_contain_text("suspended")
    [row] = await house.sql("SELECT user_id FROM identities WHERE subject = $1", subject)
    await entry.get_by_role("link", name=str(row["user_id"])).click()
    await expect(page.get_by_text("active", exact=True)).to_be_visible()


# Explain -------------------------------------------------------------------------------------------


async def test_the_fix_of_a_token_is_applied_and_explained_again(operator: Operator) -> None:
    page, house = operator.page, operator.house
    subject = await user(house)
    raw = token(subject.upper())
    await answered(house, 401, raw)
    await operator.go("Explain")
    await operator.explain(raw.decode(), url="/private/x")
    answer = page.get_by_role("region", name="Answer")
    await answer.get_by_role("button", name="Apply this fix").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Is it the same person")
    await operator.confirm("Apply")
    await expect(answer.get_by_role("status")).to_contain_text("The request passes now.")
    await expect(answer.get_by_role("heading", name="Allowed")).to_be_visible()
    await answered(house, 200, raw)
    # What only the issuer can do is told, and has no button.
    await operator.explain(token(subject, aud="another").decode())
    await expect(answer).to_contain_text("audience_mismatch")
    await expect(answer.get_by_role("button", name="Apply this fix")).to_have_count(0)


async def test_explain_names_the_cause_and_a_fix_to_copy(operator: Operator) -> None:
    page = operator.page
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await operator.go("Explain")
    await operator.explain(f"Authorization: Bearer {token('Member').decode()}\n", url="/private/x")
    answer = page.get_by_role("region", name="Answer")
    await expect(answer.get_by_role("heading", name="Denied")).to_be_visible()
    await expect(answer).to_contain_text("subject_case_differs")
    await expect(answer).to_contain_text("user_not_found")
    await expect(operator.row("signature").first).to_contain_text("pass")
    await page.get_by_role("button", name="Copy the command").click()
    await expect(page.get_by_role("button", name="Copy the command")).to_have_text("Copied")
    command = await page.evaluate("() => navigator.clipboard.readText()")
    assert command.startswith("gateway ")
    assert command in await answer.inner_text()


async def test_explain_says_when_nothing_is_wrong(operator: Operator) -> None:
    await operator.go("Explain")
    await operator.explain(token().decode())
    await expect(operator.page.get_by_role("heading", name="Allowed")).to_be_visible()


async def test_explain_accepts_texts_that_are_no_token(operator: Operator) -> None:
    await operator.go("Explain")
    await operator.explain("not a token")
    await expect(operator.page.get_by_role("region", name="Answer")).to_contain_text("token_malformed")


# Users ---------------------------------------------------------------------------------------------


async def test_suspending_and_activating_a_user(operator: Operator) -> None:
    page, house = operator.page, operator.house
    subject = await user(house, name="Ada of the test")
    bearer = token(subject)
    await answered(house, 200, bearer)

    await operator.go("Users")
    await page.get_by_label("E-mail, subject, id or name").fill(subject)
    await page.keyboard.press("Enter")
    await page.get_by_role("link", name="Ada of the test").click()
    await expect(operator.heading("Ada of the test")).to_be_visible()
    await operator.refuse("Suspend")
    await expect(page.get_by_role("status").filter(has_text="The user is suspended.")).to_be_focused()
    await answered(house, 401, bearer)
    await page.get_by_role("button", name="Activate").click()
    await expect(page.get_by_role("status").filter(has_text="The user is active.")).to_be_visible()
    await answered(house, 200, bearer)


async def test_a_change_that_another_operator_made_first_is_shown_instead(operator: Operator) -> None:
    page, house = operator.page, operator.house
    subject = await user(house, name="Grace of the test")
    await operator.open_user(subject)
    await house.sql(
        "UPDATE users SET status = 'locked' FROM identities WHERE user_id = id AND subject = $1", subject
    )
    await operator.refuse("Suspend")
    await expect(page.get_by_role("alert")).to_contain_text("Another operator has changed this user")
    await expect(page.get_by_text("locked", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Activate").click()
    await expect(page.get_by_text("The user is active.")).to_be_visible()


async def test_adding_editing_linking_and_deleting(operator: Operator) -> None:
    page, house = operator.page, operator.house
    subject = f"added-{uuid.uuid4().hex[:8]}"
    await operator.go("Users")
    await page.get_by_text("Add a user").click()
    adding = page.locator("details")
    await adding.get_by_label("Issuer").select_option("main")
    await adding.get_by_label("Subject").fill(subject)
    await adding.get_by_label("Name").fill("Added here")
    await adding.get_by_label("Roles").fill("reader, admin")
    await adding.get_by_role("button", name="Add user").click()
    await expect(operator.heading("Added here")).to_be_focused()
    await expect(page.get_by_text("reader, admin")).to_be_visible()
    await answered(house, 200, token(subject))

    await page.get_by_text("Edit", exact=True).click()
    await page.get_by_label("E-mail").fill("added@example.com")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("The user has been saved.")).to_be_visible()
    await expect(page.get_by_text("added@example.com")).to_be_visible()

    await page.get_by_label("Issuer").fill("second")
    await page.get_by_label("Subject").fill(f"other-{subject}")
    await page.get_by_role("button", name="Link", exact=True).click()
    identity = page.get_by_role("region", name="Identities").get_by_role("row", name=f"other-{subject}")
    await expect(identity).to_contain_text("second")
    await page.get_by_role("button", name=f"Unlink other-{subject}").click()
    await operator.confirm("Unlink")
    await expect(identity).to_have_count(0)

    await page.get_by_role("button", name="Delete").click()
    await page.keyboard.press("Escape")
    await answered(house, 200, token(subject))
    await page.get_by_role("button", name="Delete").click()
    await operator.confirm("Delete")
    await expect(page.get_by_text("The user has been deleted.")).to_be_visible()
    await answered(house, 401, token(subject))
    await page.get_by_role("button", name="Restore").click()
    await expect(page.get_by_text("The user has been restored.")).to_be_visible()
    await answered(house, 200, token(subject))


async def test_an_error_of_the_api_is_shown_in_words(operator: Operator) -> None:
    page = operator.page
    subject = await user(operator.house)
    await operator.open_user(subject)
    await page.get_by_label("Issuer").fill("main")
    await page.get_by_label("Subject").fill("member")
    await page.get_by_role("button", name="Link", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("The identity already leads to a user")
    await page.evaluate("() => { location.hash = '#/users/00000000-0000-4000-8000-000000000000'; }")
    await expect(page.get_by_role("alert")).to_contain_text("Not found")


async def test_an_invalid_address_leads_to_no_page(operator: Operator) -> None:
    """`opened` fails the test for what a script did not catch."""
    await operator.page.evaluate("() => { location.hash = '#/users/%'; }")
    await expect(operator.heading("No such page")).to_be_visible()


# Revocations and issuers ---------------------------------------------------------------------------


async def test_revoking_a_users_tokens(operator: Operator) -> None:
    page, house = operator.page, operator.house
    subject = await user(house)
    bearer = token(subject)
    await answered(house, 200, bearer)
    await operator.open_user(subject)
    await page.get_by_role("button", name="Revoke tokens").click()
    await page.get_by_label("Reason (optional)").fill("laptop lost")
    await operator.confirm("Revoke tokens")
    await expect(page.get_by_text("All tokens of the user have been revoked.")).to_be_visible()
    await answered(house, 401, bearer)
    await operator.go("Revocations")
    await expect(operator.row("laptop lost")).to_contain_text("a user’s tokens")


async def test_revoking_one_token_and_lifting_that(operator: Operator) -> None:
    page, house = operator.page, operator.house
    jti = uuid.uuid4().hex
    bearer = token(jti=jti)
    await answered(house, 200, bearer)
    await operator.go("Revocations")
    await page.get_by_text("Revoke", exact=True).first.click()
    await page.get_by_label("What", exact=True).select_option("jti")
    await page.get_by_label("Issuer").select_option("main")
    await page.get_by_label("jti", exact=True).fill(jti)
    await page.get_by_label("Until (optional").fill("2099-01-01T00:00")
    await page.get_by_role("button", name="Revoke", exact=True).click()
    await expect(operator.row(jti)).to_contain_text("2099")
    await answered(house, 401, bearer)
    await page.get_by_role("button", name=f"Lift the revocation of {jti}").click()
    await operator.confirm("Lift")
    await expect(operator.row(jti)).to_have_count(0)
    await answered(house, 200, bearer)


async def test_issuers_and_a_refresh(operator: Operator) -> None:
    page = operator.page
    await operator.go("Issuers")
    main = page.get_by_role("region", name="main")
    await expect(main).to_contain_text("ready")
    await expect(main.get_by_role("row").filter(has_text="RS256")).not_to_have_count(0)
    await expect(page.get_by_role("region", name="keyless")).to_contain_text("no keys")
    await page.get_by_role("button", name="Refresh the keys of main").click()
    await expect(main.get_by_text("The keys of main have been reloaded")).to_be_visible()
    await page.get_by_role("button", name="Refresh the keys of keyless").click()
    await expect(page.get_by_role("region", name="keyless").get_by_role("alert")).to_contain_text(
        "missing.json"
    )


# What a token says is text -------------------------------------------------------------------------


async def test_a_subject_that_is_markup_is_shown_as_text(operator: Operator) -> None:
    """`opened` fails the test for a dialog, an error of a script or a breach of the policy."""
    page, house = operator.page, operator.house
    subject = XSS + uuid.uuid4().hex[:8]
    await user(house, subject=subject, name=subject)

    await operator.go("Users")
    await page.get_by_label("E-mail, subject, id or name").fill(subject)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name=subject)).to_be_visible()
    await page.get_by_role("link", name=subject).click()
    await expect(operator.heading(subject)).to_be_visible()
    await expect(operator.row(subject)).to_be_visible()

    await operator.go("Explain")
    await operator.explain(token(subject + "?", tenant_id=XSS).decode(), url="/private/<b>x")
    await expect(page.get_by_role("region", name="Answer")).to_contain_text("<img src=x onerror=")

    await house.request("/private/%3Cscript%3Ewindow.xss=1%3C/script%3E", token=token(subject + "?"))
    await operator.go("Denials")
    await expect(operator.row("%3Cscript%3E").first).to_be_visible()
    await page.evaluate("q => { location.hash = `#/denials?reason=${encodeURIComponent(q)}`; }", XSS)
    await expect(page.get_by_label("Reason")).to_have_value(XSS)

    assert await page.evaluate("() => window.xss") is None
    assert await page.locator("img[src=x], main script").count() == 0
