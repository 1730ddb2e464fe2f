"""`gateway explain` for people and programs."""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from gateway.__main__ import main
from gateway.cli.main import app
from gateway.stores.postgres.database import Postgres
from gateway.stores.redis.ownership import Owner
from gateway.stores.redis.user_documents import CachedUser, encode
from gateway.stores.system_of_record import SystemOfRecord
from tests import harness, tokens
from tests.cli.gateway_command import dump
from tests.explain.secret import FAILING, assert_absent
from tests.harness import token, unused_port


class Gateway:
    """Runs `gateway explain` with a configuration of its own."""

    def __init__(self, folder: Path, dsn: str, redis_url: str) -> None:
        self.config = folder / "gateway.yaml"
        # JSON is YAML.
        self.config.write_text(
            json.dumps(harness.configuration(folder, "http://127.0.0.1:9", dsn, redis_url, "gateway:"))
        )

    def __call__(self, *words: str, stdin: str | bytes | None = None) -> Result:
        words = ("explain", *words, "--config", str(self.config))
        result = CliRunner().invoke(app, words, input=stdin)
        assert isinstance(result.exception, SystemExit | None), result.exc_info
        return result


@pytest.fixture
async def gateway(tmp_path: Path, dsn: str, redis_url: str) -> Gateway:
    await harness.seed(dsn)
    return Gateway(tmp_path, dsn, redis_url)


def text(output: str) -> str:
    return re.sub(r"\s+", " ", output)


def test_a_valid_token_is_allowed_with_one_line_for_each_step(gateway: Gateway) -> None:
    claimed = CliRunner().invoke(app, ["redis", "claim", "--yes", "--config", str(gateway.config)])
    assert claimed.exit_code == 0, claimed.output
    result = gateway("-", stdin=token().decode())
    assert result.exit_code == 0
    *steps, _, decision, summary = result.stdout.splitlines()
    assert (decision, summary) == ("ALLOW", "The token is valid, and its user is admitted.")
    assert len(steps) == 16  # one line each
    assert re.fullmatch(r"pass     shape              3 segments, \d+ bytes", steps[0])
    assert any(
        re.match(r"pass     key +key .*; 3 keys, loaded 0 s ago, no error since then$", step)
        for step in steps
    )
    assert "skipped  policy             give a method and a URL to check scopes and roles" in steps
    assert result.stderr == ""


def test_from_a_401_to_its_cause_and_back(gateway: Gateway) -> None:
    bad = token("suspended").decode()
    result = gateway("-", stdin=f"Authorization: Bearer {bad}\n")
    assert result.exit_code == 1
    # What is read last is what to do.
    *steps, _, decision, summary, _, advice, line = result.stdout.splitlines()
    failed = steps.index(next(step for step in steps if step.startswith("fail     user")))
    assert "suspended, last changed" in steps[failed]
    assert steps[failed + 1].strip().startswith("expected: active, and a token issued after")
    assert decision == "DENY  user_suspended  cause: user_suspended"
    assert "is suspended since" in summary
    assert advice.startswith("Fix: Activate the user")
    fix = line.split()
    assert fix[:3] == ["gateway", "users", "activate"]
    assert CliRunner().invoke(app, fix[1:]).exit_code == 0
    assert gateway("-", stdin=bad).exit_code == 0


def test_a_document_for_programs(gateway: Gateway) -> None:
    result = gateway("-", "--json", "--url", "/orders/7", "-X", "post", stdin=token().decode())
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["decision"], document["reason"]) == ("deny", "scope_insufficient")
    assert document["fix"]["text"].startswith('Let the client request the scopes "orders:read"')
    assert (document["fix"]["command"], document["fix"]["config"]) == (None, None)
    assert document["steps"][0] == {
        "name": "route",
        "outcome": "pass",
        "expected": "a route for method, host and path",
        "found": 'POST "/orders/7": route orders',
        "detail": None,
    }


def test_a_token_among_the_arguments_is_advised_against(gateway: Gateway) -> None:
    raw = token().decode()
    result = gateway(raw)
    assert result.exit_code == 0
    assert "list of processes" in text(result.stderr)
    assert "gateway explain -" in text(result.stderr)
    assert raw not in result.output


