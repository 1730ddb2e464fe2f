"""`/v1/issuers`, `/v1/caches`, `/v1/overview`, `/v1/audit` and `/v1/explain`."""

import uuid
from pathlib import Path

import pytest

from gateway.admin.endpoints.issuers import Issuers
from gateway.admin.endpoints.overview import Overview
from gateway.admin.health import Admin
from gateway.core.model import JSON, Issuer
from gateway.issuer_keys.fetch import Fetcher
from gateway.issuer_keys.keyring import KeyRing
from gateway.issuer_keys.sources import Secret
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.audit import AuditLog
from gateway.telemetry.history import Recorder
from gateway.telemetry.metrics import Metrics
from tests import tokens
from tests.admin.client import TOKEN, Api
from tests.fakes import RecordingKeyObserver
from tests.harness import open_house, token, write_jwks
from tests.workers.program import eventually

session = pytest.mark.asyncio(loop_scope="session")


@session
async def test_issuers_and_their_keys(api: Api) -> None:
    issuers = {issuer["name"]: issuer for issuer in (await api.get("/issuers")).json}
    assert list(issuers) == ["main", "second", "strict", "keyless", "joining"]
    main = issuers["main"]
    assert (main["issuer"], main["audiences"], main["ready"], main["last_error"]) == (
        tokens.ISSUER,
        [tokens.AUDIENCE],
        True,
        None,
    )
    assert [(key["kid"], key["algorithms"]) for key in main["keys"][1:]] == [
        ("main-ec", ["ES256"]),
        ("main-ed", ["Ed25519", "EdDSA"]),
    ]
    assert all(len(key["thumbprint"]) == 64 for key in main["keys"])
    keyless = issuers["keyless"]
    assert (keyless["ready"], keyless["keys"], keyless["age_seconds"]) == (False, [], None)
    assert "No such file" in keyless["last_error"]


async def test_paths_at_which_no_token_has_anything(tmp_path: Path, dsn: str, redis_url: str) -> None:
    keys = write_jwks(tmp_path / "keys.json", tokens.rsa_key("main"))
    entry: JSON = {
        "name": "main",
        "issuer": tokens.ISSUER,
        "audiences": [tokens.AUDIENCE],
        "keys": {"jwks_file": str(keys)},
        "claims": {
            "tenant": {"path": "tid", "optional": True},
            "scopes": ["scp", "scope"],
            "roles": "/a.b/c",
        },
    }
    routes: list[JSON] = [{"name": "private", "match": {"path": "/private/**"}, "upstream": "raw"}]
    admin = {"listen": "127.0.0.1:0", "token": TOKEN}
    async with (
        open_house(tmp_path, dsn, redis_url, admin=admin, issuers=[entry], routes=routes) as house,
        Api.of(house) as api,
    ):

        async def found() -> dict[str, bool | None]:
            (main,) = (await api.get("/issuers")).json
            return {path["path"]: path["found"] for path in main["paths"]}

        assert await found() == {"tid": None, "scp": None, "scope": None, "/a.b/c": None}
        assert (await house.request("/private/x", token=token(scope="x", iss="elsewhere"))).status == 401
        assert (await found())["scope"] is None
        assert (await house.request("/private/x", token=token(scope="x"))).status == 200
        assert await found() == {"tid": False, "scp": False, "scope": True, "/a.b/c": False}
        in_a_list = tokens.sign({**tokens.claims(), "a.b": {"c": []}}, tokens.rsa_key("main"))
        assert (await house.request("/private/x", token=in_a_list)).status == 200
        assert await found() == {"tid": False, "scp": False, "scope": True, "/a.b/c": True}
        explained = (await api.call("POST", "/explain", {"token": token().decode()})).json
        (step,) = (step for step in explained["steps"] if step["name"] == "claims")
        assert "nothing at `tid` (nor in any other token of this issuer so far)" in step["found"]
        assert "`scope`," in step["found"]


async def test_a_shared_secret_is_not_shown() -> None:
    """A hash would let guesses at it be checked."""
    sources = {"main": Secret(b"s" * 48)}
    fetcher = Fetcher()
    keys = KeyRing(sources, fetcher=fetcher, observer=RecordingKeyObserver())
    await keys.start()
    issuer = Issuer("main", tokens.ISSUER, frozenset({"a"}), frozenset({"HS256"}))
    overview = Overview(Metrics(), Admin(Metrics(), {}), None, Recorder(list).latest)
    audit = AuditLog(Postgres("postgresql://127.0.0.1:1/x"))
    shown = Issuers({"main": issuer}, keys, audit, overview, None)
    (key,) = shown._issuer(issuer, await overview.claim_paths()).keys
    assert (key.algorithms, key.thumbprint) == (["HS256", "HS384"], None)
    await keys.close()
    await fetcher.close()


