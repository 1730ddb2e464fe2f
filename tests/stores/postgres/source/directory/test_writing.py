"""A source that is writable is changed in its own columns, as far as these say what a change means."""
# ruff: noqa: S608 -- statements with names of the tests' own

from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from gateway.core.model import Identity, UserStatus
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.user_rows import (
    IdentityMissing,
    IdentityTaken,
    NotWritable,
    StatusRefused,
    UserChanged,
    UserChanges,
)
from tests.stores.postgres.source.directory.opened import OWN, directory
from tests.systems.fixtures import SUSPENDING, Systems
from tests.systems.sources import BLOCKS, ISS
from tests.systems.system import System

AUTHOR = Author("cli:ann", "run-1")
TABLES = """
CREATE TABLE people (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail varchar(40) NOT NULL DEFAULT '', name text,
    org integer, roles text[] NOT NULL DEFAULT '{}', tags jsonb, state text NOT NULL DEFAULT 'ok',
    gone_at timestamptz, valid_after timestamp
);
CREATE TABLE logins (provider text NOT NULL, uid text NOT NULL, person integer NOT NULL REFERENCES people,
    PRIMARY KEY (provider, uid));
INSERT INTO people (mail, name) VALUES ('ann@x.org', 'Ann'), ('bob@x.org', 'Bob');
INSERT INTO logins VALUES ('idp', 'ann', 1), ('idp', 'bob', 2), ('other', 'bob', 2);
"""
BLOCK: Mapping[str, Any] = {
    "table": "people",
    "id": "id",
    "writable": True,
    "status": [
        {"when": "gone_at IS NOT NULL", "is": "deleted"},
        {"when": "state = 'banned'", "is": "suspended"},
        {"when": "state <> 'ok'", "is": "pending"},
    ],
    "email": "mail",
    "display_name": "name",
    "tenant": "org",
    "roles": "roles",
    "tokens_valid_after": "valid_after",
    "identities": [{"table": "logins", "subject": "uid", "user": "person", "where": "provider = 'idp'"}],
}


@pytest.fixture
async def people(empty_dsn: str) -> str:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(TABLES)
    await connection.close()
    return empty_dsn


