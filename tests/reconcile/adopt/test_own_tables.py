"""What is proposed for tables of one's own."""

from typing import Final

import pytest

from gateway.core.model import JSON
from tests.reconcile.adopt.looking import look
from tests.sql import execute
from tests.systems.fixtures import Systems

MEMBERS: Final = """
CREATE SCHEMA crm;
CREATE TYPE crm.state AS ENUM ('active', 'invited', 'blocked', 'removed');
CREATE TABLE crm."Members" (
    "memberId" bigint PRIMARY KEY, "eMail" text, state crm.state NOT NULL, "isDeleted" boolean,
    "validUntil" timestamp, "tenantId" uuid NOT NULL, updated_at timestamptz
);
CREATE TABLE crm.member_logins (
    provider text NOT NULL, external_id text NOT NULL, "memberId" bigint REFERENCES crm."Members",
    UNIQUE (external_id, provider)
);
CREATE TABLE crm.member_events (id serial PRIMARY KEY, sub text, "memberId" bigint REFERENCES crm."Members");
CREATE TABLE crm.roles (id int PRIMARY KEY, name text);
CREATE TABLE crm.member_roles (member_id bigint REFERENCES crm."Members", role_id int REFERENCES crm.roles);
INSERT INTO crm."Members" SELECT i, i || '@example.com', 'active', false, NULL, gen_random_uuid()
FROM generate_series(1, 100) i;
INSERT INTO crm.member_logins SELECT 'google', 'g' || i, i FROM generate_series(1, 100) i;
INSERT INTO crm.member_events (sub, "memberId") SELECT 'g' || i, i FROM generate_series(1, 100) i;
"""
OF_MEMBERS: Final[dict[str, JSON]] = {
    "table": 'crm."Members"',
    "id": '"memberId"',
    "status": [
        {"when": "state = 'removed'", "is": "deleted"},
        {"when": '"isDeleted" IS TRUE', "is": "deleted"},
        {"when": "state = 'blocked'", "is": "suspended"},
        {
            "when": "(\"validUntil\" AT TIME ZONE 'UTC') <= now()",
            "is": "suspended",
            "until": "(\"validUntil\" AT TIME ZONE 'UTC')",
        },
        {"when": "state = 'invited'", "is": "pending"},
        {"when": "state <> 'active'", "is": "suspended"},
    ],
    "tenant": '"tenantId"::text',
    "email": '"eMail"',
    "roles": {
        "query": "SELECT r.name FROM crm.member_roles u JOIN crm.roles r ON r.id = u.role_id"
        " WHERE u.member_id = $1",
        "watch": {"crm.member_roles": "member_id", "crm.roles": "*"},
    },
    "identities": [
        {
            "table": "crm.member_logins",
            "subject": "external_id",
            "user": '"memberId"',
            "where": "provider = 'google'",
        }
    ],
    "changes": "triggers",
}
USERS: Final = """
CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), auth0_id text UNIQUE, email text NOT NULL,
    full_name text, status text NOT NULL DEFAULT 'active', banned_until timestamptz, roles text[],
    created_at timestamptz DEFAULT now()
);
INSERT INTO users (auth0_id, email, status)
SELECT 'auth0|' || i, i || '@example.com', (ARRAY['active', 'Suspended', 'deleted'])[1 + i % 3]
FROM generate_series(1, 100) i;
"""


@pytest.mark.parametrize("subjects", [None, [f"g{i}" for i in range(1, 50)]])
async def test_users_and_identities_in_tables_with_names_of_their_own(
    empty_dsn: str, subjects: list[str] | None
) -> None:
    await execute(empty_dsn, MEMBERS)

    found = await look(empty_dsn, subjects)

    assert found.source == OF_MEMBERS


async def test_subjects_in_the_table_of_users_itself(empty_dsn: str) -> None:
    await execute(empty_dsn, USERS)

    found = await look(empty_dsn, [f"auth0|{i}" for i in range(50, 150)], issuer="main")

    assert found.source == {
        "table": "users",
        "id": "id",
        "status": [
            {"when": "status = 'deleted'", "is": "deleted"},
            {"when": "status = 'Suspended'", "is": "suspended"},
            {"when": "banned_until > now()", "is": "suspended", "until": "banned_until"},
            {"when": "status <> 'active'", "is": "suspended"},
        ],
        "email": "email",
        "display_name": "full_name",
        "roles": "roles",
        "created_at": "created_at",
        "identities": [{"issuer": "main", "subject": "auth0_id"}],
        "changes": "triggers",
    }
    assert found.choice is not None
    assert found.choice.found == 51


