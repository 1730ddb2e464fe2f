"""Explanations name the tables and columns of the system that has the users."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import app
from gateway.cli.stores import operator
from gateway.explain import Explanation
from tests.explain.scene import denied, failed, outcomes
from tests.explain.source_world import OWN, SourceWorld
from tests.harness import SECOND_ISSUER, token, unused_port
from tests.sql import as_role
from tests.systems.fixtures import SUSPENDING, SYSTEMS, Systems
from tests.systems.sources import BLOCKS
from tests.systems.system import System
from tests.tokens import claims, rsa_key, sign


async def world_of(system: System, folder: Path, redis_url: str, **changes: Any) -> SourceWorld:  # noqa: ANN401 -- parts of a configuration
    return await SourceWorld.over(folder, system.dsn, redis_url, {**BLOCKS[system.name], **changes})


async def applied(world: SourceWorld, raw: bytes) -> Result:
    """Apply the fix by the command."""
    words = ["explain", "-", "--apply", "--yes", "--config", str(world.file)]
    return await asyncio.to_thread(CliRunner().invoke, app, words, input=raw)


def step(explanation: Explanation, name: str) -> str:
    """Return all that a step says."""
    (found,) = [each for each in explanation.steps if each.name == name]
    return f"{found.found} {found.detail}"


def advice(explanation: Explanation) -> str:
    assert explanation.fix is not None
    return explanation.fix.text


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
class TestPresets:
    async def test_an_active_user_is_admitted(self, system: System, tmp_path: Path, redis_url: str) -> None:
        (person,) = await system.add()
        world = await world_of(system, tmp_path, redis_url)
        bearer = token(person.subject)
        assert await world.decide(bearer) is None
        explanation = await world.explain(bearer)
        assert (explanation.decision, explanation.cause) == ("allow", None)
        assert failed(explanation) == []
        assert f"user {person.id}, active" in step(explanation, "identity.postgres")
        assert "users.source: " in step(explanation, "identity.postgres")

    async def test_an_unknown_subject_is_reported_with_the_searched_tables(
        self, system: System, tmp_path: Path, redis_url: str
    ) -> None:
        world = await world_of(system, tmp_path, redis_url)
        explanation = await denied(world, token("ghost"), "user_not_found", "user_unknown", fixed=False)
        table = {"supabase": "auth.users.id::text", "keycloak": "user_entity.id"}.get(system.name, "")
        assert f"has no user in {table}" in explanation.summary
        assert "in the system itself" in advice(explanation)


@pytest.mark.parametrize("system", SUSPENDING, indirect=True)
async def test_an_inactive_user_is_reported_with_the_rule(
    system: System, tmp_path: Path, redis_url: str
) -> None:
    (person,) = await system.add()
    await system.suspend(person)
    world = await world_of(system, tmp_path, redis_url)
    locks = system.name == "aspnet-identity"
    reason = "user_locked" if locks else "user_suspended"
    explanation = await denied(world, token(person.subject), reason, reason)
    assert "holds for the row of " in explanation.summary
    assert "users.source.status[" in step(explanation, "user")


async def test_a_status_is_mended_by_a_command_where_that_is_allowed(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("supabase")
    (person,) = await system.add()
    await system.suspend(person)
    world = await world_of(system, tmp_path, redis_url)
    read_only = await world.explain(token(person.subject))
    assert read_only.fix is not None
    assert (read_only.fix.command or "").startswith("psql ")
    assert 'UPDATE "auth"."users" SET "banned_until" = NULL' in (read_only.fix.command or "")
    assert ", until 2" in read_only.summary
    told = await applied(world, token(person.subject))
    assert told.exit_code == 1
    assert 'UPDATE "auth"."users" SET "banned_until" = NULL' in told.stdout
    assert "nothing was applied: the fix is a command for the owner" in told.stderr
    world.allow_changes()
    done = await applied(world, token(person.subject))
    assert done.exit_code == 0, done.output
    assert await world.decide(token(person.subject)) is None
    [row] = await world.sql(f"SELECT action, actor FROM {OWN}.audit ORDER BY id DESC LIMIT 1")  # noqa: S608 -- a constant
    assert (row["action"], row["actor"]) == ("user.change", f"cli:{operator()}")
    await system.suspend(person)
    explanation = await denied(world, token(person.subject), "user_suspended", "user_suspended")
    assert explanation.fix is not None
    assert (explanation.fix.command or "").startswith(f"gateway users activate {person.id}")


async def test_a_status_that_is_not_of_columns_names_its_condition(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    (person,) = await system.add()
    rules = [{"when": "length(username) > 1", "is": "pending"}]
    world = await world_of(system, tmp_path, redis_url, status=rules)
    explanation = await denied(world, token(person.subject), "user_pending", "user_pending", fixed=False)
    assert explanation.fix is not None
    assert explanation.fix.command is None
    assert "status[0].when, `length(username) > 1`, does not say which values" in explanation.fix.text


async def test_a_subject_that_is_spelt_otherwise(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    (person,) = await system.add()
    world = await world_of(system, tmp_path, redis_url)
    bearer = token(person.subject.upper())
    explanation = await denied(world, bearer, "user_not_found", "subject_case_differs")
    assert "has no user in social_auth_usersocialauth.uid" in explanation.summary
    assert explanation.fix is not None
    assert 'UPDATE "public"."social_auth_usersocialauth" SET "uid" = ' in (explanation.fix.command or "")


async def test_a_subject_that_is_the_systems_own_id_stays(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    """No statement changes the key of a system's users, and none of its users is linked to another id."""
    system = await systems("keycloak")
    (person,) = await system.add()
    world = await world_of(system, tmp_path, redis_url)
    for bearer, cause in (
        (token(person.subject.upper()), "subject_uuid_spelling"),
        (token("other", email=person.email), "account_not_linked"),
    ):
        explanation = await denied(world, bearer, "user_not_found", cause, fixed=False)
        assert "never changes, so that nothing can be linked" in advice(explanation)
        assert explanation.fix is not None
        assert explanation.fix.command is None


