"""The usual metrics of processes, and those that tell which program runs."""

import os
import time

from prometheus_client.parser import text_string_to_metric_families

from gateway import __version__
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.series import add_up, expose


def scraped(text: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_a_process_reports_its_own_metrics() -> None:
    values = scraped(Metrics().expose())
    assert 0 < values["process_cpu_seconds_total"] < 36_000
    assert 2**20 < values["process_resident_memory_bytes"] < values["process_virtual_memory_bytes"]
    assert 0 < values["process_open_fds"] <= values["process_max_fds"]
    begun = time.time() - values["process_start_time_seconds"]
    assert 0 <= begun < 24 * 3600
    # The kernel counts CPU time in ticks.
    used = sum(os.times()[:2])
    assert abs(values["process_cpu_seconds_total"] - used) < 1


def test_processes_are_added_up() -> None:
    one, other = Metrics(), Metrics()
    values = scraped(expose(add_up([one.snapshot(), other.snapshot()])))
    alone = scraped(one.expose())
    assert values["process_open_fds"] >= 2 * alone["process_open_fds"] - 4
    assert values["process_max_fds"] == alone["process_max_fds"]
    assert values["gateway_build_info"] == 1


def test_the_version_is_a_label() -> None:
    assert f'gateway_build_info{{version="{__version__}"}} 1.0' in Metrics().expose().decode()
