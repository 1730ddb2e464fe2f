"""`/v1/revocations`: a revocation is in effect when its response arrives."""

import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.core.model import JSON
from tests import tokens
from tests.admin.client import TOKEN, Api
from tests.harness import STRICT_ISSUER, open_house, token

session = pytest.mark.asyncio(loop_scope="session")


async def passes(api: Api, raw: bytes) -> bool:
    return (await api.house.request("/private/x", token=raw)).status == 200


@session
async def test_a_token_is_revoked_and_the_revocation_lifted(api: Api) -> None:
    jti = uuid.uuid4().hex
    raw = token(jti=jti)
    assert await passes(api, raw)
    row = await api.call(
        "POST", "/revocations", {"kind": "jti", "issuer": tokens.ISSUER, "value": jti, "reason": "lost"}
    )
    assert row.status == 201
    assert row.json == {
        "kind": "jti",
        "issuer": "main",
        "value": jti,
        "revoked_at": row.json["revoked_at"],
        "expires_at": None,
        "reason": "lost",
        "revoked_by": "api@127.0.0.1",
    }
    assert not await passes(api, raw)

    lifted = await api.call("DELETE", "/revocations", query={"kind": "jti", "issuer": "main", "value": jti})
    assert (lifted.status, lifted.content) == (204, b"")
    assert await passes(api, raw)
    again = await api.call("DELETE", "/revocations", query={"kind": "jti", "issuer": "main", "value": jti})
    assert (again.status, again.code) == (404, "not_found")


@session
async def test_a_revocation_that_another_program_set_in_redis_is_lifted_too(api: Api) -> None:
    jti = uuid.uuid4().hex
    await api.house.set_key(f"revoked:jti:main:{jti}", "1")
    lifted = await api.call("DELETE", "/revocations", query={"kind": "jti", "issuer": "main", "value": jti})
    assert lifted.status == 204


@session
async def test_a_revocation_of_an_issuer_that_is_no_longer_configured_is_lifted(api: Api) -> None:
    query = {"kind": "jti", "issuer": "retired", "value": uuid.uuid4().hex}
    assert (await api.call("DELETE", "/revocations", query=query)).status == 404
    await api.house.sql(
        "INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'retired', $1)", query["value"]
    )
    await api.house.set_key(f"revoked:jti:retired:{query['value']}", "1")
    assert (await api.call("DELETE", "/revocations", query=query)).status == 204
    assert (await api.call("DELETE", "/revocations", query=query)).status == 404
    query = {"kind": "issuer", "issuer": "retired"}
    assert (await api.call("DELETE", "/revocations", query=query)).status == 404


async def test_without_redis_a_missing_revocation_is_not_a_404(tmp_path: Path, dsn: str) -> None:
    """Redis may hold a revocation of which Postgres has no row."""
    admin = {"listen": "127.0.0.1:0", "token": TOKEN}
    async with open_house(tmp_path, dsn, "redis://127.0.0.1:1/0", admin=admin) as house, Api.of(house) as api:
        body = {"kind": "jti", "issuer": "main", "value": "t-1"}
        unknown = await api.call("DELETE", "/revocations", query=body)
        assert (unknown.status, unknown.code) == (503, "store_unavailable")
        assert (await api.call("POST", "/revocations", body)).status == 201
        assert (await api.call("DELETE", "/revocations", query=body)).status == 204


@session
async def test_all_tokens_of_a_user_are_revoked(api: Api) -> None:
    subject = uuid.uuid4().hex
    user = (await api.new_user(subject)).json["id"]
    raw = token(subject, iat=int(time.time()) - 10)
    assert await passes(api, raw)
    spelt = f"{{{user.upper()}}}"
    row = await api.call("POST", "/revocations", {"kind": "user", "value": spelt})
    assert (row.status, row.json["value"], row.json["issuer"]) == (201, user, None)
    assert not await passes(api, raw)
    assert (await api.call("DELETE", "/revocations", query={"kind": "user", "value": user})).status == 204
    assert await passes(api, raw)


async def test_all_tokens_of_an_issuer_are_revoked(tmp_path: Path, dsn: str, redis_url: str) -> None:
    admin = {"listen": "127.0.0.1:0", "token": TOKEN}
    async with open_house(tmp_path, dsn, redis_url, admin=admin) as house, Api.of(house) as api:
        raw = token(iat=int(time.time()) - 10)
        assert await passes(api, raw)
        row = await api.call("POST", "/revocations", {"kind": "issuer", "issuer": "main"})
        assert (row.status, row.json["issuer"], row.json["value"]) == (201, "main", None)
        assert not await passes(api, raw)
        assert (
            await api.call("DELETE", "/revocations", query={"kind": "issuer", "issuer": "main"})
        ).status == 204
        assert await passes(api, raw)