@pytest.mark.parametrize("words", [("-",), ()])
def test_nothing_on_stdin(gateway: Gateway, words: tuple[str, ...]) -> None:
    result = gateway(*words, stdin=" \n")
    assert result.exit_code == 2
    assert "there is no token" in text(result.stderr)


def test_stdin_is_read_without_being_asked_to(gateway: Gateway) -> None:
    assert gateway(stdin=token().decode()).exit_code == 0


def test_stdin_that_is_no_text(gateway: Gateway) -> None:
    result = gateway("-", "--json", stdin=b"\xff\xfe\x00")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["reason"] == "credentials_malformed"


def test_a_method_alone_asks_for_nothing(gateway: Gateway) -> None:
    result = gateway("-", "--method", "GET", stdin="x")
    assert result.exit_code == 2
    assert "--method needs --url" in text(result.stderr)


@pytest.mark.parametrize("method", ["", "G T", "GÄT", "GET\n"])
def test_a_method_that_no_request_has(gateway: Gateway, method: str) -> None:
    result = gateway("-", "--url", "/x", "--method", method, stdin="x")
    assert result.exit_code == 2
    assert "--method" in text(result.stderr)


def test_a_url_that_no_request_has(gateway: Gateway) -> None:
    result = gateway("-", "--url", "orders/1", stdin=token().decode())
    assert result.exit_code == 1
    *_, decision, summary, _, advice = result.stdout.splitlines()
    assert decision == "DENY  request_malformed  cause: request_malformed"
    assert summary == (
        'The `url` "orders/1" is not valid for a request: it is neither a path, which begins with `/`,'
        " nor a complete http or https URL."
    )
    assert advice.startswith("Fix: Give `url` as")


@pytest.mark.parametrize("name", FAILING)
def test_a_token_is_nowhere_in_the_output(gateway: Gateway, name: str) -> None:
    raw = FAILING[name]()
    for words in (("-",), ("-", "--json"), ("-", "--url", f"/orders/1?t={raw.decode('latin-1')}")):
        result = gateway(*words, stdin=raw)
        assert result.exit_code in {0, 1}
        assert_absent(raw, result.output)


