"""The metrics in docs/operations.md are those of the program, with their labels."""

import re

import pytest

from gateway.core.reasons import CATALOGUE
from gateway.telemetry.metrics import Metrics
from tests.docs.pages import DOCS, PAGES, name

# The supervisor of workers counts these itself.
_SUPERVISOR = {
    "gateway_config_reloads",
    "gateway_config_last_reload_success_timestamp_seconds",
    "gateway_worker_restarts",
}
_EVENTS = {"dependency_up", "invalidation_stream_up"}
"""Events in the log with the name of a metric."""


def test_every_metric_is_described_and_no_other() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    described = {
        metric.removesuffix("_total"): tuple(re.findall(r"\w+", labels))
        for metric, labels in re.findall(r"^\| `(gateway_\w+)` \|([^|]*)\|", text, re.MULTILINE)
    }
    there = {each.name for each in Metrics().snapshot() if each.name.startswith("gateway_")}
    assert described.keys() - _SUPERVISOR == there - _SUPERVISOR
    labels = {
        series.name: tuple(series.labels) for series in vars(Metrics()).values() if hasattr(series, "labels")
    }
    assert {metric: described[metric] for metric in labels} == labels


def _metrics() -> set[str]:
    """Return all names of series, with the endings that Prometheus shows."""
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(gateway_\w+)` \|", text, re.MULTILINE))
    return {f"{name}{end}" for name in described for end in ("", "_bucket", "_sum", "_count")}


@pytest.mark.parametrize(
    "text",
    [
        *(pytest.param(page.read_text(encoding="utf-8"), id=name(page)) for page in PAGES),
        *(pytest.param(reason.hint, id=reason.code) for reason in CATALOGUE.values()),
    ],
)
def test_each_named_metric_exists_and_has_its_prefix(text: str) -> None:
    metrics = _metrics()
    named = set(re.findall(r"`(\w+)(?:\{[^`]*\})?`", text))
    without_prefix = {each for each in named if "_" in each and f"gateway_{each}" in metrics} - _EVENTS
    unknown = {each for each in named if re.fullmatch(r"gateway_\w+_(total|seconds)", each)} - metrics
    assert (without_prefix, unknown) == (set(), set())