@session
async def test_a_revocation_ends_at_the_given_time_or_at_the_longest_lifetime(api: Api) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    body: dict[str, object] = {"kind": "jti", "issuer": "main", "value": uuid.uuid4().hex}
    row = await api.call("POST", "/revocations", {**body, "until": until.isoformat()})
    assert datetime.fromisoformat(row.json["expires_at"]) == until

    body = {"kind": "jti", "issuer": STRICT_ISSUER, "value": uuid.uuid4().hex}
    row = await api.call("POST", "/revocations", body)
    left = datetime.fromisoformat(row.json["expires_at"]).timestamp() - time.time()
    assert 600 < left <= 600 + 60  # `max_lifetime`, and twice the leeway


@session
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "jti", "value": "x"}, "issuer"),
        ({"kind": "jti", "issuer": "main"}, "value"),
        ({"kind": "jti", "issuer": "nobody", "value": "x"}, "issuer"),
        ({"kind": "user"}, "value"),
        ({"kind": "user", "value": "ann"}, "value"),
        ({"kind": "user", "value": str(uuid.UUID(int=1))}, "value"),
        ({"kind": "user", "value": str(uuid.UUID(int=1)), "issuer": "main"}, "issuer"),
        ({"kind": "issuer", "issuer": "main", "value": "x"}, "value"),
        ({"kind": "session"}, "kind"),
        ({"kind": "issuer", "issuer": "main", "until": "2001-01-01T00:00:00Z"}, "until"),
        ({"kind": "issuer", "issuer": "main", "until": "9999-12-31T23:59:59-12:00"}, "until"),
        ({"kind": "issuer", "issuer": "main", "until": "2999-01-01T00:00:00"}, "until"),
        ({"kind": "issuer", "issuer": "main", "until": 4_000_000_000}, "until"),
        ({"kind": "jti", "issuer": "main", "value": "a\tb"}, "value"),
        ({"kind": "jti", "issuer": "main", "value": "x" * 501}, "value"),
    ],
)
async def test_a_revocation_of_another_shape(api: Api, body: dict[str, object], field: str) -> None:
    answer = await api.call("POST", "/revocations", body)
    assert (answer.status, [error["field"] for error in answer.problem["errors"]]) == (422, [field])


@session
async def test_the_longest_values_fit_into_the_table(api: Api) -> None:
    """An index entry has room for 2704 bytes, compressed or not."""
    value = "".join(chr(0x10000 + (number * 7919) % 60_000) for number in range(500))
    answer = await api.call("POST", "/revocations", {"kind": "jti", "issuer": "main", "value": value})
    assert answer.status == 201


@session
async def test_pages_have_every_revocation_once(api: Api) -> None:
    mark = uuid.uuid4().hex
    for number in range(5):
        # Of one instant, and later than any other.
        await api.house.sql(
            "INSERT INTO revocations (kind, issuer, value, revoked_at, expires_at) VALUES"
            " ('jti', 'main', $1, '2100-01-01 00:00:00.000001+00',"
            " CASE WHEN $2 THEN now() - interval '1 minute' END)",
            f"{mark}-{number}", number == 4,
        )  # fmt: skip
    for expired, count in (("false", 4), ("true", 5)):
        seen: list[str] = []
        query: dict[str, str | int] = {"limit": 2, "expired": expired}
        while len(seen) < count:
            page = (await api.get("/revocations", **query)).json
            seen += [each["value"] for each in page["items"] if each["value"].startswith(mark)]
            query["after"] = page["next"]
        assert sorted(seen) == [f"{mark}-{number}" for number in range(count)]
    await api.house.sql("DELETE FROM revocations WHERE value LIKE $1", f"{mark}%")


# By the token itself -------------------------------------------------------------------------------


@session
async def test_a_token_that_is_given_is_revoked_until_it_has_expired(api: Api) -> None:
    jti = uuid.uuid4().hex
    raw = token(jti=jti)
    assert await passes(api, raw)
    body = {"token": f"Authorization: Bearer {raw.decode()}\n", "reason": "pasted into a chat"}
    row = await api.call("POST", "/revocations/token", body)
    assert row.status == 201
    found = (row.json["kind"], row.json["issuer"], row.json["value"], row.json["reason"])
    assert found == ("jti", "main", jti, "pasted into a chat")
    assert row.json["expires_at"] is not None
    assert not await passes(api, raw)
    kept = await api.call("GET", "/audit", query={"target": "revocation:jti", "limit": 1})
    assert kept.json["items"][0]["detail"]["value"] == jti
    signature = raw.rpartition(b".")[2].decode()
    assert signature not in kept.content.decode() + row.content.decode() + api.house.log.getvalue()


@session
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": 7}, "not configured"),
        ({"iss": "https://other.example.com/"}, "not configured"),
        ({"jti": None}, "no valid `jti`"),
        ({"exp": 1_000_000_000}, "has expired"),
        ({}, "refuses it anyway"),
    ],
)
async def test_a_token_that_cannot_be_revoked_alone_is_refused_and_not_shown(
    api: Api, changes: dict[str, JSON], why: str
) -> None:
    raw = token("member", **changes) if changes else b"no token"
    refused = await api.call("POST", "/revocations/token", {"token": raw.decode()})
    assert (refused.status, refused.code) == (422, "validation_failed")
    assert why in refused.problem["errors"][0]["message"]
    assert raw.decode() not in refused.content.decode()
