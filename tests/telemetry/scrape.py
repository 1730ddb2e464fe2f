"""Reads the series of a scrape."""

from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return the value of a series in a scrape; None if it does not exist."""
    for family in text_string_to_metric_families(metrics.expose().decode()):
        for sample in family.samples:
            if sample.name == f"gateway_{name}" and sample.labels == labels:
                return sample.value
    return None
