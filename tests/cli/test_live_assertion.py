"""`gateway check --live` of signed identity."""

from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from gateway.assertion.key_file import KeyFile
from gateway.cli.check import assertion
from gateway.cli.check.result import CheckResult
from gateway.core.assertion import new_pem
from gateway.settings import Settings
from gateway.stores.postgres.assertion_keys import FUNCTIONS

LATER: Final = "no key yet; the first gateway that starts makes one"


async def result(dsn: str, **rules: str) -> CheckResult:
    settings = Settings.model_validate(
        {
            "issuers": [{"name": "main", "issuer": "https://idp.example.com/", "audiences": ["api"]}],
            "postgres": {"dsn": dsn},
            "redis": {"url": "redis://127.0.0.1:1"},
            "assertion": rules,
            "upstreams": {"a": {"urls": ["http://127.0.0.1:9"]}},
            "routes": [{"name": "all", "match": {"path": "/**"}, "upstream": "a"}],
        }
    )
    (check,) = assertion.checks(settings)
    return await check.run()


async def test_keys_in_postgres(dsn: str) -> None:
    found = await result(dsn)
    assert (found.outcome, found.found.partition(": ")[2]) == ("pass", LATER)
    connection = await asyncpg.connect(dsn)
    role = f"live_{uuid4().hex}"
    try:
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
        host = dsn.partition("@")[2]
        own = f"postgresql://{role}:pw@{host}"
        refused = await result(own)
        assert refused.outcome == "fail"
        assert refused.fix is not None
        grant = refused.fix.partition(": ")[2]
        named = ", ".join(f'"public".{function}' for function in FUNCTIONS)
        assert grant == f'GRANT EXECUTE ON FUNCTION {named} TO "{role}"'
        await connection.execute(grant)
        assert (await result(own)).outcome == "pass"
        await connection.execute("DROP FUNCTION gateway_read_assertion_keys()")
        assert (await result(dsn)).fix == "run `gateway migrate`"
    finally:
        await connection.execute(f"DROP OWNED BY {role}")
        await connection.execute(f"DROP ROLE {role}")
        await connection.close()


async def test_keys_in_a_file(tmp_path: Path) -> None:
    path, nowhere = tmp_path / "keys.json", "postgresql://a@127.0.0.1:1/a"
    assert (await result(nowhere, key_file=str(path))).found == f"{path}: {LATER}"
    await KeyFile(path).add(new_pem("ES256"), "ES256", 60.0, rotate=False)
    assert "1 of them" in (await result(nowhere, key_file=str(path))).found
    path.write_text("{")
    assert (await result(nowhere, key_file=str(path))).outcome == "fail"


async def test_postgres_that_does_not_answer() -> None:
    found = await result("postgresql://a@127.0.0.1:1/a")
    assert (found.outcome, found.unreachable) == ("fail", True)


@pytest.mark.parametrize("rules", [None])
def test_there_is_no_check_without_the_setting(rules: None) -> None:
    settings = Settings.model_construct(assertion=rules)
    assert list(assertion.checks(settings)) == []
