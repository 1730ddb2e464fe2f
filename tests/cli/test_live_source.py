"""`gateway check --live`, and plain `gateway check`, where users are in tables of another system."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.check import live
from gateway.cli.check.result import CheckResult
from gateway.cli.main import app
from gateway.cli.terminal import output
from gateway.settings import Settings
from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.source.install import install
from tests.harness import unused_port
from tests.sql import as_role
from tests.systems.fixtures import SYSTEMS, Systems
from tests.systems.sources import BLOCKS, ISSUERS, configuration, source_of
from tests.systems.system import System


async def check(block: Mapping[str, Any], dsn: str, **sections: Any) -> dict[str, CheckResult]:  # noqa: ANN401 -- parts of a configuration
    """Return the results about a source, whose names begin with `users_source`."""
    sections = {"postgres": {"dsn": dsn, "schema": "gateway", "connect_timeout": "8s"}, **sections}
    settings = Settings.model_validate(configuration(block, **sections))
    found = await asyncio.to_thread(live.try_all, settings)
    return {each.name: each for each in found if each.name.startswith("users_source")}


def outcomes(found: Mapping[str, CheckResult]) -> dict[str, str]:
    return {name: each.outcome for name, each in found.items()}


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_a_preset_passes(system: System) -> None:
    block = BLOCKS[system.name]
    await install(system.dsn, source_of(block), ISSUERS)
    found = await check(block, system.dsn)
    assert outcomes(found) == {
        "users_source": "pass",
        # The adapter of Auth.js creates no index on the accounts' user.
        "users_source:indexes": "warn" if system.name == "authjs" else "pass",
        "users_source:changes": "pass",
        "users_source:identities": "pass",
    }
    assert "may also change" in found["users_source"].found
    assert "advice: " in (found["users_source"].fix or "")


async def test_an_index_that_is_missing_is_written_out(systems: Systems) -> None:
    system = await systems("authjs")
    found = (await check(BLOCKS["authjs"], system.dsn))["users_source:indexes"]
    assert found.found == 'look-ups read all of "public"."accounts"'
    assert 'CREATE INDEX CONCURRENTLY ON "public"."accounts" (("userId"))' in (found.fix or "")


async def test_triggers_that_are_missing_or_of_another_configuration(systems: Systems) -> None:
    system = await systems("authjs")
    before = (await check(BLOCKS["authjs"], system.dsn))["users_source:changes"]
    assert before.outcome == "fail"
    assert "gateway migrate" in (before.fix or "")
    await install(system.dsn, source_of(BLOCKS["authjs"]), ISSUERS)
    assert (await check(BLOCKS["authjs"], system.dsn))["users_source:changes"].outcome == "pass"
    changed = {**BLOCKS["authjs"], "tenant": "email"}
    assert (await check(changed, system.dsn))["users_source:changes"].outcome == "fail"


async def test_a_mistake_is_named_by_its_setting(systems: Systems) -> None:
    system = await systems("authjs")
    block = {**BLOCKS["authjs"], "tenant": "organisation", "attributes": ["plan"]}
    found = (await check(block, system.dsn))["users_source"]
    assert found.outcome == "fail"
    assert 'users.source.tenant: column "organisation" does not exist' in found.found
    assert 'users.source.attributes.plan: column "plan" does not exist' in found.found


async def test_rights_that_are_missing(systems: Systems) -> None:
    system = await systems("authjs")
    role = f"reader_{system.dsn[-8:]}"
    await system.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'")
    try:
        dsn = as_role(system.dsn, role, "geheim")
        block = {**BLOCKS["authjs"], "dsn": dsn}
        found = (await check(block, system.dsn))["users_source"]
        assert (found.outcome, found.unreachable) == ("fail", False)
        assert f'GRANT SELECT ON "public"."users", "public"."accounts" TO {role}' in (found.fix or "")
        assert "geheim" not in str(found)
        await system.sql(f"GRANT SELECT ON users, accounts TO {role}")
        found = (await check(block, system.dsn))["users_source"]
        assert (found.outcome, found.fix) == ("pass", None)
    finally:
        await system.sql(f"DROP OWNED BY {role}")
        await system.sql(f"DROP ROLE {role}")


async def test_a_source_that_is_not_there(systems: Systems) -> None:
    system = await systems("authjs")
    block = {**BLOCKS["authjs"], "dsn": f"postgresql://ann:geheim@127.0.0.1:{unused_port()}/shop"}
    found = await check(block, system.dsn)
    assert found["users_source"].unreachable
    assert "users.source.dsn" in (found["users_source"].fix or "")
    assert "geheim" not in str(found)


async def test_late_changes_and_issuers_without_identities_are_warned_of(
    systems: Systems, tmp_path: Path
) -> None:
    system = await systems("authjs")
    block = {**BLOCKS["authjs"], "changes": "none", "issuer": "main"}
    sections = {
        "cache": {"user_ttl": "20s", "local_ttl": "20s"},
        "issuers": [
            {"name": "main", "issuer": "https://idp.example.com/", "audiences": ["api"]},
            {"name": "other", "issuer": "https://other.example.com/", "audiences": ["api"]},
        ],
    }
    found = await check(block, system.dsn, **sections)
    assert found["users_source:changes"].outcome == "warn"
    assert "up to 20 s" in found["users_source:changes"].found
    assert found["users_source:identities"].outcome == "warn"
    assert "for other:" in found["users_source:identities"].found

    config = tmp_path / "gateway.yaml"
    config.write_text(json.dumps(configuration(block, **sections)))
    result = CliRunner().invoke(app, ["check", "--json", "--config", str(config)])
    assert result.exit_code == output.OK
    warnings = {each["field"]: each["message"] for each in json.loads(result.stdout)["warnings"]}
    assert "up to 20 s" in warnings["users.source.changes"]
    assert "(other) has no identities in users.source" in warnings["issuers[1]"]


async def test_subjects_in_several_places_are_reported(systems: Systems) -> None:
    system = await systems("authjs")
    block = {
        **BLOCKS["authjs"],
        "identities": [
            {"table": "accounts", "subject": '"providerAccountId"', "user": '"userId"'},
            {"subject": "email"},
        ],
    }
    found = (await check(block, system.dsn))["users_source:identities"]
    assert found.outcome == "pass"
    assert 'main: accounts."providerAccountId", users.email' in found.found


async def test_writable_changes_are_listed(systems: Systems) -> None:
    system = await systems("django")
    await migrate(system.dsn, "gateway")
    block = {**BLOCKS["django"], "writable": True}
    found = (await check(block, system.dsn))["users_source:writable"]
    assert found.outcome == "pass"
    assert "can be changed: email, status active, status suspended" in found.found
    assert "users.source.roles is a query" in found.found
    assert "identities of main: a row of social_auth_usersocialauth needs values for" in found.found
    issuer = {
        "name": "main",
        "issuer": "https://idp.example.com/",
        "audiences": ["api"],
        "provisioning": {"email": "email"},
    }
    refused = (await check(block, system.dsn, issuers=[issuer]))["users_source:writable"]
    assert refused.outcome == "fail"
    assert "main: a row of auth_user needs values for password" in refused.found


async def test_polling_by_a_column_needs_an_index(systems: Systems) -> None:
    system = await systems("supabase")
    block = {**BLOCKS["supabase"], "changes": "poll", "poll": {"column": "updated_at", "interval": "2s"}}
    found = (await check(block, system.dsn))["users_source:changes"]
    assert found.outcome == "warn"
    assert found.fix == 'CREATE INDEX CONCURRENTLY ON "auth"."users" ((updated_at))'
    await system.sql("CREATE INDEX ON auth.users (updated_at)")
    found = (await check(block, system.dsn))["users_source:changes"]
    assert found.outcome == "pass"
    assert "every 2 s" in found.found
