"""What is deployed beside the gateway: Prometheus' alerts and their runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "prometheus"
PROMTOOL = shutil.which("promtool")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")
@pytest.mark.parametrize("words", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")])
def test_prometheus_takes_the_rules(words: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(  # noqa: S603 -- a constant command
        [PROMTOOL, *words], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_both_ways() -> None:
    tests = yaml.safe_load((FOLDER / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    tried: dict[str, set[bool]] = {}
    for test in tests:
        for each in test["alert_rule_test"]:
            tried.setdefault(each["alertname"], set()).add(bool(each["exp_alerts"]))
    assert tried == {alert["alert"]: {True, False} for alert in alerts()}


def test_each_alert_has_a_section_in_the_runbook() -> None:
    sections = re.findall(
        r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(sections) == sorted(alert["alert"] for alert in alerts())
    for alert in alerts():
        expected = f"docs/runbook.md#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook_url"] == expected
        assert alert["annotations"]["summary"]


def test_rules_name_metrics_that_there_are() -> None:
    there = {snapshot.name for snapshot in Metrics().snapshot()} | {
        "gateway_worker_restarts",
        "gateway_config_reloads",
    }
    for rule in rules():
        for name in re.findall(r"\b(?:gateway|process)_\w+", rule["expr"]):
            known = {name, name.removesuffix("_total"), re.sub(r"_(bucket|count|sum)$", "", name)}
            assert known & there, name


def test_the_unit_may_write_the_records_where_the_page_puts_them() -> None:
    """The unit has a read-only root (`ProtectSystem=strict`)."""
    unit = (ROOT / "deploy" / "gateway.service").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    directories = re.findall(r"record: \{.*directory: ([\w/]+)", page)
    writable = {f"/var/lib/{name}" for name in re.findall(r"^StateDirectory=(\w+)$", unit, re.MULTILINE)}
    assert directories
    assert [path for path in directories if not any(path.startswith(f"{each}/") for each in writable)] == []