@pytest.mark.parametrize("type_", ["uuid", "text", "bigint"])
async def test_the_users_id_is_the_subject(empty_dsn: str, type_: str) -> None:
    make = {"uuid": "gen_random_uuid()", "text": "'u' || i", "bigint": "i"}[type_]
    await execute(
        empty_dsn,
        f"CREATE TABLE accounts (id {type_} PRIMARY KEY, email text, password_hash text)",
        f"INSERT INTO accounts (id) SELECT {make} FROM generate_series(1, 20) i",  # noqa: S608 -- ours
    )

    source = (await look(empty_dsn)).source

    assert source is not None
    assert source["identities"] == [{"subject": "id" if type_ == "text" else "id::text"}]


async def test_several_tables_of_identities_that_complement_each_other(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        "CREATE TABLE users (id int PRIMARY KEY, email text, name text)",
        "INSERT INTO users SELECT i FROM generate_series(1, 100) i",
        "CREATE TABLE google_accounts (google_id text PRIMARY KEY, user_id int REFERENCES users)",
        "CREATE TABLE okta_accounts (okta_id text PRIMARY KEY, user_id int REFERENCES users)",
        "INSERT INTO google_accounts SELECT 'g' || i, i FROM generate_series(1, 60) i",
        "INSERT INTO okta_accounts SELECT 'o' || i, i FROM generate_series(61, 100) i",
    )
    subjects = [*(f"g{i}" for i in range(1, 61)), *(f"o{i}" for i in range(61, 101))]

    found = await look(empty_dsn, subjects)

    assert found.source is not None
    assert found.source["identities"] == [
        {"table": "google_accounts", "subject": "google_id", "user": "user_id"},
        {"table": "okta_accounts", "subject": "okta_id", "user": "user_id"},
    ]
    assert found.choice is not None
    assert found.choice.found == 100


async def test_integer_ids_of_other_tables_are_no_subjects(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        'CREATE TABLE "user" (id serial PRIMARY KEY, email text, password text, active boolean)',
        "CREATE TABLE product (id serial PRIMARY KEY, name text)",
        """INSERT INTO "user" (email) SELECT i || '@example.com' FROM generate_series(1, 100) i""",
        "INSERT INTO product (name) SELECT 'p' FROM generate_series(1, 200)",
    )

    found = await look(empty_dsn, [str(i) for i in range(1, 150)])

    assert found.source is not None
    assert (found.source["table"], found.source["identities"]) == ('"user"', [{"subject": "id::text"}])
    assert found.source["status"] == [{"when": "active IS NOT TRUE", "is": "suspended"}]


async def test_a_table_that_only_its_subjects_tell(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        "CREATE TABLE t_kd (k int PRIMARY KEY, s text UNIQUE, g boolean NOT NULL)",
        "INSERT INTO t_kd SELECT i, 'abc' || i, false FROM generate_series(1, 100) i",
    )

    assert (await look(empty_dsn)).choice is None
    found = await look(empty_dsn, [f"abc{i}" for i in range(1, 50)])

    assert found.source == {
        "table": "t_kd", "id": "k", "status": [], "identities": [{"subject": "s"}], "changes": "triggers",
    }  # fmt: skip
    assert any("no column that says who may not sign in" in each for each in found.advice)


async def test_a_view_is_polled(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        "CREATE TABLE t_kd (k int PRIMARY KEY, s text UNIQUE, g boolean NOT NULL, m timestamptz)",
        "CREATE VIEW members AS"
        " SELECT k AS id, s AS sub, g AS blocked, m AS updated_at, '' AS email FROM t_kd",
    )

    source = (await look(empty_dsn)).source

    assert source is not None
    assert source["table"] == "members"
    assert (source["changes"], source["poll"]) == ("poll", {"column": "updated_at", "interval": "1s"})