def test_a_defect_does_not_tell_the_token_either(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("odd")

    raw = token()
    monkeypatch.setattr("gateway.explain.engine.judge", broken)
    monkeypatch.setattr("sys.argv", ["gateway", "explain", raw.decode(), "--config", str(gateway.config)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 70
    shown = capsys.readouterr()
    assert "ZeroDivisionError" in shown.err
    assert_absent(raw, shown.out + shown.err)


def test_a_store_that_is_down(tmp_path: Path) -> None:
    dsn = f"postgresql://gateway:hunter2@127.0.0.1:{unused_port()}/gateway"
    began = time.monotonic()
    result = Gateway(tmp_path, dsn, f"redis://:hunter2@127.0.0.1:{unused_port()}")(
        "-", stdin=token().decode()
    )
    assert result.exit_code == 3
    assert "cause: store_unreachable" in result.stdout
    assert "pg_isready -h" in " ".join(result.stdout.split())
    assert "hunter2" not in result.output
    assert time.monotonic() - began < 3


def test_an_issuer_whose_keys_cannot_be_fetched(gateway: Gateway) -> None:
    bad = tokens.sign(tokens.claims(iss=harness.KEYLESS_ISSUER), tokens.rsa_key("second"))
    assert gateway("-", stdin=bad.decode()).exit_code == 3
    # What is ours to mend did not keep the answer from being found: the token is no token.
    assert gateway("-", stdin="x").exit_code == 1


def test_control_characters_are_shown_escaped(gateway: Gateway) -> None:
    result = gateway("-", stdin=token("\u202e\u2066ann").decode())
    assert result.exit_code == 1
    assert not {"\u202e", "\u2066", "\x1b"} & set(result.stdout)


def test_a_value_is_no_markup(gateway: Gateway) -> None:
    result = gateway("-", stdin=token("[bold]ann[/]").decode())
    assert '"[bold]ann[/]"' in result.stdout
    assert "--subject=[bold]ann[/]'" in result.stdout


def test_a_configuration_with_mistakes(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("issuers: []")
    result = CliRunner().invoke(app, ["explain", "-", "--config", str(config)], input="x")
    assert result.exit_code == 2


def test_lines_that_are_too_long_for_a_terminal_go_on_beneath(gateway: Gateway) -> None:
    _, shown = at_a_terminal(gateway, token("ghost").decode())
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    place = next(place for place, line in enumerate(lines) if line.startswith("pass     revocation"))
    assert "skipped  identity.local" in lines[place + 1]
    assert lines[place + 2].startswith(" " * 28)
    assert lines[-1].startswith("    gateway users add ")  # to be pasted, as long as it is
    assert max(map(len, lines[place:-1])) <= 80


def at_a_terminal(gateway: Gateway, typed: str) -> tuple[int, str]:
    """Run the command on a terminal, and type at its prompt; return its code and its output."""
    controller, terminal = pty.openpty()
    # In a session of its own, whose terminal this becomes: a prompt asks there, wherever stdout leads.
    seated = (
        "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "runpy.run_module('gateway', run_name='__main__')"
    )
    process = subprocess.Popen(  # noqa: S603 -- our own command
        [sys.executable, "-c", seated, "explain", "--config", str(gateway.config)],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while b"not shown" not in shown:
        shown += os.read(controller, 1000)
    for start in range(0, len(typed) + 1, 1000):
        os.write(controller, f"{typed}\n"[start : start + 1000].encode())
    with suppress(OSError):  # how a terminal reports that no program writes to it any more
        while more := os.read(controller, 1000):
            shown += more
    os.close(controller)
    return process.wait(), shown.decode()


def test_at_a_terminal_it_is_asked_for_and_not_shown(gateway: Gateway) -> None:
    raw = token().decode()
    code, shown = at_a_terminal(gateway, raw)
    assert code == 0
    assert "ALLOW" in shown
    assert raw not in shown


def test_a_token_that_is_longer_than_a_terminals_lines(gateway: Gateway) -> None:
    code, shown = at_a_terminal(gateway, token(note="x" * 4000).decode())
    assert code == 2
    assert "the terminal cut the token off" in shown


def test_nothing_is_changed(gateway: Gateway, dsn: str) -> None:
    before = asyncio.run(_rows(dsn))
    assert gateway("-", stdin=token("ghost").decode()).exit_code == 1
    assert asyncio.run(_rows(dsn)) == before


async def _rows(dsn: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch("SELECT u::text FROM users u ORDER BY 1")
    finally:
        await connection.close()


class TestRedisWithoutAnOwner:
    """What another version left there counts as little as it does for a gateway that claims it."""

    @pytest.fixture
    def left(self, redis_url: str) -> Iterator[Redis]:
        with Redis.from_url(redis_url) as client:
            client.set("gateway:epoch", "old run beat")
            client.set("gateway:revocations:loaded", "1")
            absent = CachedUser(None, time.time(), "old")
            client.set("gateway:user:main:member", encode(absent, tokens.ISSUER))
            yield client

    def test_nothing_is_written_and_the_step_says_so(self, gateway: Gateway, left: Redis) -> None:
        before = dump(left)
        result = gateway("-", "--json", stdin=token().decode())
        assert dump(left) == before
        assert result.exit_code == 0, result.output
        (step,) = [step for step in json.loads(result.stdout)["steps"] if step["name"] == "identity.redis"]
        assert step["outcome"] == "warn"
        assert step["found"] == "no entry: Postgres is asked"
        assert step["detail"].startswith("Redis has no owner yet. The first gateway that uses it claims it")

    def test_a_key_that_another_program_has_set_revokes(self, gateway: Gateway, left: Redis) -> None:
        left.set("gateway:revoked:jti:main:that-one", "1")
        result = gateway("-", "--json", stdin=token(jti="that-one").decode())
        assert result.exit_code == 1
        assert json.loads(result.stdout)["reason"] == "token_revoked"
        assert not left.exists("gateway:owner")

    def test_an_owner_with_another_address_keeps_its_data(
        self, gateway: Gateway, left: Redis, dsn: str
    ) -> None:
        record = asyncio.run(_record(dsn))
        left.set("gateway:owner", Owner("id", replace(record, copy=None)).encode())
        before = dump(left)
        assert gateway("-", stdin=token().decode()).exit_code == 0
        assert dump(left) == before


async def _record(dsn: str) -> SystemOfRecord:
    postgres = Postgres(dsn)
    try:
        return await postgres.identify()
    finally:
        await postgres.close()
