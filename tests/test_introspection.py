"""Opaque tokens through the whole gateway, and what operators see of them."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import app
from gateway.core.model import JSON
from tests import tokens
from tests.harness import SECOND_ISSUER, House, configuration, open_house
from tests.issuer_keys.opaque import OpaqueIssuer, serving

TOKEN = b"opaque-token-of-a-member"
ROUTES: list[JSON] = [
    {"name": "private", "match": {"path": "/private/**"}, "upstream": "raw"},
    {
        "name": "orders",
        "match": {"path": "/orders/**"},
        "upstream": "raw",
        "require": {"scopes": ["orders:read"]},
    },
]


def issuers(folder: Path, endpoint: str, **introspection: JSON) -> list[JSON]:
    jwks = folder / "second.json"
    jwks.write_text(json.dumps({"keys": [tokens.rsa_key("second").jwk()]}))
    return [
        {
            "name": "opaque",
            "issuer": tokens.ISSUER,
            "audiences": [tokens.AUDIENCE],
            "introspection": {
                "endpoint": endpoint,
                "client_id": "gateway",
                "client_secret": "s3cret",
                **introspection,
            },
        },
        {
            "name": "second",
            "issuer": SECOND_ISSUER,
            "audiences": [tokens.AUDIENCE],
            "keys": {"jwks_file": str(jwks)},
        },
    ]


def member(**changes: JSON) -> dict[str, JSON]:
    now = int(time.time())
    return {
        "sub": "member",
        "aud": tokens.AUDIENCE,
        "iat": now,
        "exp": now + 300,
        "scope": "orders:read",
        **changes,
    }


@pytest.fixture
async def issuer() -> AsyncIterator[OpaqueIssuer]:
    async with serving() as issuer:
        issuer.tokens[TOKEN.decode()] = member()
        yield issuer


@pytest.fixture
async def house(tmp_path: Path, dsn: str, redis_url: str, issuer: OpaqueIssuer) -> AsyncIterator[House]:
    entries = issuers(tmp_path, issuer.endpoint)
    async with open_house(tmp_path, dsn, redis_url, issuers=entries, routes=ROUTES) as house:
        await house.ready()
        yield house


def code(body: bytes) -> JSON:
    problem: dict[str, JSON] = json.loads(body)
    return problem["code"]


async def test_an_opaque_token_of_a_user_is_admitted(house: House, issuer: OpaqueIssuer) -> None:
    for _ in range(3):
        received = await house.forwarded("/orders/1", token=TOKEN)
        assert received.values(b"x-auth-subject") == [b"member"]
        assert received.values(b"x-auth-issuer") == [tokens.ISSUER.encode()]
        assert received.values(b"x-auth-scopes") == [b"orders:read"]
    assert issuer.asked[TOKEN.decode()] == 1
    labels = {"issuer": "opaque"}
    assert await house.metric("gateway_introspections_total", **labels, result="active") == 1
    valid = {**labels, "result": "valid"}
    assert await house.metric("gateway_token_verifications_total", **valid, tier="introspection") == 1
    assert await house.metric("gateway_token_verifications_total", **valid, tier="local") == 2


async def test_many_first_requests_are_one_call(house: House, issuer: OpaqueIssuer) -> None:
    issuer.open.clear()
    requests = [asyncio.create_task(house.request("/private/x", token=TOKEN)) for _ in range(200)]
    await issuer.arrived.wait()
    issuer.open.set()
    responses = await asyncio.gather(*requests)
    assert {response.status for response in responses} == {200}
    assert issuer.asked[TOKEN.decode()] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "billing"}, "audience_mismatch"),
        ({"sub": None}, "subject_missing"),
        ({"exp": 1}, "token_expired"),
        ({"exp": None}, "claim_missing"),
        ({"iss": "https://other.example.com"}, "issuer_untrusted"),
        ({"token_type": "refresh_token"}, "id_token_not_accepted"),
        ({"cnf": {"jkt": "x"}}, "claim_not_accepted"),
        ({"sub": "suspended"}, "user_suspended"),
        ({"sub": "ghost"}, "user_not_found"),
    ],
)
async def test_the_answer_of_the_issuer_is_checked_like_the_claims_of_a_token(
    house: House, issuer: OpaqueIssuer, changes: dict[str, JSON], reason: str
) -> None:
    issuer.tokens["other"] = member(**changes)
    response = await house.request("/private/x", token=b"other")
    assert (response.status // 100, code(response.body)) == (4, reason)


async def test_an_inactive_token_is_refused(house: House, issuer: OpaqueIssuer) -> None:
    for _ in range(3):
        response = await house.request("/private/x", token=b"unknown")
        assert (response.status, code(response.body)) == (401, "token_inactive")
    assert issuer.asked["unknown"] == 1
    assert await house.metric("gateway_introspections_total", issuer="opaque", result="inactive") == 1


async def test_an_endpoint_that_is_down_is_503_and_never_401(house: House, issuer: OpaqueIssuer) -> None:
    await house.forwarded("/private/x", token=TOKEN)
    issuer.status = 500
    response = await house.request("/private/x", token=b"another")
    assert (response.status, code(response.body)) == (503, "introspection_unavailable")
    assert response.values(b"retry-after") == [b"5"]
    # What is known still counts.
    await house.forwarded("/private/x", token=TOKEN)
    (event,) = house.events("introspection_failed")
    assert event["issuer"] == "opaque"
    assert "another" not in json.dumps(event)


async def test_jwts_are_verified_locally_and_sent_to_no_issuer(house: House, issuer: OpaqueIssuer) -> None:
    await house.sql(
        "INSERT INTO identities (issuer, subject, user_id) SELECT $1, 'member', user_id FROM identities"
        " WHERE subject = 'member'",
        SECOND_ISSUER,
    )
    good = tokens.sign(tokens.claims(iss=SECOND_ISSUER), tokens.rsa_key("second"))
    await house.forwarded("/private/x", token=good)
    for bad in (good[:-4], good + b"x", tokens.unsigned({"alg": "none"}, tokens.claims(iss=SECOND_ISSUER))):
        response = await house.request("/private/x", token=bad)
        assert response.status == 401
    assert set(issuer.asked) <= {"gateway-probe"}


async def test_a_jwt_of_the_issuer_itself_is_asked_about(house: House, issuer: OpaqueIssuer) -> None:
    forged = tokens.sign(tokens.claims(), tokens.rsa_key("anyone"))
    response = await house.request("/private/x", token=forged)
    assert code(response.body) == "token_inactive"
    issuer.tokens[(known := tokens.sign(tokens.claims(jti="1"), tokens.rsa_key("x"))).decode()] = member()
    await house.forwarded("/private/x", token=known)


@pytest.mark.parametrize("prefix", ["op_", "opaque-other-"])
async def test_only_tokens_with_the_prefix_are_asked_about(
    tmp_path: Path, dsn: str, redis_url: str, issuer: OpaqueIssuer, prefix: str
) -> None:
    entries = issuers(tmp_path, issuer.endpoint, prefix=prefix)
    async with open_house(tmp_path, dsn, redis_url, issuers=entries, routes=ROUTES) as house:
        response = await house.request("/private/x", token=TOKEN)
        assert (response.status, code(response.body)) == (401, "token_malformed")
        assert set(issuer.asked) <= {"gateway-probe"}
        issuer.tokens[f"{prefix}1"] = member()
        await house.ready()
        await house.forwarded("/private/x", token=f"{prefix}1".encode())


async def refused_as_revoked(house: House) -> None:
    async with asyncio.timeout(10):
        while (response := await house.request("/private/x", token=TOKEN)).status == 200:  # noqa: ASYNC110 -- the change comes through Redis
            await asyncio.sleep(0.01)
    assert code(response.body) == "token_revoked"


# Revocations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("jti", ["token-1", None])
async def test_a_token_is_revoked_by_its_jti_or_its_hash(
    house: House, issuer: OpaqueIssuer, jti: str | None
) -> None:
    issuer.tokens[TOKEN.decode()] = member(jti=jti)
    await house.forwarded("/private/x", token=TOKEN)
    await house.set_key(f"revoked:jti:opaque:{jti or hashlib.sha256(TOKEN).hexdigest()}", "1")
    await refused_as_revoked(house)


# Commands ------------------------------------------------------------------------------------------


async def command(folder: Path, house: House, endpoint: str, *words: str, stdin: bytes = TOKEN) -> Result:
    """Run a command with the configuration of the house, beside this event loop."""
    settings = configuration(folder, house.upstream.url, house.dsn, house.redis_url, house.prefix)
    file = folder / "gateway.yaml"
    file.write_text(json.dumps({**settings, "issuers": issuers(folder, endpoint), "routes": ROUTES}))
    result = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--config", str(file)], input=stdin)
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    return result


@pytest.mark.parametrize("jti", ["token-1", None])
async def test_revoke_token(tmp_path: Path, house: House, issuer: OpaqueIssuer, jti: str | None) -> None:
    issuer.tokens[TOKEN.decode()] = member(jti=jti)
    await house.forwarded("/private/x", token=TOKEN)
    result = await command(tmp_path, house, issuer.endpoint, "revoke", "token", "-", "--json")
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert (row["kind"], row["issuer"]) == ("jti", "opaque")
    assert row["value"] == jti or hashlib.sha256(TOKEN).hexdigest()
    await refused_as_revoked(house)


async def test_a_token_that_the_issuer_does_not_know_cannot_be_revoked(
    tmp_path: Path, house: House, issuer: OpaqueIssuer
) -> None:
    result = await command(tmp_path, house, issuer.endpoint, "revoke", "token", "-", stdin=b"unknown")
    assert result.exit_code == 1
    assert "The token is not active" in result.stderr
    issuer.status = 500
    result = await command(tmp_path, house, issuer.endpoint, "revoke", "token", "-", stdin=b"unknown")
    assert result.exit_code == 3
    assert "cannot be asked" in result.stderr


async def explained(tmp_path: Path, house: House, issuer: OpaqueIssuer, token: bytes) -> dict[str, JSON]:
    result = await command(tmp_path, house, issuer.endpoint, "explain", "-", "--json", stdin=token)
    document: dict[str, JSON] = json.loads(result.stdout)
    return document


async def test_explain_asks_the_issuer_and_continues(
    tmp_path: Path, house: House, issuer: OpaqueIssuer
) -> None:
    allowed = await explained(tmp_path, house, issuer, TOKEN)
    assert allowed["decision"] == "allow"
    steps = allowed["steps"]
    assert isinstance(steps, list)
    outcomes = {step["name"]: step["outcome"] for step in steps if isinstance(step, dict)}
    assert outcomes["introspection"] == outcomes["times"] == outcomes["user"] == "pass"
    assert outcomes["signature"] == outcomes["key"] == outcomes["header"] == "skipped"

    issuer.tokens["other"] = member(sub="Member")
    assert (await explained(tmp_path, house, issuer, b"other"))["cause"] == "subject_case_differs"
    inactive = await explained(tmp_path, house, issuer, b"unknown")
    assert (inactive["reason"], inactive["cause"]) == ("token_inactive", "token_inactive")
    issuer.tokens["refresh"] = member(token_type="refresh_token")
    assert (await explained(tmp_path, house, issuer, b"refresh"))["cause"] == "id_token_used"
    issuer.tokens["third"] = member(iss="https://other.example.com")
    assert (await explained(tmp_path, house, issuer, b"third"))["reason"] == "issuer_untrusted"

    issuer.status = 500
    down = await explained(tmp_path, house, issuer, b"fourth")
    assert down["reason"] == down["cause"] == "introspection_unavailable"
    assert "answered 500" in str(down["summary"])


async def test_check_live_asks_the_endpoint(tmp_path: Path, house: House, issuer: OpaqueIssuer) -> None:
    result = await command(tmp_path, house, issuer.endpoint, "check", "--live", "--json")
    live = {each["name"]: each for each in json.loads(result.stdout)["live"]}
    assert (live["issuer:opaque"]["outcome"], live["issuer:opaque"]["found"]) == (
        "pass",
        "the introspection endpoint answers",
    )
    issuer.status = 401
    result = await command(tmp_path, house, issuer.endpoint, "check", "--live", "--json")
    live = {each["name"]: each for each in json.loads(result.stdout)["live"]}
    assert live["issuer:opaque"]["outcome"] == "fail"
    assert "`introspection`" in live["issuer:opaque"]["fix"]


async def test_readiness_knows_the_endpoint(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with serving() as issuer:
        issuer.status = 503
        entries = issuers(tmp_path, issuer.endpoint)
        async with open_house(tmp_path, dsn, redis_url, issuers=entries, routes=ROUTES) as house:
            found = json.loads((await house.admin("/readyz")).content)["dependencies"]
            assert found["issuer:opaque"]["status"] == "down"
            assert found["issuer:second"]["status"] == "up"
