"""What is proposed for well-known systems, on their own tables."""

from typing import Final

import pytest

from gateway.core.model import JSON
from tests.reconcile.adopt.looking import look
from tests.sql import execute
from tests.systems.fixtures import SYSTEMS, Systems
from tests.systems.keycloak import REALM
from tests.systems.system import System

ALLAUTH: Final[JSON] = [
    {
        "table": "socialaccount_socialaccount",
        "subject": "uid",
        "user": "user_id",
        "where": "provider = 'oidc'",
    }
]
PROPOSED: Final[dict[str, dict[str, JSON]]] = {
    "django": {"preset": "django", "provider": "oidc"},
    "django-allauth": {"preset": "django", "identities": ALLAUTH},
    "django-custom": {"preset": "django", "provider": "oidc", "table": "accounts_user"},
    "supabase": {"preset": "supabase"},
    "keycloak": {"preset": "keycloak", "realm": REALM},
    "authjs": {"preset": "authjs", "provider": "google"},
    "aspnet-identity": {"preset": "aspnet-identity", "provider": "OpenIdConnect"},
}


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_a_system_is_recognised_by_its_tables(system: System) -> None:
    await system.add(3)

    found = await look(system.dsn)

    assert found.source == PROPOSED[system.name]
    assert found.unreadable == []


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_the_subjects_of_its_users_are_found(system: System) -> None:
    people = await system.add(50)

    found = await look(system.dsn, [*(each.subject for each in people[:40]), "nobody"])

    assert found.source == PROPOSED[system.name]
    assert found.choice is not None
    assert found.choice.found == 40


async def test_the_issuer_is_written_down(systems: Systems) -> None:
    django, allauth = await systems("django"), await systems("django-allauth")

    assert (await look(django.dsn, issuer="main")).source == {
        "preset": "django", "provider": "FILL_IN", "issuer": "main",
    }  # fmt: skip
    found = (await look(allauth.dsn, issuer="main")).source
    assert found is not None
    assert found["issuer"] == "main"


async def test_the_provider_of_the_subjects_counts_and_not_the_most_used(systems: Systems) -> None:
    system = await systems("authjs")
    people = await system.add(20)
    await system.sql(
        "UPDATE accounts SET provider = 'github' WHERE \"providerAccountId\" = ANY ($1)",
        [each.subject for each in people[:5]],
    )

    without, with_subjects = (
        await look(system.dsn),
        await look(system.dsn, [each.subject for each in people[:5]]),
    )

    assert without.source == {"preset": "authjs", "provider": "google"}
    assert with_subjects.source == {"preset": "authjs", "provider": "github"}


async def test_tokens_of_the_system_itself_name_users_by_their_id(systems: Systems) -> None:
    django, aspnet = await systems("django"), await systems("aspnet-identity")
    ids = {system.dsn: [each.id for each in await system.add(20)] for system in (django, aspnet)}

    found = {dsn: (await look(dsn, subjects)).source for dsn, subjects in ids.items()}

    assert found[django.dsn] == {"preset": "django", "identities": [{"subject": "id::text"}]}
    assert found[aspnet.dsn] == {"preset": "aspnet-identity", "identities": [{"subject": '"Id"'}]}


async def test_tokens_of_a_broker_behind_keycloak_lead_to_its_users_within_the_realm(
    systems: Systems,
) -> None:
    system = await systems("keycloak")
    await system.add(20)
    subjects = [
        row["id"] for row in await system.sql("SELECT federated_user_id AS id FROM federated_identity")
    ]

    found = await look(system.dsn, subjects)

    assert found.source == {
        "preset": "keycloak",
        "realm": REALM,
        "identities": [
            {
                "table": "federated_identity",
                "subject": "federated_user_id",
                "user": "user_id",
                "where": "realm_id = (SELECT r.id FROM realm r WHERE r.name = 'shop')"
                " AND identity_provider = 'google'",
            }
        ],
    }