async def test_keys_are_loaded_anew(tmp_path: Path, dsn: str, redis_url: str) -> None:
    admin = {"listen": "127.0.0.1:0", "token": TOKEN}
    async with open_house(tmp_path, dsn, redis_url, admin=admin) as house, Api.of(house) as api:
        write_jwks(tmp_path / "main.json", tokens.rsa_key("main"), tokens.rsa_key("new"))
        answer = await api.call("POST", "/issuers/main/refresh")
        assert answer.status == 200
        assert [key["kid"] for key in answer.json["keys"]] == ["main", "new"]
        # However often an operator asks.
        write_jwks(tmp_path / "main.json", tokens.rsa_key("newer"))
        answer = await api.call("POST", "/issuers/main/refresh")
        assert [key["kid"] for key in answer.json["keys"]] == ["newer"]
        assert answer.json["age_seconds"] < 5
        refused = await api.call("POST", "/issuers/nobody/refresh")
        assert (refused.status, refused.code) == (404, "not_found")


async def test_keys_that_could_not_be_loaded_are_no_success(tmp_path: Path, dsn: str, redis_url: str) -> None:
    admin = {"listen": "127.0.0.1:0", "token": TOKEN}
    async with open_house(tmp_path, dsn, redis_url, admin=admin) as house, Api.of(house) as api:
        (tmp_path / "main.json").write_text("not JSON")
        refused = await api.call("POST", "/issuers/main/refresh")
        assert (refused.status, refused.code) == (503, "keys_not_loaded")
        assert "not usable JSON" in refused.problem["detail"]
        assert "stay in use" in refused.problem["detail"]
        assert (await api.get("/issuers")).json[0]["ready"] is True
        refused = await api.call("POST", "/issuers/keyless/refresh")
        assert "there are no keys" in refused.problem["detail"]


@session
async def test_a_flush_empties_memory_and_redis(api: Api) -> None:
    async def remembered() -> bool:
        await api.house.request("/private/x", token=token())
        await api.house.request("/private/x", token=token(f"ghost-{uuid.uuid4().hex}"))
        caches = (await api.get("/caches")).json
        return bool(caches["trusted"]) and min(caches.values()) > 0

    await eventually(remembered)
    asked = await api.house.metric(
        "gateway_user_lookups_total", issuer="main", tier="postgres", result="found"
    )

    assert (await api.call("POST", "/cache/flush")).status == 204

    after = (await api.get("/caches")).json
    assert (after["users"], after["negative"], after["verdicts"]) == (0, 0, 0)
    await api.house.request("/private/x", token=token())
    assert asked + 1 == await api.house.metric(
        "gateway_user_lookups_total", issuer="main", tier="postgres", result="found"
    )


@session
async def test_the_overview_has_the_values_of_the_metrics(api: Api) -> None:
    await api.house.request("/private/x", token=token())
    await api.house.request("/private/x", token=token("suspended"))
    overview = (await api.get("/overview")).json
    assert overview["readiness"]["status"] == "degraded"
    assert overview["readiness"]["dependencies"]["postgres"] == {"status": "up", "detail": None}
    numbers = overview["metrics"]
    scraped = await api.house.metrics()

    def total(name: str, **labels: str) -> float:
        return sum(
            value
            for (found, having), value in scraped.items()
            if found == name and labels.items() <= dict(having).items()
        )

    assert numbers["denials"]["user_suspended"] == total("gateway_denials_total", reason="user_suspended")
    assert numbers["requests"]["2xx"] == total("gateway_requests_total", status="200")
    assert sum(numbers["requests"].values()) == total("gateway_requests_total")
    assert sum(numbers["lookups"].values()) == total("gateway_user_lookups_total")
    latency = numbers["latency"]
    assert len(latency["counts"]) == len(latency["bounds"]) + 1
    assert sum(latency["counts"]) == total("gateway_request_duration_seconds_count")
    assert latency["sum"] == pytest.approx(total("gateway_request_duration_seconds_sum"))
    assert (numbers["workers"], numbers["in_flight"]) == (1, 0)
    assert numbers["caches"]["users"] == total("gateway_cache_entries", cache="users")
    assert numbers["dependency_up"] == {"postgres": True, "redis": True}
    assert numbers["streams"] == {"postgres": True, "redis": True}


