import asyncio
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import pytest
from typer.testing import Result

from gateway.cli.orphans.report import link_command, shown
from gateway.telemetry.logs import hash_subject
from tests.cli.gateway_command import ISS, GatewayCommand, gateway_command

OTHER = "https://other.example.com/"
API_TOKEN = "a-token-of-32-characters-at-least"


@pytest.fixture
def gateway(tmp_path: Path, dsn: str, redis_url: str) -> GatewayCommand:
    return gateway_command(tmp_path, dsn, redis_url)


@pytest.fixture
def elsewhere(tmp_path: Path) -> GatewayCommand:
    """A gateway whose stores are not there."""
    return gateway_command(tmp_path, "postgresql://127.0.0.1:1/none", "redis://127.0.0.1:1")


def add(gateway: GatewayCommand, subject: str) -> str:
    return str(gateway.json("users", "add", "--issuer", "main", f"--subject={subject}")["id"])


def execute(dsn: str, statement: str, *arguments: object) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        # No listener receives the changes, and a notification takes longer than the change.
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(statement, *arguments)
        await connection.close()

    asyncio.run(run())


def documents(result: Result) -> list[dict[str, object]]:
    assert result.exit_code in {0, 1}, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def compared(gateway: GatewayCommand, export: str, *more: str) -> list[dict[str, object]]:
    return documents(gateway("orphans", "--issuer", "main", "--export", "-", "--json", *more, stdin=export))


def subjects_of(gateway: GatewayCommand, export: str, *more: str) -> list[object]:
    """Return the subjects that are read from an export, when the table has none of them."""
    return [found["subject"] for found in compared(gateway, export, *more) if found["kind"] == "without_user"]


def test_nothing_is_found_when_both_sides_agree(gateway: GatewayCommand) -> None:
    add(gateway, "ann")

    result = gateway("orphans", "--issuer", "main", "--export", "-", "--json", stdin="sub\nann\n")

    assert result.exit_code == 0
    assert documents(result) == [
        {
            "kind": "summary",
            "issuer": "main",
            "subjects": 1,
            "identities": 1,
            "spelt_differently": 0,
            "repeated": 0,
            "without_user": 0,
            "without_subject": 0,
            "not_active": 0,
        }
    ]


def test_each_kind_has_a_document(gateway: GatewayCommand) -> None:
    ids = {name: add(gateway, name) for name in ("auth0|7", "ann", "tom", "sue")}
    gateway("users", "suspend", "main:sue")

    *found, summary = compared(gateway, "sub\n7\nann\nann\neve\nsue\n")

    assert found == [
        {
            "kind": "spelt_differently",
            "subject": "7",
            "line": 2,
            "identity": "auth0|7",
            "user": ids["auth0|7"],
            "status": "active",
            "difference": "prefix",
            "command": f"gateway users link {ids['auth0|7']} --issuer main --subject=7"
            f" --config {gateway.config}",
        },
        {"kind": "repeated", "subject": "ann", "line": 3, "times": 2},
        {"kind": "without_user", "subject": "eve", "line": 5},
        {"kind": "without_subject", "subject": "tom", "user": ids["tom"]},
        {"kind": "not_active", "subject": "sue", "user": ids["sue"], "status": "suspended", "exported": True},
    ]
    assert summary["subjects"] == 5
    assert summary["identities"] == 4
    assert summary["repeated"] == 1


def test_users_who_are_not_active_are_no_orphans(gateway: GatewayCommand) -> None:
    add(gateway, "sue")
    gateway("users", "delete", "main:sue")

    result = gateway("orphans", "--issuer", "main", "--export", "-", stdin="sub\n")

    assert result.exit_code == 0
    assert "is deleted, not in the export" in result.stdout


