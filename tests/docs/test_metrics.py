"""The metrics in docs/operations.md are those of the program, with their labels."""

import re

from gateway.telemetry.metrics import Metrics
from tests.docs.pages import DOCS

# The supervisor of workers counts these itself.
_SUPERVISOR = {
    "gateway_config_reloads",
    "gateway_config_last_reload_success_timestamp_seconds",
    "gateway_worker_restarts",
}


def test_every_metric_is_described_and_no_other() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    described = {
        name.removesuffix("_total"): tuple(re.findall(r"\w+", labels))
        for name, labels in re.findall(r"^\| `(gateway_\w+)` \|([^|]*)\|", text, re.MULTILINE)
    }
    there = {each.name for each in Metrics().snapshot() if each.name.startswith("gateway_")}
    assert described.keys() - _SUPERVISOR == there - _SUPERVISOR
    labels = {
        series.name: tuple(series.labels) for series in vars(Metrics()).values() if hasattr(series, "labels")
    }
    assert {name: described[name] for name in labels} == labels
