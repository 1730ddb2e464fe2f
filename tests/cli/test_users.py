import re
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from redis import Redis as Client

from gateway.cli.stores import Stores
from gateway.stores.postgres.directory.user_rows import UserRecord
from gateway.stores.postgres.migrate import migrations
from tests.cli.gateway_command import ISS, GatewayCommand, gateway_command


@pytest.fixture
def gateway(tmp_path: Path, dsn: str, redis_url: str) -> GatewayCommand:
    return gateway_command(tmp_path, dsn, redis_url)


def text(output: str) -> str:
    return re.sub(r"\s+", " ", output)


def add(gateway: GatewayCommand, subject: str = "ann", *more: str) -> str:
    user = gateway.json("users", "add", "--issuer", "main", "--subject", subject, *more)
    return str(user["id"])


def test_add_and_show_by_every_name(gateway: GatewayCommand) -> None:
    user = gateway.json(
        "users", "add", "--issuer", ISS, "--subject", "a:b", "--email", "ann@example.com", "--name", "Ann",
        "--tenant", "acme", "--role", "admin", "--role", "ops", "--status", "pending",
    )  # fmt: skip
    assert user["identities"] == [{"issuer": ISS, "subject": "a:b"}]
    assert (user["status"], user["tenant"], user["roles"]) == ("pending", "acme", ["admin", "ops"])
    for name in (str(user["id"]), str(user["id"]).upper(), "main:a:b", "ANN@example.com"):
        assert gateway.json("users", "show", name) == user
    shown = gateway("users", "show", "main:a:b")
    assert shown.exit_code == 0
    assert "admin, ops" in shown.stdout


@pytest.mark.parametrize(
    ("user", "why"),
    [
        ("main:ghost", "no user has the identity `ghost`"),
        ("nobody@example.com", "there is no user"),
        ("ann", "give an id, an e-mail address, or ISSUER_NAME:SUBJECT"),
        ("0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01", "there is no user with the id"),
    ],
)
def test_a_missing_user_is_named(gateway: GatewayCommand, user: str, why: str) -> None:
    result = gateway("users", "show", user)
    assert result.exit_code == 1
    assert why in text(result.stderr)
    assert "Traceback" not in result.output


def test_an_address_of_two_users_is_not_guessed(gateway: GatewayCommand) -> None:
    ids = [add(gateway, subject, "--email", "team@example.com") for subject in ("ann", "bob")]
    result = gateway("users", "suspend", "team@example.com")
    assert result.exit_code == 1
    assert all(user_id in text(result.stderr) for user_id in ids)


def test_a_taken_identity_is_refused_with_its_user(gateway: GatewayCommand) -> None:
    ann = add(gateway)
    bob = add(gateway, "bob")
    for words in (["add"], ["link", bob]):
        result = gateway("users", *words, "--issuer", "main", "--subject", "ann")
        assert result.exit_code == 1
        assert f"already belongs to user {ann}" in text(result.stderr)


def test_link(gateway: GatewayCommand) -> None:
    ann = add(gateway)
    linked = gateway.json("users", "link", ann, "--issuer", "main", "--subject", "ann-2")
    assert linked["identities"] == [{"issuer": ISS, "subject": "ann"}, {"issuer": ISS, "subject": "ann-2"}]


def test_an_identity_is_moved_from_its_user(gateway: GatewayCommand, redis_url: str) -> None:
    ann, bob, eve = (add(gateway, subject) for subject in ("ann", "bob", "eve"))
    words = ("users", "link", bob, "--issuer", "main", "--subject", "ann", "--from")
    refused = gateway(*words, eve)
    assert refused.exit_code == 1
    assert "no such identity leads to this user → give the user who has the identity" in text(refused.stderr)
    with Client.from_url(redis_url) as redis:
        redis.set("gateway:user:main:ann", "as it was")
        moved = gateway.json(*words, "main:ann")
        assert redis.exists("gateway:user:main:ann") == 0
    assert (moved["id"], moved["identities"]) == (
        bob,
        [{"issuer": ISS, "subject": "bob"}, {"issuer": ISS, "subject": "ann"}],
    )
    assert gateway.json("users", "show", ann)["identities"] == []