@pytest.mark.parametrize(
    ("subject", "identity"),
    [
        ("Ann", "ann"),
        ("-ann", "-Ann"),
        ("it's  ann\u00a0", "it's ann"),
        ("auth0|ann", "ann"),
        ("ann%20", "ann"),
        ("$(ann)", "$(Ann)"),
    ],
)
def test_the_command_links_a_differently_spelt_subject(
    gateway: GatewayCommand, subject: str, identity: str
) -> None:
    add(gateway, identity)
    found, _ = compared(gateway, f"sub\n{subject}\n")

    shell = ["/bin/bash", "-c", f"printf '%s\\0' {found['command']}"]
    _, *words = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split("\0")  # noqa: S603 -- a command of ours, to see it parsed
    linked = gateway(*words[: words.index("--config")])

    assert linked.exit_code == 0, linked.output
    assert [each["kind"] for each in compared(gateway, f"sub\n{subject}\n")] == ["without_subject", "summary"]


def test_people_read_it_under_headings(gateway: GatewayCommand) -> None:
    user = add(gateway, "ann")
    add(gateway, "tom")

    result = gateway("orphans", "--issuer", "main", "--export", "-", stdin="sub\nAnn\neve\nEve\n\x1b[2J\n")

    assert result.exit_code == 1
    assert result.stdout.replace(f" --config {gateway.config}", "") == (
        "Differ only in spelling; if both are the same person, the command links them:\n"
        f"  line 2: `Ann`, and `ann` of user {user} (active): letter case\n"
        f"      gateway users link {user} --issuer main --subject=Ann\n"
        "\n"
        "Subjects without a user:\n"
        "  line 5: `\\x1b[2J`\n"
        "  line 3: `eve`\n"
        "  line 4: `Eve`\n"
        "\n"
        "Users whose identity is not in the export:\n"
        f"  `tom`: user {gateway.json('users', 'show', 'main:tom')['id']}\n"
        "\n"
        "4 subjects in the export, 2 identities of main: 3 without a user, 1 without a subject,"
        " 1 spelt differently, 0 more than once; 0 users not active.\n"
    )


def test_only_this_issuers_identities_count(gateway: GatewayCommand, dsn: str) -> None:
    add(gateway, "ann")

    execute(dsn, "UPDATE identities SET issuer = $1", OTHER)

    assert subjects_of(gateway, "sub\nann\n") == ["ann"]


@pytest.mark.parametrize(
    ("export", "more"),
    [
        ("email,sub\nann@example.com,ann\n,eve\n", ()),
        ("\ufeffsub;email\r\nann;a\r\neve;\r\n", ()),
        ("email\tsub\na\tann\n\ne\teve\n", ()),
        ('"sub","name"\n"ann","A, ""the first"""\neve,"two\nlines"\n', ()),
        ("user_id\nann\neve\n", ("--column", "user_id")),
        ('{"sub": "ann"}\n\n{"email": null, "sub": "eve"}\n', ()),
        ('"ann"\n"eve"\n', ("--format", "jsonl")),
        ('\ufeff{"id": "ann"}\n{"id": "eve"}', ("--column", "id")),
    ],
)
def test_reads_exports_as_providers_write_them(
    gateway: GatewayCommand, export: str, more: tuple[str, ...]
) -> None:
    assert subjects_of(gateway, export, *more) == ["ann", "eve"]


OKTA = '[{"id":"00u%s","status":"ACTIVE","profile":{"login":"%s@corp","email":"%s@x"}}]'


@pytest.mark.parametrize(("identity", "field"), [("00u1", "id"), ("1@corp", "profile.login")])
def test_the_field_with_known_identities_has_the_subjects(
    gateway: GatewayCommand, identity: str, field: str
) -> None:
    add(gateway, identity)

    result = gateway("orphans", "--issuer", "main", "--export", "-", "--json", stdin=OKTA % (1, 1, 1))

    assert result.exit_code == 0, result.output
    assert f"This is an export of Okta; its subjects are in `{field}`." in result.stderr


