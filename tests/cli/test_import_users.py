import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest

from gateway.cli.users import importing as import_users
from gateway.core.model import StoreUnavailable, Tier
from gateway.reconcile.exports.accounts import Account
from gateway.reconcile.imports import Candidate, Candidates, Skipped
from gateway.stores.postgres.directory import imports
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.imports import Holder, NewUser, UserImport
from tests.cli.gateway_command import ISS, GatewayCommand, gateway_command

KCADM = json.dumps(
    [
        {
            "id": "k1",
            "username": "ann",
            "enabled": True,
            "firstName": "Ann",
            "email": "ann@x.y",
            "groups": ["a"],
        },
        {"id": "k2", "username": "bob", "enabled": False, "groups": []},
    ]
)


@pytest.fixture
def gateway(tmp_path: Path, dsn: str, redis_url: str) -> GatewayCommand:
    return gateway_command(tmp_path, dsn, redis_url)


def rows(dsn: str, query: str) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    return asyncio.run(run())


def imported(
    gateway: GatewayCommand, export: str, *more: str, code: int = 0
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Import an export from stdin; return who was skipped, and the summary."""
    how = () if "--dry-run" in more else ("--yes",)
    result = gateway("users", "import", "-", "--issuer", "main", "--json", *how, *more, stdin=export)
    assert result.exit_code == code, result.output
    *skipped, summary = [json.loads(line) for line in result.stdout.splitlines()]
    return skipped, summary


def test_users_are_created_as_the_export_has_them(gateway: GatewayCommand, dsn: str) -> None:
    skipped, summary = imported(
        gateway, KCADM, "--role", "member", "--roles-column", "groups", "--tenant", "acme"
    )  # fmt: skip

    assert skipped == []
    assert summary == {
        "kind": "summary", "issuer": "main", "dry_run": False, "created": 2,
        "statuses": {"active": 1, "suspended": 1}, "skipped": {},
    }  # fmt: skip
    ann = gateway.json("users", "show", "main:k1")
    assert (ann["email"], ann["display_name"], ann["status"]) == ("ann@x.y", "Ann", "active")
    assert (ann["roles"], ann["tenant"]) == (["member", "a"], "acme")
    assert gateway.json("users", "show", "main:k2")["status"] == "suspended"
    audit = rows(dsn, "SELECT action, target, actor, detail::text, request_id FROM audit ORDER BY id")
    assert [each["action"] for each in audit] == ["user.create"] * 2
    assert audit[0]["target"] == f"user:{ann['id']}"
    assert json.loads(audit[0]["detail"]) == {
        "issuer": ISS, "subject": "k1", "status": "active", "tenant": "acme", "roles": ["member", "a"],
    }  # fmt: skip
    assert audit[0]["request_id"] == audit[1]["request_id"]


def test_a_second_run_creates_no_user(gateway: GatewayCommand, dsn: str) -> None:
    imported(gateway, KCADM)

    skipped, summary = imported(gateway, KCADM)

    assert [each["why"] for each in skipped] == ["exists", "exists"]
    assert summary["created"] == 0
    assert rows(dsn, "SELECT count(*) AS n FROM users")[0]["n"] == 2


def test_a_dry_run_changes_nothing(gateway: GatewayCommand, dsn: str) -> None:
    _, summary = imported(gateway, KCADM, "--dry-run")

    assert (summary["created"], summary["dry_run"]) == (2, True)
    assert rows(dsn, "SELECT FROM users") == []


def test_each_reason_to_skip_a_user(gateway: GatewayCommand) -> None:
    taken = gateway.json("users", "add", "--issuer", "main", "--subject=other", "--email=Taken@x.y")["id"]
    gone = gateway.json("users", "add", "--issuer", "main", "--subject=gone", "--email=gone@x.y")["id"]
    gateway("users", "delete", str(gone))
    lines = [
        {"sub": "ok", "email": "ok@x.y"},
        {"email": "nameless@x.y"},
        {"sub": "a\tb"},
        {"sub": "ok"},
        {"sub": "odd", "status": "on holiday"},
        {"sub": "twin", "email": "OK@x.y"},
        {"sub": "gone"},
        {"sub": "third", "email": "taken@x.y"},
        {"sub": "fourth", "email": "gone@x.y"},
        {"sub": "other"},
        {"sub": "void", "groups": ["a\x01"]},
        {"sub": "late", "email": "ok@x.y", "deleted_at": "2026-01-01"},
        {"sub": "no address", "email": "-", "name": "a\x01"},
    ]

    skipped, summary = imported(
        gateway, "\n".join(map(json.dumps, lines)), "--roles-column", "groups", code=1
    )  # fmt: skip

    assert {(each["line"], each["why"]) for each in skipped} == {
        (2, "no_subject"),
        (3, "subject_unusable"),
        (4, "subject_repeated"),
        (5, "status_unknown"),
        (6, "email_repeated"),
        (7, "user_deleted"),
        (8, "email_taken"),
        (9, "email_of_deleted_user"),
        (10, "exists"),
        (11, "value_unusable"),
    }
    assert summary["statuses"] == {"active": 2, "deleted": 1}
    by_line = {each["line"]: each for each in skipped}
    assert by_line[8]["user"] == taken
    assert str(by_line[8]["command"]).startswith(f"gateway users link {taken} --issuer main --subject=third")
    assert (by_line[9]["user"], by_line[9]["command"]) == (gone, None)
    assert by_line[6]["before"] == 1


def test_people_are_shown_the_plan_and_asked(
    gateway: GatewayCommand, tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_users, "_can_ask", lambda: True)
    gateway.json("users", "add", "--issuer", "main", "--subject=x", "--email=ann@x.y")
    export = tmp_path / "users.json"
    export.write_text(KCADM)

    refused = gateway("users", "import", str(export), "--issuer", "main", stdin="n\n")

    assert refused.exit_code == 1
    assert "Would create 1 user of main: 1 suspended." in refused.stdout
    assert "Would skip 1 user: its e-mail address is that of another user." in refused.stdout
    assert "  line 1: `k1`: user" in refused.stdout
    assert "nothing was imported" in refused.stderr
    assert rows(dsn, "SELECT FROM identities WHERE subject LIKE 'k%'") == []

    done = gateway("users", "import", str(export), "--issuer", "main", stdin="y\n")

    assert "Created 1 user of main: 1 suspended." in done.stdout
    assert len(rows(dsn, "SELECT FROM identities WHERE subject LIKE 'k%'")) == 1


def test_scripts_need_yes_or_dry_run(gateway: GatewayCommand) -> None:
    for more in ((), ("--json",), ("--yes", "--dry-run")):
        result = gateway("users", "import", "-", "--issuer", "main", *more, stdin=KCADM)
        assert result.exit_code == 2, result.output
        assert "--yes" in result.stderr


def test_an_interrupted_import_continues_when_it_is_run_again(
    gateway: GatewayCommand, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "BATCH", 2)
    create = UserImport.create
    batches: list[int] = []

    async def breaks(self: UserImport, users: Sequence[NewUser], author: Author) -> list[Holder | None]:
        batches.append(len(users))
        if len(batches) == 2:
            raise StoreUnavailable(Tier.POSTGRES, "db.example.com:5432: it went away")
        return await create(self, users, author)

    export = "sub\n" + "".join(f"u{n}\n" for n in range(5))
    monkeypatch.setattr(UserImport, "create", breaks)
    broken = gateway("users", "import", "-", "--issuer", "main", "--yes", stdin=export)

    assert broken.exit_code == 3
    assert "2 users were created before; run the command again, and it goes on." in broken.stderr
    _, summary = imported(gateway, export)
    assert (summary["created"], summary["skipped"]) == (3, {"exists": 2})
    assert rows(dsn, "SELECT count(*) AS n FROM users")[0]["n"] == 5


def test_a_batch_is_read_while_the_one_before_is_written(
    gateway: GatewayCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "BATCH", 2)
    create, judge = UserImport.create, Candidates._judge
    read = asyncio.Event()

    def judged(self: Candidates, account: Account) -> Candidate | Skipped:
        if account.subject == "u2":
            read.set()
        return judge(self, account)

    async def waits(self: UserImport, users: Sequence[NewUser], author: Author) -> list[Holder | None]:
        async with asyncio.timeout(10):
            await read.wait()
        return await create(self, users, author)

    monkeypatch.setattr(Candidates, "_judge", judged)
    monkeypatch.setattr(UserImport, "create", waits)
    _, summary = imported(gateway, "sub\nu0\nu1\nu2\n")
    assert summary["created"] == 3


def test_users_before_a_bad_line_are_created_and_reported(
    gateway: GatewayCommand, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "BATCH", 2)
    export = b"sub\nu0\nu1\nu2\nu3\nzo\xeb\n"
    broken = gateway("users", "import", "-", "--issuer", "main", "--yes", stdin=export)
    assert broken.exit_code == 2
    assert "line 6: it is not UTF-8 text" in broken.stderr
    assert "4 users were created before" in broken.stderr
    assert rows(dsn, "SELECT count(*) AS n FROM users")[0]["n"] == 4


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ("sub\nann\nzo\udceb\n", "stdin, line 3: it is not UTF-8 text"),
        ("Email Address,Org Unit Path\na@x.y,/\n", "has no field for the claim `sub`"),
        ("sub\nann\n", "there is no column `nowhere`"),
    ],
)
def test_a_bad_export_imports_nothing(gateway: GatewayCommand, dsn: str, export: str, message: str) -> None:
    octets = export.encode("utf-8", "surrogateescape")
    result = gateway(
        "users", "import", "-", "--issuer", "main", "--yes", "--tenant-column", "nowhere", stdin=octets
    ) if "nowhere" in message else gateway(
        "users", "import", "-", "--issuer", "main", "--yes", stdin=octets
    )  # fmt: skip

    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert rows(dsn, "SELECT FROM users") == []


def test_users_of_a_source_that_is_writable_are_created_there(gateway: GatewayCommand, dsn: str) -> None:
    rows(
        dsn,
        "CREATE TABLE people (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), sub text, mail text,"
        " blocked boolean NOT NULL DEFAULT false)",
    )
    gateway.config.write_text(
        gateway.config.read_text()
        + "users: {source: {table: people, id: id, email: mail, writable: true, changes: none, status:"
        " [{when: blocked, is: suspended}], identities: [{issuer: main, subject: sub}]}}\n"
        + "cache: {user_ttl: 30s, local_ttl: 30s}\n"
    )

    lines = [{"sub": "a", "email": "a@x.y"}, {"sub": "b", "blocked": True}, {"sub": "c", "email": "A@x.y"}]
    skipped, summary = imported(gateway, "\n".join(map(json.dumps, lines)), code=1)

    assert [each["why"] for each in skipped] == ["email_repeated"]
    assert summary["statuses"] == {"active": 1, "suspended": 1}
    assert [tuple(each) for each in rows(dsn, "SELECT sub, mail, blocked FROM people ORDER BY sub")] == [
        ("a", "a@x.y", False), ("b", None, True),
    ]  # fmt: skip
    skipped, summary = imported(gateway, "\n".join(map(json.dumps, [{"sub": "a"}, lines[2]])), code=1)
    assert [each["why"] for each in skipped] == ["exists", "email_taken"]
    assert summary["created"] == 0


def test_a_source_that_is_read_only_is_left_alone(gateway: GatewayCommand) -> None:
    gateway.config.write_text(
        gateway.config.read_text()
        + "users: {source: {table: people, id: id, identities: [{issuer: main, subject: sub}]}}\n"
    )

    result = gateway("users", "import", "-", "--issuer", "main", "--yes", stdin=KCADM)

    assert result.exit_code == 1, result.output
    assert "the gateway may not write there" in result.stderr
