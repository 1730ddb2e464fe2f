"""Attacks on the sign-in to the console, and on its sessions."""

import re
from typing import Final

import pytest

from gateway.admin.sign_in.routes import ATTEMPTS
from gateway.admin.sign_in.sessions import HEADER, Person, Role, Seal, Sessions
from gateway.core.model import JSON
from tests import tokens
from tests.admin.sign_in.provider import CLIENT, CONSOLE, SECRET, Port, admin_port

SESSION = "__Host-gateway-session"
LOGIN = "__Host-gateway-login"


async def refused(port: Port, status: int, shown: str, **changes: str) -> None:
    """Sign in with an answer that an attacker changed: there must be no session, and no detail."""
    browser = port.browser()
    answer = {**port.provider.authorize(await browser.begin()), **changes}
    page = await browser.get("/console/callback", **{name: value for name, value in answer.items() if value})
    text = await page.text()
    assert (page.status, shown in text) == (status, True), text
    assert SESSION not in browser.cookies
    assert LOGIN not in browser.cookies
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    for secret in (*answer.values(), port.provider.issuer, SECRET):
        assert not secret or secret not in text


OF_ANOTHER_SIGN_IN: Final[tuple[dict[str, JSON], ...]] = (
    {"nonce": "another"}, {"nonce": None}, {"aud": "another"}, {"aud": [CLIENT, "another"]},
    {"aud": [CLIENT, "another"], "azp": "another"}, {"azp": "another"}, {"iss": "https://other.example.com"},
    {"exp": 1_000_000_000}, {"exp": None}, {"iat": 4_000_000_000}, {"iat": None}, {"sub": None},
    {"sub": ""}, {"sub": "two\nlines"}, {"nbf": 4_000_000_000}, {"events": {}},
)  # fmt: skip


async def test_id_token_that_is_not_of_this_sign_in() -> None:
    async with admin_port() as port:
        for claims in OF_ANOTHER_SIGN_IN:
            port.provider.claims = {"roles": ["ops"], **claims}
            await refused(port, 502, "token_refused")
        port.sign_in._attempts.pop("127.0.0.1")
        port.provider.claims = {"roles": ["ops"]}
        await port.signed_in()


async def test_id_token_signed_by_another() -> None:
    async with admin_port() as port:
        for key, header in (
            (tokens.rsa_key("stranger"), {}),
            (tokens.rsa_key("stranger"), {"kid": "console-provider"}),
        ):
            port.provider.key, port.provider.header = key, dict(header)
            await refused(port, 502, "token_refused")
        port.provider.key, port.provider.header = tokens.rsa_key("console-provider"), {}
        for algorithm in ("none", "PS256"):
            port.provider.algorithm = algorithm
            await refused(port, 502, "token_refused")


async def test_login_csrf() -> None:
    """An attacker sends a victim the answer to the attacker's own sign-in."""
    async with admin_port() as port:
        attacker, victim = port.browser(), port.browser()
        answer = port.provider.authorize(await attacker.begin())
        assert (await victim.get("/console/callback", **answer)).status == 400
        await victim.begin()
        assert (await victim.get("/console/callback", **answer)).status == 400
        assert SESSION not in victim.cookies
        assert port.provider.asked == []


async def test_state_replay() -> None:
    async with admin_port() as port:
        browser = port.browser()
        answer = port.provider.authorize(await browser.begin())
        kept = browser.cookies[LOGIN]
        assert (await browser.get("/console/callback", **answer)).status == 303
        assert (await browser.get("/console/callback", **answer)).status == 400
        # A stolen cookie of the sign-in does not help either: the provider accepts a code once.
        thief = port.browser()
        thief.cookies[LOGIN] = kept
        assert (await thief.get("/console/callback", **answer)).status == 400
        assert SESSION not in thief.cookies


async def test_sign_in_that_took_too_long() -> None:
    async with admin_port() as port:
        browser = port.browser()
        answer = port.provider.authorize(await browser.begin())
        port.clock.ahead = 601
        assert (await browser.get("/console/callback", **answer)).status == 400


@pytest.mark.parametrize(
    ("changes", "status", "shown"),
    [
        ({"iss": "https://other.example.com"}, 400, "response_invalid"),
        ({"iss": ""}, 400, "response_invalid"),
        ({"state": "x" * 43}, 400, "state_invalid"),
        ({"state": ""}, 400, "state_invalid"),
        ({"code": ""}, 400, "response_invalid"),
        ({"code": "guess"}, 400, "code_refused"),
        ({"error": "access_denied"}, 403, "denied"),
    ],
)
async def test_mixed_up_and_forged_answers(changes: dict[str, str], status: int, shown: str) -> None:
    async with admin_port() as port:
        await refused(port, status, shown, **changes)


async def test_parameter_twice() -> None:
    async with admin_port() as port:
        browser = port.browser()
        answer = port.provider.authorize(await browser.begin())
        page = await browser.send(
            "GET",
            f"/console/callback?state={answer['state']}&code=x&code={answer['code']}&iss={answer['iss']}",
        )
        assert page.status == 400
        assert port.provider.asked == []


