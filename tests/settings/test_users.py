"""Warnings about `users.source`."""

from pathlib import Path

import yaml

from gateway.settings.advice import advice
from gateway.settings.reading.loading import load_with_source
from tests.systems.sources import configuration


def test_a_condition_on_the_time_names_its_instant(tmp_path: Path) -> None:
    rules = [
        {"when": "banned_until > now()", "is": "suspended"},
        {"when": "paid_until < CURRENT_DATE", "is": "suspended"},
        {"when": "paid_until < now()", "is": "suspended", "until": "paid_until"},
        {"when": "known_now AND NOT renown", "is": "locked"},
    ]
    source = {"table": "member", "id": "id", "status": rules, "identities": [{"subject": "sub"}]}
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(configuration(source)), encoding="utf-8")
    found = [each for each in advice(*load_with_source(file, {})) if "depends on the time" in each.message]
    assert [each.field for each in found] == [
        "users.source.status[0].when",
        "users.source.status[1].when",
    ]
