"""The sign-in to the console: the flow as the standards have it, and what comes of it."""

import base64
from urllib.parse import parse_qsl, quote_plus, urlsplit

import pytest

from gateway.admin.sign_in.sessions import HEADER
from gateway.core.model import JSON
from tests.admin.sign_in.provider import CLIENT, CONSOLE, SECRET, TOKEN, admin_port


async def test_a_person_signs_in_acts_and_signs_out() -> None:
    async with admin_port() as port:
        browser = port.browser()
        assert (await browser.api("GET", "/author")).status == 401
        url = await browser.begin("#/denials?reason=user_locked&since=2026-01-01T00%3A00%3A00.000Z")
        asked = dict(parse_qsl(urlsplit(url).query))
        assert url.startswith(f"{port.provider.issuer}/authorize?")
        assert (asked["response_type"], asked["client_id"], asked["scope"]) == (
            "code",
            CLIENT,
            "openid profile",
        )
        assert (asked["redirect_uri"], asked["code_challenge_method"]) == (
            f"{CONSOLE}/console/callback",
            "S256",
        )
        assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) == 43

        response = await browser.get("/console/callback", **port.provider.authorize(url))

        assert response.status == 303
        assert response.headers["Location"] == (
            "../console#/denials?reason=user_locked&since=2026-01-01T00%3A00%3A00.000Z"
        )
        assert response.headers["Referrer-Policy"] == "no-referrer"
        (form,) = port.provider.asked
        assert (form["grant_type"], form["redirect_uri"]) == ("authorization_code", asked["redirect_uri"])
        pair = base64.b64encode(f"{CLIENT}:{quote_plus(SECRET)}".encode()).decode()
        assert port.provider.credentials == [f"Basic {pair}"]
        told = await (await browser.get("/console/session")).json()
        assert told["oidc"] is True
        assert (told["person"]["name"], told["person"]["role"]) == ("Ada", "operator")
        author = await (await browser.api("POST", "/author")).json()
        assert author["subject"] == "oidc:person-1 (Ada)"

        out = await browser.send("POST", "/console/logout", **{HEADER: "1", "Origin": CONSOLE})
        assert (out.status, browser.cookies) == (204, {})
        assert (await browser.api("GET", "/author")).status == 401


async def test_the_token_works_beside_the_sign_in() -> None:
    async with admin_port() as port:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        answer = await port.browser().send("POST", "/v1/author", **bearer)
        assert (await answer.json())["subject"] == "api@127.0.0.1"
        wrong = await (await port.signed_in()).send("GET", "/v1/author", Authorization="Bearer wrong")
        assert wrong.status == 401


@pytest.mark.parametrize(
    ("claims", "path", "role"),
    [
        ({"roles": ["ops", "guests"]}, "roles", "operator"),
        ({"roles": "guests"}, "roles", "viewer"),
        ({"roles": None, "realm_access": {"roles": ["ops"]}}, "realm_access.roles", "operator"),
        (
            {"roles": None, "https://example.com/groups": ["guests"]},
            "/https:~1~1example.com~1groups",
            "viewer",
        ),
        ({"roles": ["Ops", "operator"]}, "roles", None),
        ({"roles": None}, "roles", None),
        ({"roles": {"ops": True}}, "roles", None),
    ],
)
async def test_the_claim_makes_the_role(claims: dict[str, JSON], path: str, role: str | None) -> None:
    async with admin_port(roles_claim=path) as port:
        port.provider.claims |= claims
        browser = port.browser()
        response = await browser.get("/console/callback", **port.provider.authorize(await browser.begin()))
        person = (await (await browser.get("/console/session")).json())["person"]
        assert (None if person is None else person["role"]) == role
        assert response.status == (303 if role else 502 if isinstance(claims["roles"], dict) else 403)


async def test_a_viewer_reads_and_changes_nothing() -> None:
    async with admin_port() as port:
        viewer = await port.signed_in(roles=["guests"])
        assert (await viewer.api("GET", "/author")).status == 200
        assert (await viewer.api("POST", "/explain", {"token": "x"})).status == 200
        refused = await viewer.api("POST", "/author")
        assert (refused.status, (await refused.json())["code"]) == (403, "role_insufficient")


async def test_a_person_cannot_take_another_name() -> None:
    """A name that is given when a fix is applied counts with the token alone."""
    async with admin_port() as port:
        browser = await port.signed_in(name="Ada (oidc:root)")
        author = await (await browser.api("POST", "/author")).json()
        assert author["subject"] == "oidc:person-1 (Ada (oidc:root))"


async def test_the_secret_goes_into_the_form_where_the_provider_wants_that() -> None:
    async with admin_port() as port:
        port.provider.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
        await port.signed_in()
        assert (port.provider.asked[0]["client_secret"], port.provider.credentials) == (SECRET, [""])


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"name": None, "preferred_username": "ada"}, "ada"),
        ({"name": "two\nlines", "email": "ada@example.com"}, "ada@example.com"),
        ({"name": 7}, None),
        ({"name": "x" * 500}, "x" * 100),
    ],
)
async def test_a_person_has_the_name_that_the_provider_gives(
    claims: dict[str, JSON], name: str | None
) -> None:
    async with admin_port() as port:
        browser = await port.signed_in(**claims)
        assert (await (await browser.get("/console/session")).json())["person"]["name"] == name


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://other.example.com"},
        {"token_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://idp.example.com/a#b"},
    ],
)
async def test_an_unusable_provider_is_reported_plainly(metadata: dict[str, JSON]) -> None:
    async with admin_port() as port:
        port.provider.metadata |= metadata
        page = await port.browser().get("/console/login")
        text = await page.text()
        assert (page.status, "cannot be reached" in text) == (503, True)
        assert port.provider.issuer not in text


async def test_a_provider_that_is_back_is_asked_again() -> None:
    async with admin_port() as port:
        port.provider.down = True
        assert (await port.browser().get("/console/login")).status == 503
        port.provider.down = False
        port.sign_in._provider._failed_at = None  # what the time of `REST` does
        await port.signed_in()


async def test_a_console_without_sign_in_learns_that() -> None:
    from aiohttp.test_utils import TestClient, TestServer

    from gateway.admin.health import Admin
    from gateway.telemetry.metrics import Metrics

    async with TestClient(TestServer(Admin(Metrics(), {}).application())) as client:
        assert await (await client.get("/console/session")).json() == {"oidc": False, "person": None}
        assert (await client.get("/console/login")).status == 404
