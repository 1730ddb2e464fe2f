"""`gateway explain --apply`: shown, asked about, made, audited, and explained again."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import app
from gateway.cli.stores import operator
from tests import harness
from tests.admin.client import TOKEN
from tests.cli.test_denied import configured
from tests.harness import open_house, token

_AT_A_TERMINAL = (
    "import os, sys; os.setsid(); os.open(sys.argv[1], os.O_RDWR);"
    " os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
"""Runs Python with another controlling terminal than that of the tests."""


class Gateway:
    """Runs `gateway explain --apply` with a configuration of its own."""

    def __init__(self, folder: Path, dsn: str, redis_url: str) -> None:
        self.dsn = dsn
        self.config = folder / "gateway.yaml"
        self.settings = harness.configuration(folder, "http://127.0.0.1:9", dsn, redis_url, "gateway:")
        self.config.write_text(json.dumps(self.settings, indent=2))

    def __call__(self, *words: str, stdin: str = "") -> Result:
        words = ("explain", *words, "--apply", "--config", str(self.config))
        result = CliRunner().invoke(app, words, input=stdin)
        assert isinstance(result.exception, SystemExit | None), result.exc_info
        return result

    def sql(self, statement: str, *values: object) -> list[asyncpg.Record]:
        async def run() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await connection.fetch(statement, *values)
            finally:
                await connection.close()

        return asyncio.run(run())


@pytest.fixture
def gateway(tmp_path: Path, dsn: str, redis_url: str) -> Gateway:
    asyncio.run(harness.seed(dsn))
    return Gateway(tmp_path, dsn, redis_url)


def test_a_change_is_shown_asked_about_made_and_audited(gateway: Gateway) -> None:
    raw = token("suspended").decode()
    refused = gateway(raw, stdin="n\n")
    assert refused.exit_code == 1
    assert "    - status: suspended\n    + status: active" in refused.stdout
    assert "Is the reason settled for which the user is suspended? Make this change?" in refused.stderr
    assert "nothing was changed" in refused.stderr
    assert gateway.sql("SELECT 1 FROM audit") == []

    agreed = gateway(raw, stdin="y\n")

    assert agreed.exit_code == 0, agreed.output
    after = agreed.stdout.partition("The change has been made.")[2]
    assert "ALLOW" in after
    assert "DENY" not in after
    [row] = gateway.sql("SELECT actor, action FROM audit")
    assert (row["actor"], row["action"]) == (f"cli:{operator()}", "user.change")
    again = gateway(raw)
    assert (again.exit_code, "There is nothing to apply." in again.stdout) == (0, True), again.output


def test_programs_agree_with_yes_and_read_one_document(gateway: Gateway) -> None:
    result = gateway("-", "--yes", "--json", stdin=token("MEMBER").decode())
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["decision"], document["before"]["cause"]) == ("allow", "subject_case_differs")
    assert document["applied"]["action"] == "identity.link"
    assert document["applied"]["edits"][0]["what"] == 'identity "MEMBER" of issuer main'


def test_a_fix_for_others_is_not_applied(gateway: Gateway) -> None:
    result = gateway("-", "--yes", stdin=token(aud="another").decode())
    assert result.exit_code == 1
    assert "nothing was applied: the fix is no change of the gateway's data" in result.stderr
    document = gateway("-", "--yes", "--json", stdin=token(aud="another").decode())
    assert json.loads(document.stdout)["applied"] is None
    assert gateway.sql("SELECT 1 FROM audit") == []
    alone = CliRunner().invoke(app, ["explain", "-", "--yes", "--config", str(gateway.config)], input="x")
    assert alone.exit_code == 2
    assert "--yes needs --apply" in alone.stderr


def test_a_mistake_of_the_configuration_is_shown_as_a_patch_and_corrected(gateway: Gateway) -> None:
    gateway.config.write_text(
        gateway.config.read_text().replace("https://idp.example.com/", "https://idp.example.com", 1)
    )
    before = gateway.config.read_text()
    result = gateway("-", "--yes", stdin=token("suspended").decode())
    assert '-      "issuer": "https://idp.example.com",' in result.stdout
    assert '+      "issuer": "https://idp.example.com/",' in result.stdout
    assert "has been changed. The gateway decides as before until" in result.stdout.replace("\n", " ")
    assert gateway.config.read_text() == before.replace(
        "https://idp.example.com", "https://idp.example.com/", 1
    )
    # Then the next cause is told.
    assert "cause: user_suspended" in result.stdout.partition("has been changed")[2]


def test_stdin_with_a_token_has_no_answer_so_the_terminal_is_asked(gateway: Gateway) -> None:
    leader, follower = pty.openpty()
    command = [
        sys.executable, "-c", _AT_A_TERMINAL, os.ttyname(follower),
        "-m", "gateway", "explain", "-", "--apply", "--config", str(gateway.config),
    ]  # fmt: skip
    with subprocess.Popen(  # noqa: S603 -- this interpreter
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.write(leader, b"y\n")
        out, err = process.communicate(token("locked").decode(), timeout=60)
    os.close(leader)
    os.close(follower)
    assert process.returncode == 0, out + err
    assert "The change has been made." in out


def test_without_a_terminal_nothing_is_changed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.explain.applying._TERMINAL", Path("/nonexistent/tty"))
    result = gateway("-", stdin=token("locked").decode())
    assert result.exit_code == 2
    assert "there is no terminal to ask at" in result.stderr
    assert gateway.sql("SELECT 1 FROM audit") == []


async def test_the_fix_of_a_denied_request_is_applied_by_its_gateway(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    async with open_house(tmp_path, dsn, redis_url, admin={"token": TOKEN}) as house:
        command = configured(tmp_path, house.admin_url, dsn, redis_url)
        refused = await house.request("/private/x", token=token("suspended"))
        request_id = str(refused.problem["request_id"])

        done = await asyncio.to_thread(command, "explain", "--request", request_id, "--apply", "--yes")
        again = await asyncio.to_thread(command, "explain", "--request", request_id, "--apply", "--yes")

        assert done.exit_code == 0, done.output
        assert "The change has been made." in done.stdout
        assert (await house.request("/private/x", token=token("suspended"))).status == 200
        [row] = await house.sql("SELECT actor FROM audit WHERE action = 'user.change'")
    assert row["actor"] == f"api@{urlsplit(house.admin_url).hostname} ({operator()})"
    assert again.exit_code == 1
    assert "nothing was applied" in again.stderr