ELSEWHERE: Final = (
    "https://evil.example.com", "//evil.example.com", "/\\evil.example.com", "#@evil.example.com",
    "javascript:alert(1)", "#/x\r\nSet-Cookie: a=b", "#/<script>", "#/\u2028", "#/" + "x" * 2000, "../evil",
    "#/denials\n",
)  # fmt: skip


async def test_open_redirect() -> None:
    async with admin_port() as port:
        for target in ELSEWHERE:
            browser = port.browser()
            answer = port.provider.authorize(await browser.begin(target))
            response = await browser.get("/console/callback", **answer)
            assert response.headers["Location"] == "../console", target
            assert set(response.cookies) == {SESSION, LOGIN}


FROM_ELSEWHERE: Final[tuple[dict[str, str], ...]] = (
    {},
    {HEADER: "1", "Origin": "https://evil.example.com"},
    {HEADER: "1", "Origin": "null"},
    {HEADER: "1", "Origin": "http://gateway.example.com"},
    {HEADER: "1", "Origin": f"{CONSOLE}:8443"},
    {HEADER: "1", "Sec-Fetch-Site": "cross-site"},
    {HEADER: "1", "Sec-Fetch-Site": "same-site", "Origin": CONSOLE},
)


async def test_change_that_another_site_asks_for() -> None:
    async with admin_port() as port:
        browser = await port.signed_in()
        for headers in FROM_ELSEWHERE:
            for method, path in (("POST", "/v1/author"), ("POST", "/console/logout"), ("GET", "/v1/author")):
                answer = await browser.send(method, path, **headers)
                assert answer.status in {401, 403}, headers
        assert SESSION in browser.cookies
        good = {HEADER: "1", "Origin": CONSOLE, "Sec-Fetch-Site": "same-origin"}
        assert (await browser.send("POST", "/v1/author", **good)).status == 200


async def test_cookie_theft() -> None:
    """No script can read the cookies, no page without TLS is sent them, no other site sends them along."""
    async with admin_port() as port:
        browser = await port.signed_in()
        session, login = browser.attributes[SESSION], browser.attributes[LOGIN]
        for found in (session, login):
            assert (found["httponly"], found["secure"], found["path"], found["domain"]) == (
                "True",
                "True",
                "/",
                "",
            )
        assert (session["samesite"], int(session["max-age"])) == ("Strict", 600)
        assert re.fullmatch("[A-Za-z0-9_-]+", browser.cookies[SESSION])
        assert "person-1" not in browser.cookies[SESSION]
    async with admin_port(console="http://127.0.0.1:9901") as port:
        browser = await port.signed_in()
        assert set(browser.cookies) == {"gateway-session"}


async def test_forged_cookie() -> None:
    async with admin_port() as port:
        browser = await port.signed_in()
        good = browser.cookies[SESSION]
        await browser.begin()
        person = Person("person-1", None, Role.OPERATOR, 4e9)
        other = Seal("another secret of a client", ["test"]).close("session", {}, person.until)
        elsewhere = Seal(SECRET, ["other settings"]).close("session", {}, person.until)
        forged = [
            "", "x", "=", good[:-1], good + "A", f"{good[:20]}{'B' if good[20] == 'A' else 'A'}{good[21:]}",
            browser.cookies[LOGIN], other, elsewhere, "A" * 100_000, "A" * 3000,
        ]  # fmt: skip
        for cookie in forged:
            browser.cookies = {SESSION: cookie.encode("latin-1").decode("latin-1")[:6000]}
            assert (await browser.api("GET", "/author")).status == 401, cookie[:50]
        browser.cookies = {SESSION: good}
        assert (await browser.api("GET", "/author")).status == 200


async def test_session_after_its_time() -> None:
    """A role that was taken away counts until then, and no longer."""
    async with admin_port() as port:
        browser = await port.signed_in()
        port.clock.ahead = 599
        assert (await browser.api("POST", "/author")).status == 200
        port.clock.ahead = 601
        ended = await browser.api("POST", "/author")
        assert (ended.status, (await ended.json())["code"]) == (401, "session_missing")
        assert (await (await browser.get("/console/session")).json())["person"] is None


async def test_flood_of_sign_ins() -> None:
    async with admin_port() as port:
        statuses = []
        for _ in range(ATTEMPTS + 1):
            browser = port.browser()
            await browser.begin()
            state = port.provider.authorize(await browser.begin())["state"]
            page = await browser.get("/console/callback", state=state, code="x", iss=port.provider.issuer)
            statuses.append(page.status)
        assert statuses == [400] * ATTEMPTS + [429]
        assert len(port.provider.asked) == ATTEMPTS


def test_other_process_opens_what_one_sealed() -> None:
    """Each worker derives the same key, and the origin is as browsers write it."""
    one, other = Seal(SECRET, ["a", "b"]), Seal(SECRET, ["a", "b"])
    sealed = one.close("session", {"sub": "x"}, 4e9)
    assert other.open("session", sealed) == ({"sub": "x"}, 4e9)
    assert Seal(SECRET, ["ab"]).open("session", sealed) is None
    assert one.close("session", {}, 4e9) != one.close("session", {}, 4e9)
    sessions = Sessions(one, console="https://Gateway.Example.com:443/x/console/callback", lifetime=1.0)
    assert sessions._origin == "https://gateway.example.com"
