"""`gateway adopt`: what it prints, and what it never prints."""

import asyncio
import base64
import json
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway.cli.main import app
from tests.sql import as_role, execute
from tests.systems.fixtures import SYSTEMS, Systems
from tests.systems.system import System

USERS = (
    "CREATE TABLE users (id int PRIMARY KEY, email text, name text, sub text UNIQUE, status text NOT NULL)",
    "INSERT INTO users SELECT i, 'secret-' || i || '@example.com', 'secret-' || i, 'secret|' || i, 'active'"
    " FROM generate_series(1, 100) i",
    "ANALYZE",
)


def adopt(*words: str, dsn: str | None = None, stdin: str | None = None) -> Result:
    """Run the command; `dsn` is in the environment."""
    return CliRunner().invoke(app, ["adopt", *words], input=stdin, env={"GATEWAY_POSTGRES__DSN": dsn})


async def adopted(*words: str, dsn: str | None = None, stdin: str | None = None) -> Result:
    return await asyncio.to_thread(adopt, *words, dsn=dsn, stdin=stdin)


def password(dsn: str) -> str:
    return urlsplit(dsn).password or ""


@pytest.fixture
async def users_dsn(empty_dsn: str) -> str:
    await execute(empty_dsn, *USERS)
    return empty_dsn


async def test_people_get_yaml_with_the_findings_in_comments(users_dsn: str) -> None:
    subjects = "".join(f"secret|{i}\n" for i in range(51, 201)) + "SECRET|1\n"

    result = await adopted("--subjects", "-", dsn=users_dsn, stdin=subjects)

    assert result.exit_code == 0, result.output
    first, *lines = result.stdout.splitlines()
    database = urlsplit(users_dsn).path[1:]
    assert first.startswith("# PostgreSQL ")
    assert first.endswith(f"database {database}, as role gateway: 1 tables and views")
    assert "\n".join(lines) == (
        "# Recognised: a table of your own: users in users, about 100 rows\n"
        "# Read 151 lines, with 151 subjects\n"
        "# 50 of 151 subjects lead to these users\n"
        "#   50 of 151 subjects are in users.sub\n"
        "#     1 of 101 others differ in letter case from one that is there\n"
        "#\n"
        "# id       users.id (the primary key)\n"
        "# subject  users.sub (proposed)\n"
        "# status   status <> 'active' (suspended)\n"
        "# tenant   none found\n"
        "# roles    none found\n"
        "# email    users.email (by its name)\n"
        "users:\n"
        "  source:\n"
        "    table: users\n"
        "    id: id\n"
        "    status:\n"
        "    - {when: status <> 'active', is: suspended}\n"
        "    email: email\n"
        "    display_name: name\n"
        "    identities:\n"
        "    - {subject: sub}\n"
        "    changes: triggers\n"
        "# To know:\n"
        "# - Schema public has a table users, as the gateway's own are called: if this is the database of"
        " `postgres.dsn`, set `postgres.schema: gateway`.\n"
        "# - Subjects count exactly: one that differs in spelling has no user until one side is changed.\n"
        "# - If this is not the database of `postgres.dsn`, add `dsn:` to the source.\n"
        "# Next: put this into the configuration, then\n"
        "#   gateway check\n"
        "#   gateway migrate --print-sql\n"
        "#   gateway migrate && gateway check --live"
    )
    assert "secret" not in result.output.lower()


