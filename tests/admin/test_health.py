"""The admin port: health, readiness, and each dependency by name."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from gateway.admin.health import Admin, Dependency, Finding, readiness
from gateway.admin.readiness import issuer_finding
from gateway.core.model import JSON
from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis
from gateway.issuer_keys.issuer import KeyStatus
from gateway.telemetry.metrics import Metrics
from tests import tokens
from tests.harness import House, open_house, token, unused_port, write_jwks
from tests.sockets import Response
from tests.stores.examples import eventually

session = pytest.mark.asyncio(loop_scope="session")


def parsed(response: Response) -> dict[str, JSON]:
    document = json.loads(response.content)
    assert isinstance(document, dict)
    return document


async def ready(house: House) -> tuple[int, JSON, dict[str, JSON]]:
    """Return status, the word for it, and each dependency's state."""
    response = await house.admin("/readyz")
    document = parsed(response)
    dependencies = document["dependencies"]
    assert isinstance(dependencies, dict)
    states: dict[str, JSON] = {}
    for name, finding in dependencies.items():
        assert isinstance(finding, dict)
        states[name] = finding["status"]
        assert (finding["status"] == "up") is (finding["detail"] is None)
    return response.status, document["status"], states


async def until_ready(house: House) -> None:
    deadline = time.monotonic() + 8
    while (await ready(house))[0] != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@session
async def test_healthz_reports_alive(house: House) -> None:
    response = await house.admin("/healthz")
    assert (response.status, parsed(response)) == (200, {"status": "alive"})


async def both_streams_up(house: House) -> bool:
    _, _, states = await ready(house)
    return states["stream:postgres"] == states["stream:redis"] == "up"


@session
async def test_readyz_names_each_dependency(house: House) -> None:
    """One issuer without keys leaves the gateway degraded, for the others' tokens pass."""
    await eventually(lambda: both_streams_up(house))
    assert await ready(house) == (
        200,
        "degraded",
        {
            "postgres": "up",
            "redis": "up",
            "stream:postgres": "up",
            "stream:redis": "up",
            "issuer:main": "up",
            "issuer:second": "up",
            "issuer:strict": "up",
            "issuer:keyless": "down",
            "issuer:joining": "up",
        },
    )