def test_without_identities_the_claim_of_the_issuer_decides_the_field(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    by_uid = gateway_command(tmp_path, dsn, redis_url, more="subject: uid")

    assert subjects_of(by_uid, OKTA % (1, 1, 1) + OKTA % (2, 2, 2)) == ["00u1", "00u2"]


def test_an_export_without_subjects_is_compared_by_address(gateway: GatewayCommand) -> None:
    gateway.json("users", "add", "--issuer", "main", "--subject=113976", "--email=Ann@example.com")
    gateway.json("users", "add", "--issuer", "main", "--subject=113977", "--email=tom@example.com")
    export = (
        "Email Address [Required],Org Unit Path [Required]\r\nann@example.com,/\r\nTom@example.com ,/\r\n"
    )

    result = gateway("orphans", "--issuer", "main", "--export", "-", stdin=export)

    assert result.exit_code == 1
    assert "e-mail addresses are compared" in result.stderr
    assert "gam print users id" in result.stderr
    assert "0 without a user, 0 without a subject, 1 spelt differently" in result.stdout
    assert "users link" not in result.stdout


def test_numbers_of_a_provider_that_counts_are_subjects(gateway: GatewayCommand) -> None:
    assert subjects_of(gateway, '{"sub": 7}\n{"sub": "zoë"}\n') == ["7", "zoë"]


def test_the_line_is_where_a_row_begins(gateway: GatewayCommand) -> None:
    found = compared(gateway, 'sub,note\nann,"two\nlines"\n\neve,x\n')

    assert [each["line"] for each in found[:-1]] == [2, 5]


@pytest.mark.parametrize(
    ("export", "more", "message"),
    [
        ("", (), "line 1: the export is empty"),
        (
            "user_id,email\nann,a\n",
            ("--column", "id"),
            "line 1: the header has no column `id` → --column user_id",
        ),
        ("secret-ann\nsecret-bob\n", (), "line 1: the header has no column `sub` → name the column"),
        ("sub,sub\na,b\n", (), "line 1: it has the column `sub` more than once"),
        ("sub,email\nann,a\nsecret-bob\n", (), "line 3: it has 1 columns, the header 2"),
        ('sub\nann\n"secret-bob\n', (), "line 3: it is not CSV: unexpected end of data"),
        ('sub\nann\n"secret-bob"x\n', (), "line 3: it is not CSV"),
        ("sub,email\nann,a\n,b\n", (), "line 3: its subject is empty"),
        ("sub\rsecret-ann\rsecret-bob\r", (), "line 1: it is not CSV: new-line character seen"),
        ("sub\nann\rsecret-bob\n", (), "line 2: it is not CSV: new-line character seen"),
        ("x" * 200_000 + "\n", (), "line 1: it is not CSV: field larger"),
        ("sub\n" + "x" * 200_000 + "\n", (), "line 2: it is not CSV: field larger"),
        ("sub\n" + "x" * 1_100_000 + "\n", (), "line 2: it is longer than 1 MiB"),
        ('{"sub": "ann"}\nsecret-bob\n', (), "line 2: it is not JSON"),
        ('{"sub": "ann"}\n{"id": "secret-bob"}\n', (), "line 2: it has no `sub` → --column id"),
        ('{"sub": "ann"}\n{"sub": null}\n', (), "line 2: its subject is not a string"),
        ('{"sub": "ann"}\n{"sub": true}\n', (), "line 2: its subject is not a string"),
        ('{"sub": "ann"}\n{"sub": "\\ud800"}\n', (), "line 2: it is not JSON"),
        ("<html>secret</html>\n", (), "line 1: it is HTML or XML"),
        ("sub\nann\n", ("--format", "jsonl"), "line 1: it is not JSON"),
    ],
)
def test_a_bad_export_is_reported_with_its_line(
    elsewhere: GatewayCommand, export: str, more: tuple[str, ...], message: str
) -> None:
    result = elsewhere("orphans", "--issuer", "main", "--export", "-", *more, stdin=export)

    assert result.exit_code == 2, result.output
    assert f"error: stdin, {message}" in result.stderr
    assert "secret" not in result.output
    assert " → " in result.stderr


def test_input_that_is_not_utf8_is_reported(elsewhere: GatewayCommand, tmp_path: Path) -> None:
    export = tmp_path / "export.csv"
    export.write_bytes(b"sub\nann\nzo\xeb\n")

    result = elsewhere("orphans", "--issuer", "main", "--export", str(export))

    assert result.exit_code == 2
    assert f"{export}, line 3: it is not UTF-8 text → convert the file" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is nothing to compare the users with"),
        (("--export", "a", "--denials", "b"), "there is nothing to compare the users with"),
        (("--denials", "b", "--from-api"), "there is nothing to compare the users with"),
        (("--export", "-"), "--issuer NAME"),
        (("--issuer", "main", "--export", "/nowhere/at/all"), "/nowhere/at/all cannot be read"),
        (("--denials", "/"), "/ cannot be read: Is a directory"),
        (("--from-api",), "admin.token is not set"),
    ],
)
def test_usage(elsewhere: GatewayCommand, words: tuple[str, ...], message: str) -> None:
    result = elsewhere("orphans", *words)

    assert result.exit_code == 2
    assert message in result.stderr