async def test_a_partitioned_table_is_one_table(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        "CREATE TABLE users (id bigint, tenant_id bigint, sub text, email text, deleted boolean NOT NULL,"
        " PRIMARY KEY (tenant_id, id)) PARTITION BY HASH (tenant_id)",
        "CREATE TABLE users_0 PARTITION OF users FOR VALUES WITH (modulus 2, remainder 0)",
        "CREATE TABLE users_1 PARTITION OF users FOR VALUES WITH (modulus 2, remainder 1)",
        "INSERT INTO users SELECT i, i % 7, 's' || i, '', false FROM generate_series(1, 100) i",
        "ANALYZE",
    )

    found = await look(empty_dsn, [f"s{i}" for i in range(1, 50)])

    assert found.relations == 1
    assert found.choice is not None
    assert found.choice.system.users.estimate == 100
    assert found.source == {
        "table": "users",
        "id": "id",
        "status": [{"when": "deleted", "is": "deleted"}],
        "tenant": "tenant_id::text",
        "email": "email",
        "identities": [{"subject": "sub"}],
        "changes": "triggers",
    }
    assert any("users.id is not unique by itself" in each for each in found.advice)


@pytest.mark.parametrize(
    "tables",
    [
        "SELECT",
        "CREATE TABLE orders (id serial PRIMARY KEY, total int)",
        "CREATE TABLE user_roles (user_id int, role text)",
        "CREATE TABLE login_events (id serial PRIMARY KEY, email text, created_at timestamptz)",
    ],
)
async def test_a_database_without_users(empty_dsn: str, tables: str) -> None:
    await execute(empty_dsn, tables)

    found = await look(empty_dsn, ["1", "x"])

    assert found.choice is None
    assert found.source is None


async def test_a_profile_is_not_its_user(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        "CREATE TABLE usr (id int PRIMARY KEY, email text, pwd_hash text)",
        "CREATE TABLE profiles (id int PRIMARY KEY, user_id int UNIQUE REFERENCES usr, email text,"
        " display_name text, created_at timestamptz)",
    )

    source = (await look(empty_dsn)).source

    assert source is not None
    assert source["table"] == "usr"


async def test_an_email_address_as_subject_is_warned_of(empty_dsn: str) -> None:
    await execute(empty_dsn, USERS)

    found = await look(empty_dsn, [f"{i}@example.com" for i in range(1, 50)])

    assert found.source is not None
    assert found.source["identities"] == [{"subject": "email"}]
    assert any("users.email is an e-mail address" in each for each in found.advice)


@pytest.mark.parametrize("subjects", [None, [f"u{i}" for i in range(1, 20)]])
async def test_a_provider_beside_the_subject_limits_it(empty_dsn: str, subjects: list[str] | None) -> None:
    await execute(
        empty_dsn,
        "CREATE TABLE users (id bigserial PRIMARY KEY, provider text, uid text, email text)",
        "ALTER TABLE users ADD locked_at timestamp",
        "INSERT INTO users (provider, uid) SELECT 'oidc', 'u' || i FROM generate_series(1, 20) i",
        "INSERT INTO users (provider, uid) SELECT 'github', 'u' || i FROM generate_series(1, 5) i",
    )

    found = await look(empty_dsn, subjects)

    assert found.source is not None
    assert found.source["identities"] == [{"subject": "uid", "where": "provider = 'oidc'"}]
    assert found.source["status"] == [{"when": "locked_at IS NOT NULL", "is": "locked"}]
    assert any("users.provider names 2 providers" in each for each in found.advice)


async def test_a_column_that_names_its_provider_needs_no_other(empty_dsn: str) -> None:
    await execute(
        empty_dsn, "CREATE TABLE users (id bigserial PRIMARY KEY, provider text, auth0_id text, email text)"
    )

    source = (await look(empty_dsn)).source

    assert source is not None
    assert source["identities"] == [{"subject": "auth0_id"}]


async def test_flags_and_states_that_are_numbers(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        "CREATE TABLE users (id bigserial PRIMARY KEY, email text, sub text, is_active smallint,"
        " is_deleted int, status int)",
    )

    found = await look(empty_dsn)

    assert found.source is not None
    assert found.source["status"] == [
        {"when": "is_deleted <> 0", "is": "deleted"},
        {"when": "coalesce(is_active, 0) = 0", "is": "suspended"},
    ]
    assert any("users.status has values" in each for each in found.advice)


async def test_profiles_beside_the_users_of_supabase(systems: Systems) -> None:
    system = await systems("supabase")
    people = await system.add(10)
    await execute(
        system.dsn,
        "CREATE TABLE public.users (id uuid PRIMARY KEY REFERENCES auth.users, email text, banned boolean)",
        "INSERT INTO public.users (id, email) SELECT id, email FROM auth.users",
    )

    found = await look(system.dsn, [each.subject for each in people])

    assert found.source == {"preset": "supabase"}
