"""Why the tables of users cannot be read: the finding, and the fix."""

from typing import Final

from gateway.core.model import StoreUnavailable
from gateway.explain.answer import Cause, Fix
from gateway.explain.evidence.stores import Evidence
from gateway.explain.steps.stores import outage
from gateway.explain.trail import Trail
from gateway.explain.wording import yaml_line
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.diagnostics import Diagnostics, failure_kind
from gateway.stores.postgres.requirements import Shortcoming

_TROUBLES: Final = {
    "not_migrated": (
        Cause.STORE_NOT_MIGRATED,
        "The tables, or this user's row, are not as `gateway migrate` creates them.",
    ),
    "permission_denied": (
        Cause.STORE_PERMISSION_DENIED,
        "As the owner of the tables, allow the gateway's role to read them.",
    ),
}
_OF_TABLES: Final = {
    "column": Cause.STORE_COLUMN_DIFFERS,
    "type": Cause.STORE_COLUMN_DIFFERS,
    "rows": Cause.STORE_ROW_SECURITY,
}


async def blame(trail: Trail, evidence: Evidence, postgres: Postgres, error: StoreUnavailable) -> None:
    """Record why Postgres cannot be used, and the fix."""
    refusal = evidence.refusal
    summary = f"Postgres cannot be used: {error.detail}"
    trouble = failure_kind(error)
    if trouble == "unreachable":
        unreachable, fix = outage.of_postgres(error, trail.setup.postgres)
        trail.blame(refusal, unreachable, summary, fix)
        return
    found, database = await _catalogs(postgres)
    if found:
        # Without USAGE on the schema, the role sees its tables as missing.
        trouble = found[0].trouble
    cause, advice = _TROUBLES[trouble]
    if found and (elsewhere := await _filled_elsewhere(postgres, found[0])):
        place = f"schema {', '.join(elsewhere)} has the tables, with identities"
        config = yaml_line("postgres.schema", elsewhere[0]) if len(elsewhere) == 1 else None
        fix = Fix(f"{_sentence(found[0].found)}; {place}. Correct `postgres.schema`.", config=config)
        trail.blame(refusal, Cause.STORE_SCHEMA_DIFFERS, f"{summary}; {found[0].found}, but {place}", fix)
        return
    cause = cause if not found else _OF_TABLES.get(found[0].about, cause)
    trail.blame(refusal, cause, summary, _fix_of_tables(trail, found, database, advice))


async def _filled_elsewhere(postgres: Postgres, found: Shortcoming) -> list[str]:
    """Return the other schemas whose tables have identities: one of them is meant."""
    try:
        return [each for each in found.elsewhere if await Diagnostics(postgres).has_identities(each)]
    except StoreUnavailable:
        return []


async def _catalogs(postgres: Postgres) -> tuple[list[Shortcoming], str]:
    """Return the catalogs' findings about the tables, and the database's name; none without an answer."""
    try:
        return await postgres.shortcomings(), (await Diagnostics(postgres).login()).database
    except StoreUnavailable:
        return [], ""


def _fix_of_tables(trail: Trail, found: list[Shortcoming], database: str, advice: str) -> Fix:
    if not found:
        return Fix(advice)
    text = ". ".join(f"{_sentence(each.found)}: {each.fix}" for each in found)
    grants = [each.sql for each in found if each.sql is not None]
    if len(grants) == len(found):
        return Fix(f"{advice} {text}", command=trail.commands.owner_sql(database, "; ".join(grants)))
    migrates = all(each.migrate for each in found)
    return Fix(text, command=trail.commands.gateway("migrate") if migrates else None)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
