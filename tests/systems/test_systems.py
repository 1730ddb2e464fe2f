"""The systems of the tests do what they say."""

import pytest

from tests.systems.fixtures import SYSTEMS, Systems
from tests.systems.system import System

_USERS = {
    "django": ("auth_user", "is_active"),
    "django-allauth": ("auth_user", "is_active"),
    "django-custom": ("accounts_user", "is_active"),
    "supabase": ("auth.users", "banned_until IS NULL"),
    "keycloak": ("user_entity", "enabled"),
    "authjs": ("users", "true"),
    "aspnet-identity": ('"AspNetUsers"', '"LockoutEnd" IS NULL'),
}
_IDENTITIES = {
    "django": ("social_auth_usersocialauth", "uid", "user_id"),
    "django-allauth": ("socialaccount_socialaccount", "uid", "user_id"),
    "django-custom": ("social_auth_usersocialauth", "uid", "user_id"),
    "supabase": ("auth.users", "id", "id"),
    "keycloak": ("user_entity", "id", "id"),
    "authjs": ("accounts", '"providerAccountId"', '"userId"'),
    "aspnet-identity": ('"AspNetUserLogins"', '"ProviderKey"', '"UserId"'),
}


async def active(system: System) -> int:
    table, condition = _USERS[system.name]
    ((count,),) = await system.sql(f"SELECT count(*) FROM {table} WHERE {condition}")  # noqa: S608 -- ours
    return int(count)


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_users_are_added_suspended_and_deleted(system: System) -> None:
    first, second, third = await system.add(3)
    (fourth,) = await system.add()
    assert len({each.subject for each in (first, second, third, fourth)}) == 4
    assert await active(system) == 4

    if system.suspends:
        await system.suspend(first)
        assert await active(system) == 3
        await system.reinstate(first)
        assert await active(system) == 4
    if system.has_roles:
        await system.grant(first, "admin")
        await system.grant(second, "admin")
        await system.withdraw(second, "admin")
    await system.delete(second)
    assert await active(system) == 3


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_a_subject_leads_to_its_user(system: System) -> None:
    person = (await system.add(5))[3]
    table, subject, user = _IDENTITIES[system.name]

    rows = await system.sql(
        f"SELECT {user}::text AS id FROM {table} WHERE {subject}::text = $1",  # noqa: S608 -- ours
        person.subject,
    )

    assert [row["id"] for row in rows] == [person.id]


async def test_two_systems_of_one_kind_share_nothing(systems: Systems) -> None:
    one, other = await systems("authjs"), await systems("authjs")

    await one.add(2)

    assert await active(other) == 0
