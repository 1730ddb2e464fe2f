"""`gateway users` and `gateway revoke user` where users are in tables of another system."""

from pathlib import Path

from gateway.cli.terminal import output
from gateway.stores.postgres.migrate import migrate
from tests.cli.source_command import Command
from tests.systems.fixtures import Systems


async def test_users_are_shown_by_every_name(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    people = await system.add(3)
    person = people[1]
    await migrate(system.dsn, "gateway_own")
    gateway = Command(tmp_path, system, redis_url)
    shown = await gateway.json("users", "show", person.id)
    assert (shown["id"], shown["email"]) == (person.id, person.email)
    assert shown["created_at"] is not None
    assert (shown["updated_at"], shown["deleted_at"]) == (None, None)
    for name in (f"main:{person.subject}", person.email.upper()):
        assert await gateway.json("users", "show", name) == shown
    assert (await gateway("users", "show", "ghost")).exit_code == output.DENIED
    listed = await gateway.json("users", "list", "--limit", "2")
    more = await gateway.json("users", "list", "--after", listed["next"])
    assert [each["id"] for each in (*listed["users"], *more["users"])] == [each.id for each in people]
    assert (await gateway("users", "list", "--after", "x")).exit_code == output.OK


async def test_a_source_is_read_only(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    (person,) = await system.add()
    await migrate(system.dsn, "gateway_own")
    gateway = Command(tmp_path, system, redis_url)
    refused = await gateway("users", "suspend", person.id)
    assert refused.exit_code == output.DENIED
    assert "users.source is read-only: change auth_user, where `NOT is_active`" in refused.stderr
    assert "Traceback" not in refused.output
    for words in (("change", person.id, "--tenant=x"), ("link", person.id, "--issuer=main", "--subject=x")):
        assert (await gateway("users", *words)).exit_code == output.DENIED


async def test_a_row_for_which_an_expression_fails_is_named(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    (person,) = await system.add()
    await migrate(system.dsn, "gateway_own")
    gateway = Command(tmp_path, system, redis_url, tenant="(1 / (id - id))::text")
    for words in (("users", "list"), ("users", "show", person.id)):
        told = await gateway(*words)
        assert told.exit_code == output.USAGE
        assert "an expression fails for a user's row (SQLSTATE 22012)" in told.stderr
    assert (await gateway.json("revoke", "user", person.id))["value"] == person.id


async def test_a_writable_source_is_changed(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    (person,) = await system.add()
    await migrate(system.dsn, "gateway_own")
    gateway = Command(tmp_path, system, redis_url, writable=True)
    assert (await gateway.json("users", "suspend", person.id))["status"] == "suspended"
    assert [row["is_active"] for row in await system.sql("SELECT is_active FROM auth_user")] == [False]
    assert (await gateway.json("users", "activate", person.id))["status"] == "active"
    changed = await gateway.json("users", "change", person.id, "--email=new@example.com")
    assert changed["email"] == "new@example.com"
    refused = await gateway("users", "lock", person.id)
    assert "no rule of users.source.status makes a user locked" in refused.stderr


async def test_tokens_of_a_user_are_revoked_by_the_systems_id(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    (person,) = await system.add()
    await migrate(system.dsn, "gateway_own")
    gateway = Command(tmp_path, system, redis_url)
    assert (await gateway("revoke", "user", person.email)).exit_code == output.OK
    rows = await system.sql("SELECT kind, value FROM gateway_own.revocations")
    assert [tuple(row) for row in rows] == [("user", person.id)]
    await system.delete(person)
    assert (await gateway("revocations", "lift", "user", person.id)).exit_code == output.OK
    assert await system.sql("SELECT FROM gateway_own.revocations") == []


async def test_several_users_behind_one_subject_are_named(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    person, other = await system.add(2)
    await system.sql("UPDATE auth_user SET email = 'twin@example.com'")
    await migrate(system.dsn, "gateway_own")
    gateway = Command(tmp_path, system, redis_url, identities=[{"subject": "email"}])
    refused = await gateway("users", "show", "main:twin@example.com")
    assert refused.exit_code == output.DENIED
    assert "several users have this subject" in refused.stderr
    assert f"{person.id}, {other.id}" in refused.stderr