def test_only_the_named_fields_change(gateway: GatewayCommand, redis_url: str) -> None:
    ann = add(gateway, "ann", "--email", "ann@example.com", "--name", "Ann", "--tenant", "a", "--role", "r1")
    with Client.from_url(redis_url) as redis:
        redis.set("gateway:user:main:ann", "as it was")
        changed = gateway.json(
            "users", "change", "main:ann", "--add-role", "r2", "--add-role", "r1", "--tenant", "b",
            "--tokens-valid-after", "2030-01-31T13:00:00+01:00",
        )  # fmt: skip
        assert redis.exists("gateway:user:main:ann") == 0
    assert (changed["id"], changed["roles"], changed["tenant"]) == (ann, ["r1", "r2"], "b")
    assert (changed["email"], changed["display_name"]) == ("ann@example.com", "Ann")
    assert changed["tokens_valid_after"] == "2030-01-31T12:00:00Z"

    changed = gateway.json("users", "change", ann, "--email", "a@example.com", "--remove-role", "r1")
    assert (changed["email"], changed["roles"]) == ("a@example.com", ["r2"])
    assert (changed["tenant"], changed["tokens_valid_after"]) == ("b", "2030-01-31T12:00:00Z")

    fields = ("email", "name", "tenant", "tokens-valid-after")
    changed = gateway.json("users", "change", ann, *(word for each in fields for word in ("--clear", each)))
    assert [changed[each] for each in ("email", "display_name", "tenant", "tokens_valid_after")] == [None] * 4
    assert (changed["roles"], changed["status"]) == (["r2"], "active")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "there is nothing to change"),
        (("--tenant", "a", "--clear", "tenant"), "--tenant and --clear tenant exclude each other"),
        (("--tokens-valid-after", "2030-01-31T12:00:00"), "--tokens-valid-after is not an RFC 3339 time"),
        (("--tokens-valid-after", "tomorrow"), "--tokens-valid-after is not an RFC 3339 time"),
        (("--clear", "status"), "--clear"),
        (("--add-role", ""), "--add-role"),
    ],
)
def test_a_change_that_means_nothing(gateway: GatewayCommand, words: tuple[str, ...], why: str) -> None:
    add(gateway)
    result = gateway("users", "change", "main:ann", *words)
    assert result.exit_code == 2
    assert why in text(result.stderr)


def test_a_role_that_another_operator_gives_meanwhile_is_not_lost(
    gateway: GatewayCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(gateway, "ann", "--role", "r1")
    find = Stores.user

    async def overtaken(stores: Stores, name: str) -> UserRecord:
        record = await find(stores, name)
        await stores.directory.change(UUID(record.user.id), {"roles": ("r1", "of-another")})
        return record

    with monkeypatch.context() as patch:
        patch.setattr(Stores, "user", overtaken)
        result = gateway("users", "change", "main:ann", "--add-role", "r2")
    assert result.exit_code == 1
    assert "the user has changed since it was read → repeat the command" in text(result.stderr)
    assert gateway.json("users", "show", "main:ann")["roles"] == ["r1", "of-another"]


def test_status_changes_reach_redis(gateway: GatewayCommand, redis_url: str) -> None:
    add(gateway)
    with Client.from_url(redis_url) as redis:
        for command, status in [
            ("suspend", "suspended"),
            ("lock", "locked"),
            ("activate", "active"),
            ("delete", "deleted"),
            ("restore", "active"),
        ]:
            redis.set("gateway:user:main:ann", "as it was")
            assert gateway.json("users", command, "main:ann")["status"] == status
            assert redis.exists("gateway:user:main:ann") == 0


def test_a_deleted_user_is_only_restored(gateway: GatewayCommand) -> None:
    add(gateway)
    assert gateway("users", "restore", "main:ann").exit_code == 1
    gateway.json("users", "delete", "main:ann")
    result = gateway("users", "activate", "main:ann")
    assert result.exit_code == 1
    assert "gateway users restore" in text(result.stderr)


def test_list_in_pages(gateway: GatewayCommand) -> None:
    ids = [add(gateway, f"user-{n}", "--tenant", f"t{n % 2}") for n in range(3)]
    first = gateway.json("users", "list", "--limit", "2")
    assert first["next"] == ids[1]
    rest = gateway.json("users", "list", "--after", ids[1])
    assert rest["next"] is None
    assert [user["id"] for page in (first, rest) for user in page["users"]] == ids  # type: ignore[attr-defined]  # JSON
    assert gateway.json("users", "list", "--status", "locked")["users"] == []
    result = gateway("users", "list", "--tenant", "t1")
    assert (result.exit_code, "user-1" in result.stdout, "user-0" in result.stdout) == (0, True, False)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tenant", ""),
        ("--tenant", "a\nb"),
        ("--role", ""),
        ("--email", ""),
        ("--email", "not an email"),
        ("--email", "ann@"),
        ("--name", "\udcff"),
    ],
)
def test_values_that_cannot_be_matched_are_refused(gateway: GatewayCommand, option: str, value: str) -> None:
    result = gateway("users", "add", "--issuer", "main", "--subject", "ann", "--role", "ops", option, value)
    assert result.exit_code == 2
    assert option in result.stderr
    assert gateway.json("users", "list")["users"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("users", "show", "main:\udcff"),
        ("users", "suspend", "\udcff@example.com"),
        ("users", "list", "--tenant", "\udcff"),
        ("revoke", "user", "main:\udcff"),
        ("revocations", "lift", "jti", "main", "\udcff"),
    ],
)
def test_invalid_unicode_is_wrong_usage_not_an_error_of_postgres(
    gateway: GatewayCommand, words: tuple[str, ...]
) -> None:
    result = gateway(*words)
    assert result.exit_code == 2
    assert "Postgres cannot hold a value of this command" in text(result.stderr)