async def rows(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


@pytest.mark.parametrize("system", SUSPENDING, indirect=True)
async def test_a_status_is_changed_in_the_columns_of_its_rule(system: System) -> None:
    person, other = await system.add(2)
    block = {**BLOCKS[system.name], "writable": True}
    status = UserStatus.LOCKED if system.name == "aspnet-identity" else UserStatus.SUSPENDED
    async with directory(system.dsn, block) as (users, audit):
        record = await users.change(person.id, {"status": status}, author=AUTHOR)
        assert record.user.status is status
        assert record.version is not None
        assert (await users.get(other.id)).user.status is UserStatus.ACTIVE
        assert (await users.change(person.id, {"status": UserStatus.ACTIVE})).user.status is UserStatus.ACTIVE
        # As the system itself does it.
        await system.suspend(person)
        assert (await users.change(person.id, {"status": UserStatus.ACTIVE})).user.status is UserStatus.ACTIVE
        (entry,) = await audit.page()
        assert (entry.actor, entry.action, entry.target) == ("cli:ann", "user.change", f"user:{person.id}")
        assert entry.detail == {"changed": {"status": ["active", status.value]}}


async def test_a_user_is_deleted_if_a_rule_has_that_status(systems: Systems) -> None:
    system = await systems("supabase")
    (person,) = await system.add()
    async with directory(system.dsn, {**BLOCKS["supabase"], "writable": True}) as (users, _):
        assert (await users.delete(person.id)).user.status is UserStatus.DELETED
        with pytest.raises(StatusRefused):
            await users.delete(person.id)
        with pytest.raises(StatusRefused):
            await users.change(person.id, {"status": UserStatus.ACTIVE})
        assert (await users.restore(person.id)).user.status is UserStatus.ACTIVE
        with pytest.raises(StatusRefused):
            await users.restore(person.id)
    system = await systems("django")
    (person,) = await system.add()
    async with directory(system.dsn, {**BLOCKS["django"], "writable": True}) as (users, _):
        with pytest.raises(NotWritable, match=r"no rule of users\.source\.status makes a user deleted"):
            await users.delete(person.id)


async def test_values_that_are_columns_are_changed(people: str) -> None:
    async with directory(people, BLOCK) as (users, audit):
        record = await users.change(
            "1",
            {
                "email": "ann@y.org",
                "display_name": None,
                "tenant": "7",
                "roles": ("a", "b"),
                "tokens_valid_after": 1e9,
            },
            author=AUTHOR,
        )
        user = record.user
        assert (user.email, user.display_name, user.tenant, user.roles) == (
            "ann@y.org",
            None,
            "7",
            ("a", "b"),
        )
        assert user.tokens_valid_after == 1e9
        assert await rows(people, "SELECT mail, name, org FROM people ORDER BY id") == [
            ("ann@y.org", None, 7),
            ("bob@x.org", "Bob", None),
        ]
        (entry,) = await audit.page()
        assert entry.detail["changed"] == {
            "email": None,
            "display_name": None,
            "tenant": [None, "7"],
            "roles": [[], ["a", "b"]],
            "tokens_valid_after": [None, 1e9],
        }


@pytest.mark.parametrize(
    ("given", "change", "words"),
    [
        (
            {"email": "lower(mail)"},
            {"email": "a@b"},
            r"users\.source\.email is the expression `lower\(mail\)`",
        ),
        ({"email": None}, {"email": "a@b"}, r"users\.source\.email is not configured"),
        ({}, {"tenant": "acme"}, "not of the type"),
        ({}, {"email": "x" * 60 + "@y"}, "not of the type"),
        ({}, {"email": None}, "column mail must have a value"),
        (
            {"roles": {"query": "SELECT 'x' WHERE $1 = 1", "watch": {"logins": "person"}}},
            {"roles": ("x",)},
            "is a query, over logins",
        ),
        (
            {"status": [{"when": "length(state) > 3", "is": "suspended"}]},
            {"status": UserStatus.SUSPENDED},
            r"status\[0\]\.when, `length\(state\) > 3`, does not say",
        ),
        (
            {"status": [{"when": "name IS NOT NULL", "is": "suspended"}, {"when": "false", "is": "locked"}]},
            {"status": UserStatus.ACTIVE},
            None,
        ),
        (
            {"status": [{"when": "mail <> ''", "is": "suspended"}, {"when": "name = 'Ann'", "is": "locked"}]},
            {"status": UserStatus.ACTIVE},
            r"status\[1\]\.when, `name = 'Ann'`, does not say",
        ),
    ],
)
async def test_a_refused_change_says_why(
    people: str,
    given: Mapping[str, Any],
    change: UserChanges,
    words: str | None,
) -> None:
    before = await rows(people, "SELECT * FROM people ORDER BY id")
    async with directory(people, {**BLOCK, **given}) as (users, audit):
        if words is None:
            assert (await users.change("1", change)).user.status is UserStatus.ACTIVE
            return
        with pytest.raises(NotWritable, match=words):
            await users.change("1", change, author=AUTHOR)
        assert await audit.page() == []
    assert await rows(people, "SELECT * FROM people ORDER BY id") == before


async def test_a_trigger_that_undoes_a_change_is_noticed(people: str) -> None:
    connection = await asyncpg.connect(people)
    await connection.execute(
        "CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.state := 'ok'; RETURN NEW;"
        " END$$; CREATE TRIGGER undo BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION undo()"
    )
    await connection.close()
    async with directory(people, BLOCK) as (users, _):
        with pytest.raises(NotWritable, match="the user would be active even so"):
            await users.change("1", {"status": UserStatus.SUSPENDED})


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_user_becomes_active_by_the_rule_that_says_so(people: str, reverse: bool) -> None:
    rules = [{"when": "state = 'ok'", "is": "active"}, {"when": "state = 'banned'", "is": "suspended"}]
    if reverse:
        rules.reverse()
    async with directory(people, {**BLOCK, "status": rules}) as (users, _):
        for status in (UserStatus.SUSPENDED, UserStatus.ACTIVE):
            assert (await users.change("1", {"status": status})).user.status is status
        assert await rows(people, "SELECT state FROM people WHERE id = 1") == [("ok",)]


async def test_a_change_that_would_give_another_id_says_so(people: str) -> None:
    block = {**BLOCK, "id": "mail || '/' || id::text", "identities": [{"subject": "name"}]}
    async with directory(people, block) as (users, _):
        with pytest.raises(NotWritable, match=r"users\.source\.id, .* is made from what would be changed"):
            await users.change("ann@x.org/1", {"email": "ann@y.org"})
        assert (await users.get("ann@x.org/1")).user.email == "ann@x.org"


async def test_a_change_and_its_audit_are_one_transaction(people: str) -> None:
    async with directory(people, BLOCK) as (users, audit):
        await users.change("1", {"email": "ann@y.org"}, author=AUTHOR)
        same = f"SELECT a.xmin = p.xmin FROM {OWN}.audit a, people p WHERE p.id = 1"
        assert await rows(people, same) == [(True,)]
        await rows(people, f"ALTER TABLE {OWN}.audit ADD CHECK (actor <> 'cli:ann') NOT VALID")
        with pytest.raises(NotWritable):
            await users.change("1", {"email": "ann@z.org"}, author=AUTHOR)
        assert await rows(people, "SELECT mail FROM people WHERE id = 1") == [("ann@y.org",)]
        assert len(await audit.page()) == 1


async def test_a_status_that_an_earlier_rule_hides_is_uncovered(people: str) -> None:
    async with directory(people, BLOCK) as (users, _):
        assert (await users.change("1", {"status": UserStatus.SUSPENDED})).user.status is UserStatus.SUSPENDED
        with pytest.raises(NotWritable, match=r"status\[1\]\.when, `state = 'banned'`, does not say"):
            await users.change("1", {"status": UserStatus.ACTIVE})
        await rows(people, "UPDATE people SET state = 'new' WHERE id = 1 RETURNING 1")
        assert (await users.get("1")).user.status is UserStatus.PENDING
        assert (await users.change("1", {"status": UserStatus.ACTIVE})).user.status is UserStatus.ACTIVE


async def test_a_change_expects_the_user_as_it_was_read(people: str) -> None:
    async with directory(people, BLOCK) as (users, _):
        with pytest.raises(UserChanged):
            await users.change("1", {"tenant": "7"}, expected=lambda found: found.user.tenant == "8")
        assert (await users.get("1")).user.tenant is None


async def test_identities_are_linked_moved_and_unlinked(people: str) -> None:
    async with directory(people, BLOCK) as (users, audit):
        new = Identity(ISS, "ann-2")
        record = await users.link("1", new, author=AUTHOR)
        assert record.identities == (Identity(ISS, "ann"), new)
        assert ("idp", "ann-2", 1) in await rows(people, "SELECT * FROM logins")
        with pytest.raises(IdentityTaken) as caught:
            await users.link("2", new)
        assert caught.value.user_id == "1"
        moved = await users.move(new, source="1", target="2", author=AUTHOR)
        assert moved.identities == (new, Identity(ISS, "bob"))
        with pytest.raises(IdentityMissing):
            await users.unlink("1", new)
        assert (await users.unlink("2", Identity(ISS, "bob"), author=AUTHOR)).identities == (new,)
        assert await rows(people, "SELECT provider, uid, person FROM logins ORDER BY 2, 1") == [
            ("idp", "ann", 1),
            ("idp", "ann-2", 2),
            ("other", "bob", 2),
        ]
        actions = [entry.action for entry in await audit.page()]
        assert actions == ["identity.unlink", "identity.link", "identity.unlink", "identity.link"]


async def test_a_user_is_created_where_all_columns_are_known(people: str) -> None:
    async with directory(people, BLOCK) as (users, audit):
        new = Identity(ISS, "carol")
        record = await users.add(
            new, email="carol@x.org", tenant="3", status=UserStatus.SUSPENDED, author=AUTHOR
        )
        assert record.identities == (new,)
        assert (record.user.email, record.user.tenant) == ("carol@x.org", "3")
        assert record.user.status is UserStatus.SUSPENDED
        with pytest.raises(IdentityTaken):
            await users.add(new)
        assert [entry.action for entry in await audit.page()] == ["user.create"]


@pytest.mark.parametrize(
    ("name", "lacks"),
    [("django", "password"), ("authjs", "type"), ("aspnet-identity", "EmailConfirmed")],
)
async def test_rows_that_need_more_than_is_known_are_not_created(
    systems: Systems, name: str, lacks: str
) -> None:
    system = await systems(name)
    async with directory(system.dsn, {**BLOCKS[name], "writable": True}) as (users, _):
        with pytest.raises(NotWritable, match=rf"needs values for .*{lacks}"):
            await users.add(Identity(ISS, "new"))
        assert await users.page() == []


async def test_an_identity_that_needs_more_than_is_known_is_not_linked_but_moves(systems: Systems) -> None:
    system = await systems("django")
    person, other = await system.add(2)
    async with directory(system.dsn, {**BLOCKS["django"], "writable": True}) as (users, _):
        with pytest.raises(NotWritable, match=r"social_auth_usersocialauth needs values for .*created"):
            await users.link(person.id, Identity(ISS, "another"))
        mine = Identity(ISS, person.subject)
        moved = await users.move(mine, source=person.id, target=other.id)
        assert mine in moved.identities
        assert (await users.get(person.id)).identities == ()


async def test_a_subject_in_the_table_of_users(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(
        "CREATE TABLE people (id uuid PRIMARY KEY, sub text UNIQUE, active boolean NOT NULL);"
        "INSERT INTO people VALUES (gen_random_uuid(), 'ann', true)"
    )
    await connection.close()
    block = {
        "table": "people", "id": "id", "writable": True, "identities": [{"subject": "sub"}],
        "status": [{"when": "NOT active", "is": "suspended"}],
    }  # fmt: skip
    async with directory(empty_dsn, block) as (users, _):
        ann, bob = Identity(ISS, "ann"), Identity(ISS, "bob")
        new = await users.add(bob)
        assert (new.user.status, new.identities) == (UserStatus.ACTIVE, (bob,))
        (first,) = await users.behind(ann)
        with pytest.raises(NotWritable, match="has room for one subject"):
            await users.link(first.user.id, Identity(ISS, "carol"))
        assert (await users.unlink(first.user.id, ann)).identities == ()
        assert (await users.link(first.user.id, Identity(ISS, "carol"))).identities == (
            Identity(ISS, "carol"),
        )
        await users.unlink(new.user.id, bob)
        moved = await users.move(Identity(ISS, "carol"), source=first.user.id, target=new.user.id)
        assert moved.identities == (Identity(ISS, "carol"),)
