"""The meaning of each metric, and the values that are never labels."""

import time
from collections.abc import Callable
from functools import partial

import pytest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.model import Claims
from gateway.core.reasons import CATALOGUE, USER_NOT_FOUND, Denial
from gateway.telemetry.metrics import Metrics, is_lookup_failure
from gateway.telemetry.series import add_up, expose_as
from tests.telemetry.scrape import value

CLAIMS = Claims("https://idp.example.com/", "main", "member", (), None, None, None, None, (), (), {})


def test_changes_are_counted_by_source() -> None:
    metrics = Metrics()
    metrics.prepare(["main"], [])
    metrics.invalidated("postgres")
    assert value(metrics, "invalidations_total", source="postgres") == 1
    assert value(metrics, "invalidations_total", source="redis") == 0


@pytest.mark.parametrize("reason", CATALOGUE.values(), ids=CATALOGUE)
def test_a_denial_is_counted_once_and_a_failed_look_up_too(reason: object) -> None:
    metrics = Metrics()
    denial = Denial(reason, issuer="main")  # type: ignore[arg-type]  # parametrize loses the type
    metrics.denied(denial, "orders")
    code = denial.reason.code
    assert value(metrics, "denials_total", route="orders", issuer="main", reason=code) == 1
    failures = value(metrics, "user_lookup_failures_total", issuer="main", reason=code)
    assert (failures == 1) is (
        code == "user_store_unavailable" or code.startswith(("user_", "account_", "tokens_", "tenant_"))
    )


def test_the_series_of_alerts_exist_from_the_start() -> None:
    metrics = Metrics()
    metrics.prepare(["main", "second"], CATALOGUE.values())
    assert value(metrics, "user_lookup_failures_total", issuer="second", reason=USER_NOT_FOUND.code) == 0
    assert sum(map(is_lookup_failure, CATALOGUE.values())) == 9


def test_the_series_of_dashboards_exist_from_the_start() -> None:
    metrics = Metrics()
    metrics.prepare(["main"], [])
    metrics.prepare_traffic(["orders"])
    assert value(metrics, "request_bytes_total", route="orders") == 0
    assert value(metrics, "response_bytes_total", route="orders") == 0
    assert value(metrics, "stale_answers_total", issuer="main") == 0
    assert value(metrics, "jwks_refreshes_total", issuer="main", result="failure") == 0
    assert value(metrics, "revocations_learnt_total", result="dropped") == 0


def test_bytes_are_those_of_the_routes_traffic() -> None:
    metrics = Metrics()
    metrics.prepare_traffic(["orders"])
    metrics.traffic["orders"].received += 3
    metrics.traffic["orders"].sent += 5
    for _ in range(2):
        assert value(metrics, "request_bytes_total", route="orders") == 3
        assert value(metrics, "response_bytes_total", route="orders") == 5


@pytest.mark.parametrize("method", ["PROPFIND", "get", "A" * 100])
def test_an_unusual_method_is_counted_as_other(method: str) -> None:
    metrics = Metrics()
    metrics.finished("orders", method, 200, 0.1)
    assert value(metrics, "requests_total", route="orders", method="OTHER", status="200") == 1
    assert value(metrics, "request_duration_seconds_sum", route="orders") == 0.1


@pytest.mark.parametrize(
    ("watch", "name", "labels"),
    [
        (
            lambda metrics, read: metrics.cache_entries.read(("users",), read),
            "cache_entries",
            {"cache": "users"},
        ),
        (
            lambda metrics, read: metrics.jwks_age.read(("main",), read),
            "jwks_age_seconds",
            {"issuer": "main"},
        ),
    ],
    ids=["cache", "jwks-age"],
)
def test_a_gauge_is_read_at_each_scrape(
    watch: Callable[[Metrics, Callable[[], float]], None], name: str, labels: dict[str, str]
) -> None:
    metrics = Metrics()
    current = 1.0
    watch(metrics, lambda: current)
    assert value(metrics, name, **labels) == 1
    current = 2.0
    assert value(metrics, name, **labels) == 2


def test_names_units_and_types_follow_prometheus() -> None:
    metrics = Metrics()
    metrics.finished("orders", "GET", 200, 0.1)
    metrics.relayed("orders", 0.1, broken=True)
    families = list(text_string_to_metric_families(metrics.expose().decode()))
    assert families
    for family in families:
        assert family.name.startswith(("gateway_", "process_"))
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_two_gateways_in_one_process_count_separately() -> None:
    first, second = Metrics(), Metrics()
    first.jwks_refreshed("main", "success")
    assert value(first, "jwks_refreshes_total", issuer="main", result="success") == 1
    assert value(second, "jwks_refreshes_total", issuer="main", result="success") is None


def test_of_several_processes_the_latest_example_of_a_bucket_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = []
    for now, trace_id in ((1.0, "ab" * 16), (2.0, "cd" * 16)):
        monkeypatch.setattr(time, "time", partial(float, now))
        metrics = Metrics()
        metrics.finished("orders", "GET", 200, 0.1)
        metrics.request_duration.exemplify(("orders",), 0.1, trace_id)
        processes.append(metrics.snapshot())
    for order in (processes, processes[::-1]):
        page, content_type = expose_as(add_up(order), "application/openmetrics-text; version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")
        assert page.count(b"trace_id") == 1
        assert b' 2.0 # {trace_id="%s"} 0.1 2.0\n' % (b"cd" * 16) in page
    assert expose_as(add_up(processes), "text/plain, */*")[1] == CONTENT_TYPE_LATEST