@session
async def test_metrics_are_prometheus_text(house: House) -> None:
    await house.request("/private/x", token=token())
    response = await house.admin("/metrics")
    assert (response.field(b"content-type") or b"").startswith(b"text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.content.decode())}
    assert {
        "gateway_requests": "counter",
        "gateway_request_duration_seconds": "histogram",
        "gateway_upstream_duration_seconds": "histogram",
        "gateway_denials": "counter",
        "gateway_user_lookups": "counter",
        "gateway_user_lookup_failures": "counter",
        "gateway_user_lookup_duration_seconds": "histogram",
        "gateway_token_verifications": "counter",
        "gateway_revocation_checks": "counter",
        "gateway_jwks_refreshes": "counter",
        "gateway_jwks_age_seconds": "gauge",
        "gateway_cache_entries": "gauge",
        "gateway_dependency_up": "gauge",
        "gateway_upstream_connections": "gauge",
        "gateway_in_flight_requests": "gauge",
    }.items() <= {name: family.type for name, family in families.items()}.items()
    assert all(family.documentation for family in families.values())


@session
@pytest.mark.parametrize("path", ["/", "/v1/users", "/private/x"])
async def test_the_admin_port_serves_nothing_else(house: House, path: str) -> None:
    assert (await house.admin(path)).status in {401, 404}


@session
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_the_data_plane_does_not_serve_the_admin_port(house: House, path: str) -> None:
    assert (await house.request(path)).status == 404


async def test_a_dependency_that_is_down_is_named_and_recovers_by_itself(
    tmp_path: Path,
    dsn: str,
    redis_url: str,
    postgres_server: EmbeddedPostgres,
    redis_server: EmbeddedRedis,
) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:
        redis_server.stop()
        status, word, states = await ready(house)
        assert (status, word, states["redis"], states["postgres"]) == (200, "degraded", "down", "up")
        postgres_server.stop()
        status, word, states = await ready(house)
        assert (status, word, states["redis"], states["postgres"]) == (503, "not_ready", "down", "down")
        assert (await house.admin("/healthz")).status == 200
        details = json.dumps(parsed(await house.admin("/readyz")))
        assert str(postgres_server.port) in details
        assert postgres_server.dsn.split(":")[2].partition("@")[0] not in details
        postgres_server.start()
        redis_server.start()
        await until_ready(house)
        assert (await ready(house))[2]["redis"] == "up"
        assert (await house.request("/private/x", token=token())).status == 200


async def test_redis_stands_in_for_postgres_once_that_has_answered(
    tmp_path: Path,
    dsn: str,
    redis_url: str,
    postgres_server: EmbeddedPostgres,
    redis_server: EmbeddedRedis,
) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:
        assert (await house.request("/private/x", token=token())).status == 200
        await house.filled()
        postgres_server.stop()
        status, word, states = await ready(house)
        assert (status, word, states["postgres"], states["redis"]) == (200, "degraded", "down", "up")
        assert (await house.request("/private/x", token=token())).status == 200
        assert await dependency_up(house) == {"postgres": 0, "redis": 1}
        async with open_house(tmp_path, dsn, redis_url, seeded=False) as late:
            # Nor does a gateway use a Redis before it knows whose it is.
            status, word, states = await ready(late)
            assert (status, word, states["redis"]) == (503, "not_ready", "down")
        redis_server.stop()
        assert (await ready(house))[:2] == (503, "not_ready")
        redis_server.start()
        postgres_server.start()
        await until_ready(house)


async def dependency_up(house: House) -> dict[str, float]:
    page = (await house.admin("/metrics")).content.decode()
    return {
        sample.labels["dependency"]: sample.value
        for family in text_string_to_metric_families(page)
        if family.name == "gateway_dependency_up"
        for sample in family.samples
    }


async def test_each_outage_is_a_line_when_it_begins_and_one_when_it_ends(
    tmp_path: Path, dsn: str, redis_url: str, redis_server: EmbeddedRedis, postgres_server: EmbeddedPostgres
) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:
        with capture_logs() as logs:
            for server in (redis_server, postgres_server):
                server.stop()
                for _ in range(3):
                    await house.request("/private/x", token=token())
                await ready(house)
                server.start()
            deadline = time.monotonic() + 8
            while await dependency_up(house) != {"postgres": 1, "redis": 1}:
                await ready(house)
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
    changes = [entry for entry in logs if entry["event"] in {"dependency_down", "dependency_up"}]
    assert sorted((entry["dependency"], entry["event"]) for entry in changes) == [
        ("postgres", "dependency_down"),
        ("postgres", "dependency_up"),
        ("redis", "dependency_down"),
        ("redis", "dependency_up"),
    ]
    assert all("127.0.0.1" in entry["detail"] for entry in changes if entry["event"] == "dependency_down")


async def test_a_gateway_without_dependencies_starts_and_reports_them(tmp_path: Path) -> None:
    nowhere = unused_port()
    async with open_house(
        tmp_path,
        f"postgresql://gateway@127.0.0.1:{nowhere}/gateway",
        f"redis://127.0.0.1:{nowhere}/0",
        seeded=False,
    ) as house:
        status, word, states = await ready(house)
        assert (status, word, states["postgres"], states["redis"]) == (503, "not_ready", "down", "down")
        assert (await house.request("/public/x")).status == 200
        response = await house.request("/private/x", token=token())
        assert (response.status, response.code) == (503, "revocation_unavailable")


async def test_a_gateway_that_was_started_first_recovers(
    tmp_path: Path, dsn: str, redis_url: str, postgres_server: EmbeddedPostgres, redis_server: EmbeddedRedis
) -> None:
    async with open_house(tmp_path, dsn, redis_url):
        pass  # the users are there
    postgres_server.stop()
    redis_server.stop()
    async with open_house(tmp_path, dsn, redis_url, seeded=False) as house:
        assert (await ready(house))[0] == 503
        postgres_server.start()
        redis_server.start()
        await until_ready(house)
        assert (await house.request("/private/x", token=token())).status == 200


async def test_an_issuer_that_was_down_at_the_start_recovers(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:
        assert (await ready(house))[2]["issuer:keyless"] == "down"
        write_jwks(tmp_path / "missing.json", tokens.rsa_key("main"))
        deadline = time.monotonic() + 8
        while (await ready(house))[2]["issuer:keyless"] == "down":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def found(status: str) -> Finding:
    return Finding("up") if status == "up" else Finding("down", "why")


@pytest.mark.parametrize(
    ("states", "essential", "word"),
    [
        ({"a": "up", "b": "up"}, {"a", "b"}, "ready"),
        ({"a": "up", "b": "down"}, {"a"}, "degraded"),
        ({"a": "down", "b": "up"}, {"a"}, "not_ready"),
        ({"a:1": "down", "a:2": "up"}, {"a:1", "a:2"}, "degraded"),
        ({"a:1": "down", "a:2": "down"}, {"a:1", "a:2"}, "not_ready"),
    ],
)
async def test_readiness(states: dict[str, str], essential: set[str], word: str) -> None:
    dependencies = {
        name: Dependency(lambda state=state: found(state), name in essential)  # type: ignore[misc]  # mypy infers no type for a default
        for name, state in states.items()
    }
    assert (await readiness(dependencies)).status == word


async def test_a_check_that_hangs_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("gateway.admin.health.CHECK_SECONDS", 0.01)
    state = await readiness({"store": Dependency(hang, essential=True)})
    assert state.status == "not_ready"
    assert "0.01 s" in (state.dependencies["store"].detail or "")


@pytest.mark.parametrize(
    ("stand_in", "other", "word"),
    [
        ("b", "up", "degraded"),
        ("b", "down", "not_ready"),
        (None, "up", "not_ready"),
        ("c", "up", "not_ready"),
    ],
)
async def test_a_stand_in(stand_in: str | None, other: str, word: str) -> None:
    dependencies = {
        "a": Dependency(lambda: found("down"), essential=True, stand_in=lambda: stand_in),
        "b": Dependency(lambda: found(other), essential=False),
    }
    assert (await readiness(dependencies)).status == word


async def test_a_check_with_a_defect_is_down_and_logged() -> None:
    async def broken() -> Finding:
        raise ZeroDivisionError("odd")

    with capture_logs() as logs:
        state = await readiness({"store": Dependency(broken, essential=True)})
    assert state.dependencies["store"] == Finding("down", "its check failed: ZeroDivisionError")
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("check_failed", "error")]
    assert logs[0]["exc_info"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("POST", "/healthz", 405)])