def test_an_unknown_issuer(elsewhere: GatewayCommand) -> None:
    result = elsewhere("orphans", "--issuer", "mian", "--export", "-", stdin="sub\n")

    assert result.exit_code == 1
    assert "no issuer `mian` is configured → configured issuers: main" in result.stderr


def test_postgres_is_not_there(elsewhere: GatewayCommand) -> None:
    result = elsewhere("orphans", "--issuer", "main", "--export", "-", stdin="sub\nann\n")

    assert result.exit_code == 3
    assert "Postgres at 127.0.0.1:1 cannot be reached" in result.stderr
    assert result.stdout == ""


def log_line(
    subject: str | None, *, reason: str = "user_not_found", issuer: str = "main", day: int = 1
) -> str:
    event = {
        "timestamp": f"2026-01-{day:02}T00:00:00Z",
        "level": "warning",
        "event": "denied",
        "reason": reason,
        "issuer": issuer,
        "subject": subject,
    }
    return json.dumps({name: value for name, value in event.items() if value is not None}) + "\n"


def denied(gateway: GatewayCommand, log: str, *more: str) -> list[dict[str, object]]:
    return documents(gateway("orphans", "--denials", "-", "--json", *more, stdin=log))


def test_denials_in_a_log_are_counted_and_recognised(gateway: GatewayCommand) -> None:
    user = add(gateway, "auth0|Ann")
    settled = add(gateway, "bob")
    log = (
        "2026-01-01 something that is no line of ours {\n"
        + log_line(hash_subject("Ann"), day=2)
        + "gateway-1  | "
        + log_line(hash_subject("Ann"), day=1)
        + log_line(hash_subject("eve"))
        + log_line(hash_subject("bob"))
        + log_line("tom")
        + log_line(None)
        + log_line(hash_subject("tim"), reason="user_deleted")
        + '{"event": "denied", "reason": "user_not_found", "issuer": 7, "subject": [], "timestamp": 1}\n'
        + log_line("\ud800")
        + '{"event": "listening"}\n[1]\n'
    )

    found = {str(each.get("subject_hash")): each for each in denied(gateway, log)}

    first, last = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    once = {"denials": 1, "first": first, "last": first}
    assert found == {
        hash_subject("Ann"): {
            "kind": "denied",
            "cause": "subject_prefix_differs",
            "issuer": "main",
            "subject_hash": hash_subject("Ann"),
            "subject": "Ann",
            "denials": 2,
            "first": first,
            "last": last,
            "nearest": {
                "issuer": ISS,
                "subject": "auth0|Ann",
                "user": user,
                "status": "active",
                "difference": "prefix",
            },
            "command": f"gateway users link {user} --issuer main --subject=Ann --config {gateway.config}",
        },
        hash_subject("bob"): {
            "kind": "denied",
            "cause": "has_a_user_now",
            "issuer": "main",
            "subject_hash": hash_subject("bob"),
            "subject": "bob",
            **once,
            "nearest": {
                "issuer": ISS,
                "subject": "bob",
                "user": settled,
                "status": "active",
                "difference": None,
            },
            "command": None,
        },
        **{
            hash_subject(subject): {
                "kind": "denied",
                "cause": "user_unknown",
                "issuer": "main",
                "subject_hash": hash_subject(subject),
                "subject": told,
                **once,
                "nearest": None,
                "command": None,
            }
            for subject, told in (("eve", None), ("tom", "tom"))
        },
        "None": {
            "kind": "summary",
            "denials": 5,
            "subjects": 4,
            "causes": {"has_a_user_now": 1, "subject_prefix_differs": 1, "user_unknown": 2},
        },
    }