@pytest.mark.parametrize("subject", ["", "a\tb", "\udcff", "x" * 256])
def test_a_subject_that_no_token_has(gateway: GatewayCommand, subject: str) -> None:
    result = gateway("users", "add", "--issuer", "main", "--subject", subject)
    assert result.exit_code == 2
    assert "a subject has 1 to 255 characters" in text(result.stderr)


def test_an_issuer_that_is_not_configured(gateway: GatewayCommand) -> None:
    result = gateway("users", "add", "--issuer", "other", "--subject", "ann")
    assert result.exit_code == 1
    assert "no issuer `other` is configured → configured issuers: main" in text(result.stderr)


def test_control_characters_are_not_shown(gateway: GatewayCommand) -> None:
    add(gateway, "ann", "--name", "\x1b[31mred")
    assert "\x1b[31m" not in gateway("users", "show", "main:ann").stdout


def test_redis_down_is_said_after_the_change_was_saved(
    tmp_path: Path, dsn: str, gateway: GatewayCommand
) -> None:
    add(gateway)
    without = gateway_command(tmp_path, dsn, "redis://127.0.0.1:1")
    result = without("users", "suspend", "main:ann")
    assert result.exit_code == 3
    assert "saved in Postgres, but redis is unavailable: 127.0.0.1:1" in text(result.stderr)
    assert "for up to 300 s" in text(result.stderr)
    assert gateway_command(tmp_path, dsn, "redis://127.0.0.1:1").json("users", "show", "main:ann")[
        "status"
    ] == ("suspended")


def test_postgres_down(tmp_path: Path) -> None:
    gateway = gateway_command(tmp_path, "postgresql://ann:hunter2@127.0.0.1:1/x", "redis://127.0.0.1:1")
    for words in (["users", "list"], ["migrate"], ["revocations", "list"]):
        result = gateway(*words)
        assert result.exit_code == 3
        assert "Postgres at 127.0.0.1:1 cannot be reached: connection refused → start it" in text(
            result.stderr
        )
        assert "hunter2" not in result.output


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (
            {"netloc": "nobody:hunter2@{host}"},
            3,
            ["did not run the command:", "→ correct user and password in postgres.dsn"],
        ),
        ({"path": "/missing"}, 3, ['database "missing" does not exist → create the database']),
        (
            {"query": "sslmode=verify-full"},
            2,
            ["postgres.dsn: the DSN cannot be used", "→ correct postgres.dsn"],
        ),
        ({"query": "sslmode=require"}, 3, ["does not speak TLS", "→ correct sslmode"]),
        (
            {"query": "sslmode=verify-full&sslrootcert=/none.pem"},
            3,
            ["No such file or directory → start it, or correct the paths (socket, sslrootcert"],
        ),
    ],
)
def test_postgres_refuses(
    tmp_path: Path, dsn: str, change: dict[str, str], code: int, told: list[str]
) -> None:
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    refused = parts._replace(**{key: value.format(host=host) for key, value in change.items()}).geturl()
    result = gateway_command(tmp_path, refused, "redis://127.0.0.1:1")("users", "list")
    assert result.exit_code == code
    for words in told:
        assert words in text(result.stderr)
    assert "hunter2" not in result.output


def test_tables_missing(tmp_path: Path, empty_dsn: str) -> None:
    gateway = gateway_command(tmp_path, empty_dsn, "redis://127.0.0.1:1")
    result = gateway("users", "list")
    assert result.exit_code == 3
    assert 'relation "users" does not exist → run `gateway migrate`' in text(result.stderr)
    assert gateway.json("migrate") == {
        "applied": [f"{each.version:04}_{each.name}" for each in migrations()],
    }
    assert gateway("migrate").stdout == "The tables are up to date.\n"
    assert gateway.json("users", "list") == {"users": [], "next": None}