async def test_a_path_that_is_not_served_gets_a_problem(method: str, path: str, status: int) -> None:
    async with TestClient(TestServer(Admin(Metrics(), {}).application())) as client:
        response = await client.request(method, path)
        assert response.status == status
        assert response.content_type == "application/problem+json"
        problem = await response.json()
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["X-Request-Id"]


async def test_every_answer_has_a_request_id_of_its_own() -> None:
    async with TestClient(TestServer(Admin(Metrics(), {}).application())) as client:
        answers = [await client.get(path) for path in ("/healthz", "/readyz", "/metrics")]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 3


@pytest.mark.parametrize(
    ("ready", "error", "left_out", "status", "detail"),
    [
        (True, None, 0, "up", None),
        (True, "the URL answered 503", 0, "degraded", "answered 503; the 3 keys loaded before stay in use"),
        (True, None, 7, "degraded", "7 published keys are ignored: only the first 3 are kept"),
        (False, "its list `keys` is empty", 0, "down", "its list `keys` is empty"),
    ],
)
def test_an_issuer_with_keys_and_an_error_is_degraded(
    ready: bool,
    error: str | None,
    left_out: int,
    status: str,
    detail: str | None,
) -> None:
    found = issuer_finding(KeyStatus(ready, 3, 1.0, error, (), left_out, {}))
    assert found.status == status
    assert (found.detail or "").endswith(detail or "")
    assert (found.detail is None) is (detail is None)


async def test_a_degraded_gateway_is_ready() -> None:
    async def degraded() -> Finding:
        return Finding("degraded", "why")

    state = await readiness({"issuer:main": Dependency(degraded, essential=True)})
    assert (state.status, state.serves) == ("degraded", True)
