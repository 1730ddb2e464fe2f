"""`POST /v1/explain` leaves no traces."""

import time
import uuid
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests import tokens
from tests.admin.client import TOKEN, Api
from tests.explain.secret import FAILING, assert_absent
from tests.harness import open_house, token
from tests.stores.cable import Cable
from tests.stores.examples import eventually

session = pytest.mark.asyncio(loop_scope="session")

_BY_ITSELF = ("jwks_", "process_", "python_", "age_seconds", "up_seconds", "upstream_connections")
"""Parts of the names of metrics that change without requests."""


@session
@pytest.mark.parametrize("name", FAILING)
async def test_a_token_is_in_no_answer_and_no_log(api: Api, name: str) -> None:
    raw = FAILING[name]()
    body = {"token": raw.decode("latin-1"), "url": f"/orders/1?access_token={raw.decode('latin-1')}"[:8000]}
    answer = await api.call("POST", "/explain", body)
    # A URL with control characters is none, and that is said without quoting it.
    assert answer.status == (422 if name == "control-characters" else 200), answer.content
    for text in (answer.content, str(answer.headers), api.house.log.getvalue()):
        assert_absent(raw, text)
    for told in (await api.get("/denials", limit=1000), await api.get("/audit", limit=500)):
        assert_absent(raw, told.content)


@session
async def test_a_defect_does_not_tell_the_token_either(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr("gateway.explain.engine.judge", broken)
    raw = token("ann")
    answer = await api.call("POST", "/explain", {"token": raw.decode()})
    assert (answer.status, answer.code) == (503, "internal_error")
    assert api.house.events("internal_error")
    assert_absent(raw, answer.content)
    assert_absent(raw, api.house.log.getvalue())


@session
async def test_the_clock_of_an_issuer_is_known_from_its_tokens(api: Api) -> None:
    """Those that a worker has verified in full; other tests' tokens are among them."""
    subject = f"clock-{uuid.uuid4().hex}"
    await api.new_user(subject)
    for _ in range(6):
        await api.house.request("/private/x", token=token(subject))
    now = int(time.time())
    expired = token(subject, iat=now - 600, exp=now - 40)
    answer = (await api.call("POST", "/explain", {"token": expired.decode()})).json
    assert answer["cause"] in {"token_expired", "clock_skew"}
    assert "tokens that this worker verified" in f"{answer['summary']} {answer['fix']['text']}"


@session
async def test_nothing_is_changed(api: Api) -> None:
    house, subject = api.house, f"explained-{uuid.uuid4().hex}"
    await api.new_user(subject)
    known, ghost = token(subject), token(f"ghost-{uuid.uuid4().hex}")
    for each in (known, ghost):
        await house.request("/private/x", token=each)
    before = await state(api)
    for raw in (
        *(make() for make in FAILING.values()),
        known,
        ghost,
        tokens.sign(tokens.claims(subject), tokens.rsa_key("other")),
    ):
        for url in (None, "/orders/1", "/nowhere"):
            question = {"token": raw.decode("latin-1")} | ({"url": url} if url else {})
            assert (await api.call("POST", "/explain", question)).status == 200
    after = await state(api)
    # Misses lapse meanwhile; nothing is new and nothing is different.
    assert [
        (name, before.get(name), value) for name, value in after.items() if before.get(name) != value
    ] == []


async def test_a_worker_without_changes_reports_it(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with (
        Cable(dsn) as cable,
        open_house(
            tmp_path, dsn, redis_url, postgres={"listen_dsn": cable.url}, admin={"token": TOKEN}
        ) as house,
        Api.of(house) as api,
    ):

        async def memory() -> tuple[str, str]:
            answer = await api.call("POST", "/explain", {"token": token().decode()})
            (step,) = [step for step in answer.json["steps"] if step["name"] == "identity.local"]
            return step["outcome"], str(step["detail"])

        await house.ready()
        assert (await memory())[0] == "pass"
        await cable.pull()

        async def deaf() -> bool:
            return (await memory())[0] == "warn"

        await eventually(deaf)
        assert (await memory())[1].startswith(
            "this worker does not receive the changes of Postgres: every request asks Postgres"
        )
        await cable.plug()
        await house.ready()
        assert (await memory())[0] == "pass"


async def state(api: Api) -> dict[str, object]:
    """Return what there is in the stores, in memory and in the counters."""
    house = api.house
    found: dict[str, object] = {
        f"{name} {sorted(labels)}": value
        for (name, labels), value in (await house.metrics()).items()
        if not any(part in name for part in _BY_ITSELF)
    }
    for path in ("caches", "denials", "audit", "revocations"):
        found[path] = (await api.get(f"/{path}")).json
    found["issuers"] = [
        (issuer["name"], issuer["ready"], issuer["keys"]) for issuer in (await api.get("/issuers")).json
    ]
    for table in ("users", "identities", "revocations", "audit"):
        rows = await house.sql(f"SELECT t::text AS row FROM {table} t ORDER BY 1")  # noqa: S608 -- constant names
        found[table] = [row["row"] for row in rows]
    async with Redis.from_url(house.redis_url) as client:
        # Heartbeats come and go.
        keys = [key async for key in client.scan_iter(f"{house.prefix}*") if b"tombstone::" not in key]
        found.update({str(key): await client.get(key) for key in keys if not key.endswith(b":epoch")})
    return found
