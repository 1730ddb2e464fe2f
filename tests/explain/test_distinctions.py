"""The numbered causes that an explanation must distinguish: `gateway explain --json` names the cause, and its
fix makes the request succeed.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.core.model import JSON, User, UserStatus
from gateway.explain import Fix
from tests import tokens
from tests.explain.world import World
from tests.harness import SECOND_ISSUER, token, unused_port, write_jwks
from tests.sql import as_role
from tests.stores.examples import claims


def now() -> int:
    return int(time.time())


UUID_TEXT = "0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01"


async def explained(world: World, raw: bytes, url: str | None) -> tuple[int, dict[str, Any]]:
    """Run `gateway explain --json`; returns its exit code and its document."""
    world.write()
    words = ["explain", "-", "--json", "--config", str(world.file), *(["--url", url] if url else [])]
    result = await asyncio.to_thread(CliRunner().invoke, app, words, input=raw)
    assert result.stderr == ""
    return result.exit_code, json.loads(result.stdout)


async def refused(world: World, raw: bytes, cause: str, *, url: str | None = None) -> dict[str, Any]:
    """See a request refused for a cause; returns the explanation."""
    reason = await world.decide(raw, url=url)
    code, document = await explained(world, raw, url)
    assert (document["decision"], document["reason"], document["cause"]) == ("deny", reason, cause)
    assert code == (3 if reason in {"revocation_unavailable", "keys_unavailable"} else 1)
    assert document["fix"]["text"]
    assert "fail" in {step["outcome"] for step in document["steps"]}
    return document


async def passes(world: World, raw: bytes, *, url: str | None = None) -> None:
    assert await world.decide(raw, url=url) is None
    code, document = await explained(world, raw, url)
    assert (code, document["decision"], document["reason"], document["cause"]) == (0, "allow", None, None)


async def mended(world: World, raw: bytes, cause: str, *, url: str | None = None) -> dict[str, Any]:
    """See a request refused for a cause, do what the fix says, and see the same request pass."""
    document = await refused(world, raw, cause, url=url)
    await world.apply(Fix(**document["fix"]))
    await passes(world, raw, url=url)
    return document


async def replaced(world: World, raw: bytes, cause: str, by: bytes, says: str) -> None:
    """See a request refused for a cause whose fix is another token, and see that one pass."""
    document = await refused(world, raw, cause)
    assert says in document["fix"]["text"]
    assert (document["fix"]["command"], document["fix"]["config"]) == (None, None)
    await passes(world, by)


async def add_long_ago(world: World) -> str:
    """Add a user who is older than any token here."""
    ann = await world.add()
    await world.sql("UPDATE users SET created_at = created_at - interval '1 day'")
    return ann


async def test_1_a_deleted_user(world: World) -> None:
    await world.add()
    await world.sql("UPDATE users SET status = 'deleted', deleted_at = '2026-01-31 12:00Z'")
    assert "2026-01-31T12:00:00Z" in (await mended(world, token("ann"), "user_deleted"))["summary"]


@pytest.mark.parametrize("status", ["suspended", "locked", "pending"])
async def test_2_a_user_who_is_not_active(world: World, status: str) -> None:
    await world.add()
    await world.sql("UPDATE users SET status = $1", status)
    await mended(world, token("ann"), f"user_{status}")


async def test_3_no_user_anywhere(world: World) -> None:
    await mended(world, token("ann"), "user_unknown")


@pytest.mark.parametrize(
    ("subject", "held", "iss", "cause"),
    [
        pytest.param("ann", "ann", SECOND_ISSUER, "subject_under_other_issuer", id="4"),
        pytest.param("Ann", "ann", tokens.ISSUER, "subject_case_differs", id="5"),
        pytest.param(" ann", "ann", tokens.ISSUER, "subject_spacing_or_encoding", id="6-spacing"),
        pytest.param("a%40b", "a@b", tokens.ISSUER, "subject_spacing_or_encoding", id="6-encoding"),
        pytest.param("auth0|ann", "ann", tokens.ISSUER, "subject_prefix_differs", id="7-token"),
        pytest.param("ann", "auth0|ann", tokens.ISSUER, "subject_prefix_differs", id="7-table"),
        pytest.param(UUID_TEXT.upper(), UUID_TEXT, tokens.ISSUER, "subject_uuid_spelling", id="12-case"),
        pytest.param(
            UUID_TEXT.replace("-", ""), UUID_TEXT, tokens.ISSUER, "subject_uuid_spelling", id="12-plain"
        ),
        pytest.param(f"{{{UUID_TEXT}}}", UUID_TEXT, tokens.ISSUER, "subject_uuid_spelling", id="12-braces"),
    ],
)
async def test_4_5_6_7_12_a_subject_like_another(
    world: World, subject: str, held: str, iss: str, cause: str
) -> None:
    await world.add(held, iss=iss)
    await mended(world, token(subject), cause)


async def test_8_an_address_for_a_subject(world: World) -> None:
    await world.add("7", email="ann@example.com")
    await mended(world, token("ann@example.com"), "subject_is_email")


async def test_9_a_primary_key_for_a_subject(world: World) -> None:
    await mended(world, token(await world.add("7")), "subject_is_user_id")


async def test_10_a_number_for_a_subject(world: World) -> None:
    await world.add("1234")
    await replaced(world, token(sub=1234), "subject_not_a_string", token("1234"), '"1234"')


async def test_11_no_subject(world: World) -> None:
    await world.add()
    nobody = tokens.sign(tokens.without(tokens.claims(), "sub"), tokens.rsa_key("main"))
    await replaced(world, nobody, "subject_missing", token("ann"), "`sub`")


@pytest.mark.parametrize("role", ["anon", "service_role"])
async def test_11_an_api_key(world: World, role: str) -> None:
    await world.add()
    key = tokens.sign(tokens.without(tokens.claims(role=role), "sub", "aud"), tokens.rsa_key("main"))
    await replaced(world, key, "api_key_used", token("ann"), "not the project's API key")


@pytest.mark.parametrize(
    "configured",
    [
        tokens.ISSUER.rstrip("/"),
        tokens.ISSUER.replace("https:", "http:"),
        tokens.ISSUER.replace("idp", "IDP"),
    ],
)
async def test_13_an_issuer_that_is_nearly_configured(world: World, configured: str) -> None:
    await world.add()
    world.config["issuers"][0]["issuer"] = configured
    await mended(world, token("ann"), "issuer_almost_configured")


async def test_13_an_issuer_of_another_environment(world: World) -> None:
    await world.add()
    staging = tokens.sign(
        tokens.claims("ann", iss="https://idp.staging.example.com/"), tokens.rsa_key("main")
    )
    await replaced(world, staging, "issuer_almost_configured", token("ann"), "from another environment")


async def test_14_another_audience(world: World) -> None:
    await world.add()
    bad = token("ann", aud="billing-api")
    await replaced(world, bad, "audience_mismatch", token("ann"), "request a token for")


@pytest.mark.parametrize(
    ("dates", "cause", "says"),
    [
        ({"iat": -7200, "exp": -3600}, "token_expired", "refresh"),
        ({"nbf": 3600, "exp": 7200}, "token_not_yet_valid", "Use the token after"),
        ({"iat": 3600, "exp": 7200}, "token_issued_in_future", "the issuer's clock"),
    ],
)
async def test_15_a_token_out_of_its_time(world: World, dates: dict[str, int], cause: str, says: str) -> None:
    await world.add()
    wrong: dict[str, JSON] = {name: now() + offset for name, offset in dates.items()}
    await replaced(world, token("ann", **wrong), cause, token("ann"), says)


@pytest.mark.parametrize("dates", [{"iat": -400, "exp": -40}, {"nbf": 120}, {"iat": 250, "exp": 600}])
async def test_15_a_clock_that_is_off(world: World, dates: dict[str, int]) -> None:
    await add_long_ago(world)
    wrong: dict[str, JSON] = {name: now() + offset for name, offset in dates.items()}
    await replaced(world, token("ann", **wrong), "clock_skew", token("ann"), "Synchronise the clocks")


async def test_16_a_key_that_is_not_published(world: World, tmp_path: Path) -> None:
    await world.add()
    raw = tokens.sign(tokens.claims("ann"), tokens.rsa_key("other"))
    document = await refused(world, raw, "key_unknown")
    key = next(step for step in document["steps"] if step["name"] == "key")
    assert key["detail"] == "3 keys, loaded 0 s ago, no error since then"
    assert "publish the key" in document["fix"]["text"]
    write_jwks(tmp_path / "main.json", tokens.rsa_key("main"), tokens.rsa_key("other"))
    await passes(world, raw)


async def test_16_a_key_that_has_probably_left(world: World) -> None:
    await world.add()
    old = tokens.sign(tokens.claims("ann", iat=now() - 7200), tokens.rsa_key("old"))
    await replaced(world, old, "key_rotated_out", token("ann"), "get a new token")


async def test_17_a_wrong_signature(world: World) -> None:
    await world.add()
    forged = tokens.sign(tokens.claims("ann"), tokens.rsa_key("stranger"), kid="main")
    await replaced(world, forged, "signature_invalid", token("ann"), "Get a new one")


async def test_18_an_id_token(world: World) -> None:
    await world.add()
    await replaced(
        world, token("ann", aud="client", nonce="n"), "id_token_used", token("ann"), "Send the access token"
    )


@pytest.mark.parametrize(
    ("kind", "issuer", "value", "cause"),
    [
        ("jti", "main", "j-1", "token_revoked"),
        ("user", "", None, "user_tokens_revoked"),
        ("issuer", "main", "", "issuer_tokens_revoked"),
    ],
)
async def test_19_a_revocation(world: World, kind: str, issuer: str, value: str | None, cause: str) -> None:
    ann = await world.add()
    await world.sql(
        "INSERT INTO revocations (kind, issuer, value, revoked_at, expires_at, reason, revoked_by)"
        " VALUES ($1, $2, $3, now() + interval '1 s', '2999-01-01Z', 'left on a train', 'operator')",
        kind, issuer, ann if value is None else value,
    )  # fmt: skip
    summary = (await mended(world, token("ann", jti="j-1"), cause))["summary"]
    for told in (time.strftime("%Y-", time.gmtime()), "left on a train", "operator", "2999-01-01"):
        assert told in summary


async def test_20_a_cached_answer_that_is_old(world: World) -> None:
    suspended = User(id=await world.add(), status=UserStatus.SUSPENDED)
    await world.remember(claims(), suspended, await world.guard())
    summary = (await mended(world, token("ann"), "cache_stale"))["summary"]
    assert "Redis has user" in summary
    assert "for another 5 min" in summary


async def test_21_a_remembered_miss(world: World) -> None:
    await add_long_ago(world)
    await world.remember(claims(), None, await world.guard())
    await mended(world, token("ann", iat=now() - 100), "negative_cache_entry")


async def test_22_a_replica_that_lags(world: World, replica: str) -> None:
    await add_long_ago(world)
    world.config["postgres"]["replica_dsn"] = replica
    world.config["cache"]["negative_ttl"] = "100ms"
    await world.guard()
    raw = token("ann", iat=now() - 100)
    document = await refused(world, raw, "replica_lag")
    assert {"identity.postgres": "fail", "identity.primary": "pass"}.items() <= {
        step["name"]: step["outcome"] for step in document["steps"]
    }.items()
    await world.apply(Fix(**document["fix"]))
    await asyncio.sleep(0.1)
    await passes(world, raw)


async def test_23_a_store_that_is_unreachable(world: World) -> None:
    await world.add()
    world.config["postgres"]["dsn"] = f"postgresql://127.0.0.1:{unused_port()}/x"
    document = await refused(world, token("ann"), "store_unreachable")
    assert document["fix"]["command"] is None
    assert "pg_isready -h 127.0.0.1 -p" in document["fix"]["text"]
    world.config["postgres"]["dsn"] = world.dsn
    await passes(world, token("ann"))


async def test_23_a_store_without_its_tables(world: World) -> None:
    world.config["postgres"]["schema"] = "fresh"
    document = await refused(world, token("ann"), "store_not_migrated")
    await world.apply(Fix(**document["fix"]))
    # The tables are there, and empty.
    await mended(world, token("ann"), "user_unknown")


async def test_23_a_store_that_refuses(world: World) -> None:
    await world.add()
    role = f"gateway_{time.monotonic_ns()}"
    await world.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    try:
        world.config["postgres"]["dsn"] = as_role(world.dsn, role, "p")
        await mended(world, token("ann"), "store_permission_denied")
    finally:
        await world.sql(f"DROP OWNED BY {role}")
        await world.sql(f"DROP ROLE {role}")


async def test_24_an_identity_of_another_tenant(world: World) -> None:
    await world.add(tenant="globex")
    await mended(world, token("ann", tenant_id="acme"), "identity_linked_to_other_tenant")


async def test_25_an_account_made_anew(world: World) -> None:
    await world.add("new", email="ann@example.com")
    raw = token("ann", iat=now() - 600, email="ann@example.com")
    document = await refused(world, raw, "account_recreated")
    await world.apply(Fix(**document["fix"]))
    assert await world.decide(raw) is None
    # The token is as old as before: it passes, and that is still said.
    code, document = await explained(world, raw, None)
    assert (code, document["decision"], document["cause"]) == (0, "allow", "account_recreated")


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("/admin/x", "role_missing"),
        ("/invoices/7", "route_not_found"),
        ("http://other.example.com/host/x", "route_not_found"),
    ],
)
async def test_26_the_requirements_of_the_route(world: World, url: str, cause: str) -> None:
    await world.add()
    await mended(world, token("ann"), cause, url=url)


async def test_26_a_scope_that_the_route_requires(world: World) -> None:
    await world.add()
    document = await refused(world, token("ann"), "scope_insufficient", url="/orders/1")
    assert (document["fix"]["command"], document["fix"]["config"]) == (None, None)
    await passes(world, token("ann", scope="orders:read"), url="/orders/1")