async def test_programs_read_json(users_dsn: str) -> None:
    subjects = "".join(f"secret|{i}\n" for i in range(51, 201))

    result = await adopted("--subjects", "-", "--json", "--issuer", "main", dsn=users_dsn, stdin=subjects)

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["recognised"] == {
        "system": "own", "title": "a table of your own", "users": "users", "rows": 100, "identities": [],
    }  # fmt: skip
    assert found["subjects"] == {
        "lines": 150, "unusable": 0, "issuers": 0, "sample": 150, "found": 50, "skipped_columns": 0,
        "columns": [{"column": "users.sub", "found": 50, "estimated": False, "near": {}, "near_of": 0}],
    }  # fmt: skip
    assert yaml.safe_load(found["yaml"]) == {"users": {"source": found["source"]}}
    assert found["source"]["identities"] == [{"issuer": "main", "subject": "sub"}]
    assert found["candidates"]["email"] == [{"column": "users.email", "score": 6, "reason": "by its name"}]
    assert found["commands"][0] == "gateway check"
    assert found["unreadable"] == []
    assert "secret" not in result.output


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_no_data_of_a_person_is_printed(system: System, tmp_path: Path) -> None:
    people = await system.add(30)
    file = tmp_path / "subjects"
    file.write_text("".join(f"{each.subject}\n{each.subject.upper()}\n{each.email}\n" for each in people))

    for options in ([], ["--json"], ["--subjects", str(file)], ["--subjects", str(file), "--json"]):
        result = await adopted(*options, dsn=system.dsn)

        assert result.exit_code == 0, result.output
        said = result.output.lower()
        for person in people:
            assert person.subject.lower() not in said
            assert person.email not in said
            assert person.name not in said
        assert password(system.dsn) not in result.output


async def test_odd_values_of_a_providers_column_are_not_printed(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        "CREATE TABLE users (id int PRIMARY KEY, email text, name text)",
        "CREATE TABLE identities (provider text, subject text UNIQUE, user_id int REFERENCES users)",
        "INSERT INTO users SELECT i FROM generate_series(1, 9) i",
        "INSERT INTO identities SELECT 'ann-' || i || '@example.com', 's' || i, i"
        " FROM generate_series(1, 9) i",
    )

    result = await adopted(dsn=empty_dsn)

    assert result.exit_code == 0, result.output
    assert "ann-" not in result.output
    assert "where: provider = 'FILL_IN'" in result.stdout
    assert "# - Write the name of your issuer's provider, or realm, for FILL_IN" in result.stdout


async def test_names_with_control_characters_end_no_comment(empty_dsn: str) -> None:
    await execute(
        empty_dsn, 'CREATE TABLE "x\nevil: true\n#\x1b[2J_users" (id int PRIMARY KEY, email text, name text)'
    )

    result = await adopted(dsn=empty_dsn)

    assert result.exit_code == 0, result.output
    assert list(yaml.safe_load(result.stdout)) == ["users"]
    assert "\x1b" not in result.stdout


def token(subject: object, issuer: str) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"sub": subject, "iss": issuer}).encode())
    return f"e30.{payload.decode().rstrip('=')}.c2ln"