@session
@pytest.mark.parametrize("detail", ['{"a": ' + "[" * 65 + "]" * 65 + "}", '{"a": 1e999}'])
async def test_a_row_of_the_audit_that_cannot_be_read_takes_no_other_along(api: Api, detail: str) -> None:
    subject = f"audited-{uuid.uuid4().hex}"
    await api.new_user(subject)
    await api.house.sql(
        "INSERT INTO audit (actor, action, target, request_id, detail) VALUES ('sql', 'odd', $1, 'r', $2)",
        subject,
        detail,
    )
    odd, *others = (await api.get("/audit", limit=3)).json["items"]
    assert odd["target"] == subject
    assert list(odd["detail"]) == ["unreadable"]
    assert others


@session
async def test_the_audit_log_has_author_and_action(api: Api) -> None:
    subject = f"audited-{uuid.uuid4().hex}"
    created = await api.new_user(subject, email="private@example.com")
    user = created.json["id"]
    changed = await api.call(
        "PATCH",
        f"/users/{user}",
        {"status": "locked", "email": "other@example.com", "roles": []},
        headers=created.tag,
    )
    await api.call("PATCH", f"/users/{user}", {"status": "active"}, headers=created.tag)  # refused
    await api.call("DELETE", f"/users/{user}", headers=changed.tag)
    await api.call("POST", "/cache/flush")
    page = (await api.get("/audit", limit=4)).json
    assert [(row["action"], row["target"]) for row in page["items"]] == [
        ("caches.flush", "caches"),
        ("user.delete", f"user:{user}"),
        ("user.change", f"user:{user}"),
        ("user.create", f"user:{user}"),
    ]
    assert {row["actor"] for row in page["items"]} == {"api@127.0.0.1"}
    assert page["items"][2]["detail"] == {"changed": {"status": ["active", "locked"], "email": None}}
    assert page["items"][2]["request_id"] == changed.headers["x-request-id"]
    assert "example.com" not in str([row["detail"].get("changed") for row in page["items"]])
    older = (await api.get("/audit", limit=2, after=page["items"][1]["id"])).json
    assert older["items"] == page["items"][2:]
    of_user = (await api.get("/audit", limit=2, target=f"user:{user}")).json
    assert [row["action"] for row in of_user["items"]] == ["user.delete", "user.change"]
    assert of_user["next"] == page["items"][2]["id"]


@session
async def test_the_reason_of_a_change_is_in_the_audit_and_not_in_the_user(api: Api) -> None:
    created = await api.new_user(f"audited-{uuid.uuid4().hex}")
    user = created.json["id"]
    body = {"status": "suspended", "reason": "laptop stolen"}
    changed = await api.call("PATCH", f"/users/{user}", body, headers=created.tag)
    assert (changed.status, "laptop" in changed.content.decode()) == (200, False)
    row, *_ = (await api.get("/audit", target=f"user:{user}")).json["items"]
    assert row["detail"] == {"changed": {"status": ["active", "suspended"]}, "reason": "laptop stolen"}


@session
async def test_the_history_of_a_gateway_that_has_just_started_is_empty(api: Api) -> None:
    found = (await api.get("/history", minutes=60, step=5)).json
    assert len(found["bounds"]) > 10
    # A minute may have passed since the gateway of these tests started.
    assert all(point["seconds"] > 0 for point in found["points"])
    assert (await api.get("/history", minutes=1441)).code == "validation_failed"


@session
async def test_the_configuration_is_shown_without_secrets(api: Api) -> None:
    answer = await api.get("/configuration")
    settings = {each["name"]: each for each in answer.json["settings"]}
    assert settings["admin.token"] == {"name": "admin.token", "value": "***", "given": True}
    assert settings["log.access"]["value"] is True
    assert not settings["cache.local_ttl"]["given"]
    assert TOKEN not in answer.content.decode()


@session
async def test_a_token_is_explained(api: Api) -> None:
    body = {"token": token("suspended").decode(), "method": "GET", "url": "/private/x"}
    explained = await api.call("POST", "/explain", body)
    assert explained.status == 200
    assert (explained.json["decision"], explained.json["reason"], explained.json["cause"]) == (
        "deny",
        "user_suspended",
        "user_suspended",
    )
    assert explained.json["fix"]["text"]
    assert {step["name"] for step in explained.json["steps"]} >= {"signature", "user"}
    assert (await api.call("POST", "/explain", {"token": "rubbish"})).json["decision"] == "deny"
    assert body["token"] not in api.house.log.getvalue()
