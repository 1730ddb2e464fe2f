"""Changes by commands are in the audit log, like those by the admin API."""

import asyncio
import json
import os
import pwd
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from typer.core import TyperGroup
from typer.main import get_command

from gateway.cli.main import app
from tests.cli.gateway_command import ISS, GatewayCommand, gateway_command

READS: Final = {"users show", "users list", "revocations list"}
WRITES: Final = {
    "users add", "users link", "users change", "users suspend", "users activate", "users lock",
    "users delete", "users restore", "users import", "revoke token", "revoke jti", "revoke user",
    "revoke issuer",
    "revocations lift jti", "revocations lift user", "revocations lift issuer", "revocations prune",
}  # fmt: skip
"""What the tests below are about."""


@pytest.fixture
def gateway(tmp_path: Path, dsn: str, redis_url: str) -> GatewayCommand:
    return gateway_command(tmp_path, dsn, redis_url)


def audited(dsn: str) -> list[asyncpg.Record]:
    return asyncio.run(sql(dsn, "SELECT actor, action, target, request_id, detail FROM audit ORDER BY id"))


async def sql(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


def test_no_command_that_writes_is_forgotten() -> None:
    def names(command: object, *path: str) -> set[str]:
        if not isinstance(command, TyperGroup):
            return {" ".join(path)}
        return set().union(*(names(each, *path, name) for name, each in command.commands.items()))

    found = {
        name for name in names(get_command(app)) if name.startswith(("users ", "revoke ", "revocations "))
    }
    assert found == WRITES | READS


def test_the_author_of_a_change_is_recorded(gateway: GatewayCommand, dsn: str) -> None:
    user = gateway.json("users", "add", "--issuer", "main", "--subject", "ann", "--email", "ann@example.com")
    gateway.json("users", "link", "main:ann", "--issuer", "main", "--subject", "auth0|ann")
    for name in ("suspend", "activate", "lock", "delete", "restore", "show"):
        gateway.json("users", name, "main:ann")
    assert gateway("users", "restore", "main:ann").exit_code == 1  # refused, so not done

    rows = audited(dsn)
    assert [row["action"] for row in rows] == [
        "user.create", "identity.link", "user.change", "user.change", "user.change", "user.delete",
        "user.restore",
    ]  # fmt: skip
    assert {row["actor"] for row in rows} == {f"cli:{pwd.getpwuid(os.geteuid()).pw_name}"}
    assert {row["target"] for row in rows} == {f"user:{user['id']}"}
    assert len({row["request_id"] for row in rows}) == len(rows)
    assert json.loads(rows[1]["detail"]) == {"issuer": ISS, "subject": "auth0|ann"}
    assert json.loads(rows[2]["detail"]) == {"changed": {"status": ["active", "suspended"]}}
    assert "ann@example.com" not in str([row["detail"] for row in rows])


def test_each_change_names_its_target_and_its_details(gateway: GatewayCommand, dsn: str) -> None:
    ann, bob = (
        gateway.json("users", "add", "--issuer", "main", "--subject", subject)["id"]
        for subject in ("ann", "bob")
    )
    gateway.json("users", "change", "main:ann", "--add-role", "ops", "--email", "ann@example.com")
    gateway.json("users", "link", "main:bob", "--issuer", "main", "--subject", "ann", "--from", "main:ann")

    rows = audited(dsn)[2:]
    assert [(row["action"], row["target"]) for row in rows] == [
        ("user.change", f"user:{ann}"),
        ("identity.unlink", f"user:{ann}"),
        ("identity.link", f"user:{bob}"),
    ]
    assert json.loads(rows[0]["detail"]) == {"changed": {"email": None, "roles": [[], ["ops"]]}}
    assert rows[1]["request_id"] == rows[2]["request_id"] != rows[0]["request_id"]


def test_the_authors_of_a_revocation_and_of_its_end_are_recorded(gateway: GatewayCommand, dsn: str) -> None:
    user = gateway.json("users", "add", "--issuer", "main", "--subject", "ann")
    gateway.json("revoke", "jti", "main", "t-1", "--reason", "left on a train")
    gateway.json("revoke", "user", "main:ann")
    gateway.json("revoke", "issuer", "main")
    gateway.json("revocations", "list")
    gateway.json("revocations", "lift", "jti", "main", "t-1")
    gateway.json("revocations", "lift", "user", "main:ann")
    gateway.json("revocations", "lift", "issuer", "main")
    gateway.json("revocations", "prune")

    rows = (audited(dsn))[1:]
    assert [(row["action"], row["target"]) for row in rows] == [
        ("revocation.set", "revocation:jti"),
        ("revocation.set", "revocation:user"),
        ("revocation.set", "revocation:issuer"),
        ("revocation.lift", "revocation:jti"),
        ("revocation.lift", "revocation:user"),
        ("revocation.lift", "revocation:issuer"),
        ("revocation.prune", "revocations"),
    ]
    details = [json.loads(row["detail"]) for row in rows]
    assert details[0] == {"issuer": "main", "value": "t-1", "until": None, "reason": "left on a train"}
    assert details[4] == {"issuer": "", "value": user["id"], "rows": 1}
    assert details[6] == {"rows": 0}


def test_the_environment_does_not_decide_the_author(
    gateway: GatewayCommand, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    row = gateway.json("revoke", "issuer", "main")
    assert "somebody-else" not in str([*(audited(dsn)), row])


def test_a_change_that_cannot_be_recorded_is_not_made(gateway: GatewayCommand, dsn: str) -> None:
    gateway.json("users", "add", "--issuer", "main", "--subject", "ann")
    asyncio.run(sql(dsn, "ALTER TABLE audit RENAME TO elsewhere"))
    assert gateway("users", "suspend", "main:ann").exit_code == 3
    assert gateway("revoke", "user", "main:ann").exit_code == 3
    assert gateway.json("users", "show", "main:ann")["status"] == "active"
    assert gateway.json("revocations", "list")["revocations"] == []