def test_a_subject_of_another_issuer(gateway: GatewayCommand, dsn: str) -> None:
    user = add(gateway, "ann")

    execute(dsn, "UPDATE identities SET issuer = $1", OTHER)

    result = gateway("orphans", "--denials", "-", stdin=log_line(hash_subject("ann")))

    assert result.exit_code == 1
    assert result.stdout == (
        f"main: `ann` denied once, last `2026-01-01T00:00:00Z`: `ann` of {OTHER} is user {user} (active)\n"
        f"    gateway users link {user} --issuer main --subject=ann --config {gateway.config}\n"
        "1 denials without a user, of 1 subjects: subject_under_other_issuer 1.\n"
    )


def test_denials_of_one_issuer(gateway: GatewayCommand) -> None:
    log = log_line(hash_subject("ann")) + log_line(hash_subject("eve"), issuer="retired")

    assert [each.get("issuer") for each in denied(gateway, log)] == ["main", "retired", None]
    assert [each.get("issuer") for each in denied(gateway, log, "--issuer", ISS)] == ["main", None]


def test_a_subject_that_has_a_user_by_now_is_no_orphan(gateway: GatewayCommand) -> None:
    add(gateway, "ann")

    result = gateway("orphans", "--denials", "-", stdin=log_line(hash_subject("ann")))

    assert result.exit_code == 0
    assert "its identity now leads to" in result.stdout


def test_a_file_that_is_no_log_of_the_gateway(elsewhere: GatewayCommand) -> None:
    result = elsewhere("orphans", "--denials", "-", stdin="sub\nann\n")

    assert result.exit_code == 2
    assert "stdin has no log line of the gateway" in result.stderr


def test_a_line_that_is_nested_too_deep_is_no_line_of_the_log(elsewhere: GatewayCommand) -> None:
    deep = json.loads(log_line("ann")) | {"more": None}
    line = json.dumps(deep).replace("null", "[" * 65 + "]" * 65)
    result = elsewhere("orphans", "--denials", "-", stdin=line)

    assert result.exit_code == 2
    assert "stdin has no log line of the gateway" in result.stderr


