"""`gateway orphans` where users are in tables of another system."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.cli.terminal import output
from gateway.stores.postgres.migrate import migrate
from gateway.telemetry.logs import hash_subject
from tests.cli.source_command import Command
from tests.systems.fixtures import Systems


def documents(text: str) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_an_export_is_compared_with_the_systems_subjects(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    exact, spelt, missing, suspended = await system.add(4)
    await system.suspend(suspended)
    await migrate(system.dsn, "gateway_own")
    export = tmp_path / "export.csv"
    export.write_text("\n".join(["sub", exact.subject, spelt.subject.upper(), suspended.subject, "ghost"]))
    words = ("orphans", "--issuer", "main", "--export", str(export))
    gateway = Command(tmp_path, system, redis_url)
    result = await gateway(*words, "--json")
    assert result.exit_code == output.DENIED
    *found, summary = documents(result.stdout)
    assert {(each["kind"], each.get("user")) for each in found} == {
        ("spelt_differently", spelt.id),
        ("without_user", None),
        ("without_subject", missing.id),
        ("not_active", suspended.id),
    }
    assert (summary["subjects"], summary["identities"]) == (4, 4)
    (alike,) = [each for each in found if each["kind"] == "spelt_differently"]
    assert (alike["difference"], alike["command"]) == ("case", None)
    shown = await gateway(*words)
    assert "users.source is read-only: change social_auth_usersocialauth (uid, user_id)" in shown.stdout


async def test_a_command_links_where_a_row_can_be_written(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    (person,) = await system.add()
    await system.sql("CREATE TABLE logins (sub text PRIMARY KEY, person integer NOT NULL)")
    await system.sql("INSERT INTO logins VALUES ('Ann', $1)", int(person.id))
    await migrate(system.dsn, "gateway_own")
    export = tmp_path / "export.csv"
    export.write_text("sub\nann\n")
    entry = {"table": "logins", "subject": "sub", "user": "person"}
    gateway = Command(tmp_path, system, redis_url, identities=[entry], writable=True)
    result = await gateway("orphans", "--issuer", "main", "--export", str(export), "--json")
    (alike, _) = documents(result.stdout)
    assert alike["command"].startswith(f"gateway users link {person.id} --issuer main --subject=ann")


async def test_denied_subjects_are_recognised(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("supabase")
    person, _ = await system.add(2)
    await migrate(system.dsn, "gateway_own")
    log = tmp_path / "gateway.log"
    hashes = (hash_subject(person.subject.upper()), hash_subject("ghost"))
    log.write_text(
        "".join(
            json.dumps(
                {
                    "event": "denied",
                    "reason": "user_not_found",
                    "issuer": "main",
                    "subject": hashed,
                    "timestamp": "2026-01-01T00:00:00Z",
                }
            )
            + "\n"
            for hashed in hashes
        )
    )
    result = await Command(tmp_path, system, redis_url)("orphans", "--denials", str(log), "--json")
    assert result.exit_code == output.DENIED
    *found, summary = documents(result.stdout)
    assert {each["cause"]: each["nearest"] and each["nearest"]["user"] for each in found} == {
        "subject_uuid_spelling": person.id,
        "user_unknown": None,
    }
    assert summary["denials"] == 2