async def test_a_subject_that_looks_alike_is_a_question(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    (person,) = await system.add()
    await system.sql("UPDATE social_auth_usersocialauth SET uid = 'ann.lee'")
    await system.sql("UPDATE auth_user SET first_name = 'Ann Lee the First'")
    world = await world_of(system, tmp_path, redis_url)
    for bearer, cause, says in (
        (token("аnn.lee"), "subject_confusable", person.id),
        (token("urn:user:ann.lee"), "subject_prefix_differs", person.id),
        (token("other", employee="ann.lee"), "subject_in_other_claim", "its claim `employee`"),
        (token("other", name="Ann Lee the First"), "account_not_linked", "display name of user"),
    ):
        explanation = await denied(world, bearer, "user_not_found", cause, fixed=False)
        assert explanation.fix is not None
        assert says in f"{explanation.summary} {explanation.fix.text}"
        assert "same person" in explanation.fix.text
        assert "users add" not in (explanation.fix.command or "")
    await system.sql("UPDATE auth_user SET first_name = ''")


async def test_a_row_that_its_condition_keeps_out(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    (person,) = await system.add()
    world = await world_of(system, tmp_path, redis_url, provider="google")
    explanation = await denied(
        world, token(person.subject), "user_not_found", "subject_under_other_issuer", fixed=False
    )
    assert f"social_auth_usersocialauth.uid has it for user {person.id}" in explanation.summary
    assert "does not meet `provider = 'google'` (users.source.identities[0].where)" in explanation.summary


async def test_other_names_of_a_user(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    (person,) = await system.add()
    world = await world_of(system, tmp_path, redis_url)
    explanation = None
    for subject, cause in ((person.email, "subject_is_email"), (person.id, "subject_is_user_id")):
        explanation = await denied(world, token(subject), "user_not_found", cause, fixed=False)
        assert "social_auth_usersocialauth (uid, user_id), where `provider = 'oidc'`" in advice(explanation)
    assert explanation is not None
    assert "it is the id of a user in the table `auth_user`" in explanation.summary
    world.allow_changes()
    explanation = await world.explain(token(person.email))
    assert "A row of social_auth_usersocialauth needs values for " in advice(explanation)


async def test_a_link_is_a_command_where_a_row_can_be_written(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    (person,) = await system.add()
    await system.sql("CREATE TABLE logins (sub text PRIMARY KEY, person integer NOT NULL)")
    entry = {"table": "logins", "subject": "sub", "user": "person"}
    world = await world_of(system, tmp_path, redis_url, identities=[entry], writable=True)
    explanation = await denied(world, token(person.email), "user_not_found", "subject_is_email")
    assert explanation.fix is not None
    assert (explanation.fix.command or "").startswith(f"gateway users link {person.id}")


async def test_an_issuer_without_identities(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    (person,) = await system.add()
    world = await world_of(system, tmp_path, redis_url)
    foreign = sign({**claims(person.subject), "iss": SECOND_ISSUER}, rsa_key("second"))
    explanation = await denied(world, foreign, "user_not_found", "issuer_without_identities", fixed=False)
    assert "users.source.identities has no entry for issuer second" in explanation.summary


async def test_several_users_behind_one_subject(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    person, other = await system.add(2)
    await system.sql("UPDATE auth_user SET email = 'twin@example.com'")
    world = await world_of(system, tmp_path, redis_url, identities=[{"subject": "email"}])
    explanation = await denied(
        world, token("twin@example.com"), "user_store_unavailable", "subject_ambiguous", fixed=False
    )
    assert f'in auth_user.email: "{person.id}", "{other.id}"' in explanation.summary


async def test_roles_and_tenants_name_where_they_come_from(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("django")
    (person,) = await system.add()
    world = await world_of(system, tmp_path, redis_url)
    explanation = await denied(
        world, token(person.subject), "role_missing", "role_missing", url="/admin/x", fixed=False
    )
    assert "users.source.roles is a query, over auth_user_groups, auth_group" in advice(explanation).replace(
        "Users.source", "users.source"
    )
    bearer = token(person.subject, tenant_id="acme")
    explanation = await denied(world, bearer, "tenant_mismatch", "tenant_mismatch", fixed=False)
    assert "no column for it" in advice(explanation)


async def test_missing_triggers_are_a_problem_of_an_admitted_request(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("authjs")
    (person,) = await system.add()
    world = await SourceWorld.over(tmp_path, system.dsn, redis_url, BLOCKS["authjs"], triggers=False)
    explanation = await world.explain(token(person.subject))
    assert (explanation.decision, explanation.cause) == ("allow", "changes_unreported")
    await world.apply(explanation.fix)
    explanation = await world.explain(token(person.subject))
    assert (explanation.decision, explanation.cause) == ("allow", None)


async def test_a_column_that_is_gone_is_named_by_its_setting(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("authjs")
    (person,) = await system.add()
    world = await world_of(system, tmp_path, redis_url)
    await world.guard()
    await system.sql("ALTER TABLE users RENAME COLUMN email TO mail")
    explanation = await denied(
        world, token(person.subject), "user_store_unavailable", "store_not_migrated", fixed=False
    )
    assert 'users.source.email: column "email" does not exist' in advice(explanation)
    assert "identity.postgres" in failed(explanation)


async def test_rights_that_are_missing(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("authjs")
    (person,) = await system.add()
    role = f"reader_{system.dsn[-8:]}"
    await system.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'")
    try:
        dsn = as_role(system.dsn, role, "geheim")
        world = await world_of(system, tmp_path, redis_url, dsn=dsn)
        await world.guard()
        explanation = await denied(
            world, token(person.subject), "user_store_unavailable", "store_permission_denied"
        )
        assert explanation.fix is not None
        granted = f'GRANT SELECT ON "public"."users", "public"."accounts" TO {role}'
        assert granted in (explanation.fix.command or "")
        assert "geheim" not in str(explanation)
    finally:
        await system.sql(f"DROP OWNED BY {role}")
        await system.sql(f"DROP ROLE {role}")


async def test_a_source_that_is_not_there(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("authjs")
    (person,) = await system.add()
    world = await world_of(system, tmp_path, redis_url)
    await world.guard()
    port = unused_port()
    world.config["users"]["source"]["dsn"] = f"postgresql://ann:geheim@127.0.0.1:{port}/shop"
    explanation = await denied(
        world, token(person.subject), "user_store_unavailable", "store_unreachable", fixed=False
    )
    assert f"The tables of users.source cannot be used: 127.0.0.1:{port}" in explanation.summary
    assert "geheim" not in str(explanation)
    # Revocations are in the gateway's own tables, which do answer.
    assert outcomes(explanation)["identity.postgres"] == "fail"


async def test_an_account_that_was_recreated(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("django")
    (person,) = await system.add()
    world = await world_of(system, tmp_path, redis_url)
    bearer = token(person.subject, iat=int(time.time()) - 7200)
    explanation = await world.explain(bearer)
    assert (explanation.decision, explanation.cause) == ("allow", "account_recreated")