class _Api(BaseHTTPRequestHandler):
    """Two pages of denials, for the right token."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {API_TOKEN}":
            self.send_error(401)
            return
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        assert (url.path, query["reason"]) == ("/v1/denials", "user_not_found")
        subject = "eve" if "after" in query else "ann"
        item = {"at": "2026-01-01T00:00:00Z", "issuer": "main", "subject_hash": hash_subject(subject)}
        nothing = {"at": "2026-01-01T00:00:00Z", "issuer": "main", "subject_hash": None}
        page = {"items": [item, nothing], "next": "more"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(page).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        pass


@pytest.fixture
def api() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def configure_admin(gateway: GatewayCommand, listen: str, token: str) -> None:
    text = gateway.config.read_text()
    gateway.config.write_text(f"{text}\nadmin: {{listen: '{listen}', token: {token}}}\n")


def test_denials_of_a_running_gateway(gateway: GatewayCommand, api: str) -> None:
    add(gateway, "Eve")
    configure_admin(gateway, api, API_TOKEN)

    *found, summary = documents(gateway("orphans", "--from-api", "--json"))

    assert {str(each["subject_hash"]): each["cause"] for each in found} == {
        hash_subject("ann"): "user_unknown",
        hash_subject("eve"): "subject_case_differs",
    }
    assert summary["subjects"] == 2


def test_the_api_with_another_token(elsewhere: GatewayCommand, api: str) -> None:
    configure_admin(elsewhere, api, API_TOKEN[::-1])

    result = elsewhere("orphans", "--from-api")

    assert result.exit_code == 2
    assert f"the admin API at {api} answers 401 → run the gateway with the same admin.token" in result.stderr
    assert API_TOKEN[::-1] not in result.output


def test_the_api_is_not_there(elsewhere: GatewayCommand) -> None:
    configure_admin(elsewhere, "127.0.0.1:1", API_TOKEN)

    result = elsewhere("orphans", "--from-api")

    assert result.exit_code == 3
    assert "The admin API at 127.0.0.1:1 cannot be reached" in result.stderr


PEAK = """
import resource, sys
from gateway.cli.main import app
try:
    app(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def peak(*words: str) -> tuple[int, dict[str, object]]:
    """Run a command in a process of its own; returns its most memory, in MiB, and its last document."""
    ran = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True)  # noqa: S603
    assert ran.returncode in {0, 1}, ran.stderr
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return int(ran.stderr.splitlines()[-1]) // unit, json.loads(ran.stdout.splitlines()[-1])


def test_memory_does_not_grow_with_the_rows(gateway: GatewayCommand, dsn: str, tmp_path: Path) -> None:
    export = tmp_path / "export.csv"
    words = (
        "orphans",
        "--issuer",
        "main",
        "--json",
        "--config",
        str(gateway.config),
        "--export",
        str(export),
    )
    export.write_text("sub\n")
    small, _ = peak(*words)
    with export.open("a") as file:
        for n in range(101, 100_101):
            file.write(f"user-{hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest() * 6}\n")
    insert = """
        WITH added AS (
            INSERT INTO users (id, status)
            SELECT md5(n::text)::uuid, 'active' FROM generate_series(1, 100000) n RETURNING id
        )
        INSERT INTO identities (issuer, subject, user_id)
        SELECT $1, CASE WHEN n % 1000 = 0 THEN 'USER-' ELSE 'user-' END || repeat(md5(n::text), 6),
            md5(n::text)::uuid
        FROM generate_series(1, 100000) n, (SELECT count(*) FROM added) AS all_of_them
    """
    execute(dsn, insert, ISS)

    large, summary = peak(*words)

    counted = {kind: summary[kind] for kind in ("spelt_differently", "without_user", "without_subject")}
    assert counted == {"spelt_differently": 100, "without_user": 100, "without_subject": 100}
    # The rows and their indexes take some 90 MiB.
    assert large - small < 40


def test_the_command_quotes_what_a_shell_or_an_eye_would_misread() -> None:
    config = Path("my gateway.yaml")

    command = link_command("1", "main", "a'b\u202e\\c", config)

    assert command == (
        r"gateway users link 1 --issuer main --subject=$'a\'b\U0000202e\\c' --config 'my gateway.yaml'"
    )
    assert shlex.split(str(link_command("1", "main", "a b; c", config)))[6] == "--subject=a b; c"
    assert link_command("1", "main", "a\nb", config) is None
    assert shown("a\x1b\u202eé") == "`a\\x1b\\u202eé`"