async def test_columns_that_a_project_added_are_kept(systems: Systems) -> None:
    system = await systems("authjs")
    await system.sql("ALTER TABLE users ADD role text, ADD banned boolean NOT NULL DEFAULT false")
    await system.sql("ALTER TABLE users ADD tenant_id integer")
    await system.add(1)

    assert (await look(system.dsn)).source == {
        "preset": "authjs",
        "provider": "google",
        "status": [{"when": "banned", "is": "suspended"}],
        "tenant": "tenant_id::text",
        "roles": "role",
    }


async def test_the_rules_of_the_preset_stay_beside_those_that_are_added(systems: Systems) -> None:
    system = await systems("django-custom")
    await system.sql("ALTER TABLE accounts_user ADD deleted_at timestamptz")
    await system.add(1)

    source = (await look(system.dsn)).source

    assert source is not None
    assert source["status"] == [
        {"when": "NOT is_active", "is": "suspended"},
        {"when": "deleted_at IS NOT NULL", "is": "deleted"},
    ]


async def test_a_user_model_without_the_usual_columns_is_written_out(systems: Systems) -> None:
    system = await systems("django-custom")
    await system.add(1)
    await system.sql(
        "ALTER TABLE accounts_user DROP first_name, DROP last_name, DROP date_joined, DROP is_staff,"
        " DROP is_active, ADD name text"
    )
    await system.sql("DROP TABLE accounts_user_groups")

    assert (await look(system.dsn)).source == {
        "preset": "django",
        "provider": "oidc",
        "table": "accounts_user",
        "status": [],
        "display_name": "name",
        "created_at": None,
        "roles": None,
        "attributes": ["username", "is_superuser"],
    }


async def test_tables_of_the_prisma_adapter_are_found_under_their_names(systems: Systems) -> None:
    system = await systems("authjs")
    await system.add(1)
    await system.sql('ALTER TABLE users RENAME TO "User"')
    await system.sql('ALTER TABLE accounts RENAME TO "Account"')

    assert (await look(system.dsn)).source == {
        "preset": "authjs",
        "table": '"User"',
        "identities": [
            {
                "table": '"Account"',
                "subject": '"providerAccountId"',
                "user": '"userId"',
                "where": "provider = 'google'",
            }
        ],
    }


async def test_tables_in_another_schema_are_found(systems: Systems) -> None:
    system = await systems("aspnet-identity")
    await system.add(1)
    await system.sql("ALTER SCHEMA public RENAME TO identity")
    await system.sql("CREATE SCHEMA public")

    assert (await look(system.dsn)).source == {
        "preset": "aspnet-identity",
        "provider": "OpenIdConnect",
        "schema": "identity",
    }


async def test_of_two_systems_the_one_with_the_subjects_is_proposed(systems: Systems) -> None:
    system = await systems("supabase")
    await system.add(20)
    await execute(
        system.dsn,
        "CREATE TABLE public.users (id serial PRIMARY KEY, email text, google_sub text UNIQUE)",
        "INSERT INTO public.users (google_sub) SELECT '10' || i FROM generate_series(1, 20) i",
    )

    without, with_subjects = await look(system.dsn), await look(system.dsn, [f"10{i}" for i in range(1, 15)])

    assert without.source == {"preset": "supabase"}
    assert [each.title for each in without.others] == ["a table of your own"]
    assert with_subjects.source is not None
    assert with_subjects.source["table"] == "users"
    assert with_subjects.source["identities"] == [{"subject": "google_sub"}]
    assert [each.title for each in with_subjects.others] == ["Supabase"]


async def test_the_gateways_own_tables_need_no_source(dsn: str) -> None:
    found = await look(dsn)

    assert found.is_gateway
    assert found.source is None
    assert found.advice == ["The gateway finds these users without `users.source`: leave it out."]


@pytest.mark.parametrize("system", ["authjs"], indirect=True)
async def test_names_that_the_gateway_needs_for_itself_are_reported(system: System) -> None:
    found = await look(system.dsn)

    assert any("`postgres.schema: gateway`" in each for each in found.advice)