async def test_tokens_are_read_for_their_subjects(users_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    lines = [token(f"secret|{i}", f"https://{i % 2}.example.com") for i in range(1, 31)]
    file.write_text("\n".join([*lines, "not a token", token(7, "https://0.example.com")]))

    result = await adopted("--tokens", str(file), dsn=users_dsn)

    assert result.exit_code == 0, result.output
    assert "# Read 32 lines, with 30 subjects; 2 lines have none that a token may have\n" in result.stdout
    assert "# 30 of 30 subjects lead to these users\n" in result.stdout
    assert "# - The tokens are of 2 issuers" in result.stdout
    assert "example.com" not in result.output


async def test_large_files_are_sampled(users_dsn: str) -> None:
    result = await adopted("--subjects", "-", dsn=users_dsn, stdin="\n".join(f"s{i}" for i in range(50_000)))

    assert "# Read 50,000 lines, with a sample of 10,000 subjects\n" in result.stdout


async def test_nothing_is_recognised(empty_dsn: str) -> None:
    result = await adopted(dsn=empty_dsn)

    assert result.exit_code == 1
    assert "# Recognised: nothing." in result.stdout
    assert yaml.safe_load(result.stdout) is None
    assert json.loads((await adopted("--json", dsn=empty_dsn)).stdout)["recognised"] is None


async def test_the_gateways_own_tables(dsn: str) -> None:
    result = await adopted(dsn=dsn)

    assert result.exit_code == 0
    assert "# Recognised: the gateway's own tables: users in users" in result.stdout
    assert yaml.safe_load(result.stdout) is None


async def test_the_dsn_comes_from_an_option_stdin_or_the_environment(users_dsn: str) -> None:
    option = await adopted("--dsn", users_dsn)
    stdin = await adopted("--dsn", "-", stdin=users_dsn + "\n")

    assert option.exit_code == stdin.exit_code == 0
    assert "warning: the password is an argument" in option.stderr
    assert password(users_dsn) not in option.output
    assert stdin.stderr == ""


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        ((), None, "there is no database to look at → --dsn"),
        (("--dsn", "-"), "", "there is no database to look at → --dsn"),
        (("--dsn", "-", "--subjects", "-"), "", "stdin cannot be both"),
        (("--dsn", "x", "--subjects", "a", "--tokens", "b"), None, "exclude each other"),
        (("--dsn", "x", "--subjects", "/nowhere/at/all"), None, "/nowhere/at/all cannot be read"),
        (("--dsn", "x", "--subjects", "-"), "\n\n", "stdin is empty → write one subject in each line"),
        (("--dsn", "x", "--tokens", "-"), "", "stdin is empty → write one token in each line"),
        (
            ("--dsn", "x", "--tokens", "-"),
            "secret-word",
            "no line of stdin is a token that the gateway could",
        ),
        (("--dsn", "x", "--subjects", "-"), "a" * 1_100_000, "stdin, line 1: it is longer than 1 MiB"),
        (("--dsn", "secret-word"), None, "--dsn: the DSN cannot be used"),
        (("--dsn", "mysql://ann:secret-word@127.0.0.1/x"), None, "--dsn: the DSN cannot be used"),
        (("--dsn", "postgresql://ann:secret-word@[::1/x"), None, "--dsn: the DSN cannot be used"),
        (("--dsn", "postgresql://a:secret-word@h:port/x"), None, "--dsn: the DSN cannot be used"),
    ],
)
def test_usage(words: tuple[str, ...], stdin: str | None, message: str) -> None:
    result = adopt(*words, stdin=stdin)

    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "secret-word" not in result.output
    assert result.stdout == ""


def test_a_server_that_is_not_there() -> None:
    result = adopt("--dsn", "postgresql://ann:secret-word@127.0.0.1:1/shop")

    assert result.exit_code == 3
    assert "Postgres at 127.0.0.1:1 cannot be reached: connection refused" in result.stderr
    assert "or correct --dsn" in result.stderr
    assert "secret-word" not in result.output


async def test_a_wrong_password(users_dsn: str) -> None:
    result = await adopted(dsn=as_role(users_dsn, "gateway", "secret-word"))

    assert result.exit_code == 3
    assert "correct user and password in --dsn" in result.stderr
    assert "secret-word" not in result.output


async def test_a_database_that_does_not_exist(users_dsn: str) -> None:
    result = await adopted(dsn=urlsplit(users_dsn)._replace(path="/nowhere").geturl())

    assert result.exit_code == 3
    assert "correct its name in --dsn" in result.stderr


async def test_a_table_that_is_locked_is_reported(users_dsn: str) -> None:

    blocker = await asyncpg.connect(users_dsn)
    await blocker.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
    result = await adopted("--timeout", "0.2", dsn=users_dsn)
    await blocker.close()

    assert result.exit_code == 0
    assert "# Could not be read:\n# - users: no answer within 0.2 s\n" in result.stdout


async def test_two_systems_are_both_named(systems: Systems) -> None:
    system = await systems("supabase")
    await execute(system.dsn, *USERS[:1])

    result = await adopted(dsn=system.dsn)

    assert "# Recognised: Supabase: users in auth.users" in result.stdout
    assert "# Also here: a table of your own: users in users" in result.stdout
