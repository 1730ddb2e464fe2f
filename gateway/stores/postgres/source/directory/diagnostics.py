"""Queries about a source that only a diagnosis needs. They only read.

A search for other spellings of a subject reads all identities, because the system has no index for it: it has
the connections and the time limit of the directory.
"""

from dataclasses import dataclass
from typing import Final

from gateway.core.model import Identity
from gateway.core.text.spelling import spellings
from gateway.stores.postgres.directory.diagnostics import NEARBY, SPELLING, SimilarIdentity, nearby
from gateway.stores.postgres.source import relations, trial
from gateway.stores.postgres.source.definition import Identities, StatusRule
from gateway.stores.postgres.source.directory.records import place_of, spelt
from gateway.stores.postgres.source.directory.users import SourceDirectory
from gateway.stores.postgres.source.trial import Fault

_LIMIT: Final = 200
_UNREPORTED: Final = """
SELECT min(wanted.root) FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (root, name, function)
WHERE NOT EXISTS (
    SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = to_regclass(wanted.root) AND t.tgname = wanted.name AND t.tgenabled IN ('O', 'A')
        AND p.proname = wanted.function
)
"""


@dataclass(frozen=True, slots=True)
class HoldingRule:
    """The rule of the status that holds for a user."""

    number: int
    """In the order of the configuration, from 0."""
    rule: StatusRule
    until: float | None
    """Unix time of the rule's `until`."""
    holding: tuple[bool, ...]
    """Whether each of the rules holds by itself."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """A row with a subject that does not meet the condition of its entry."""

    entry: Identities
    number: int
    """Of the entry, from 0."""
    user_id: str


class SourceDiagnostics:
    """Asks the tables of a source. Every method may raise `StoreUnavailable`."""

    def __init__(self, directory: SourceDirectory) -> None:
        self._directory = directory
        self._source = directory.source
        self._issuers = directory.issuers

    async def similar_identities(self, identity: Identity) -> list[SimilarIdentity]:
        """Return identities of any issuer with equal or similar subjects, in the order of `Diagnostics`."""
        subject = identity.subject
        return await self._identities(
            f"""
            WHERE {SPELLING.format("i.subject")} = ANY (
                SELECT {SPELLING.format("guess")} FROM unnest($1::text[]) AS guess
            )
            ORDER BY i.subject = $2 DESC, i.issuer = $3 DESC, i.key LIMIT {_LIMIT}
            """,
            [subject, *(spelling for spelling, _ in spellings(subject))],
            subject,
            identity.issuer,
        )

    async def nearby_identities(self, identity: Identity) -> list[SimilarIdentity]:
        """Return identities that may be similar (`core.text.lookalikes`) to a subject."""
        return await self._identities(
            f"WHERE {NEARBY} ORDER BY i.issuer = $5 DESC, i.key LIMIT {_LIMIT}",
            *nearby(identity.subject),
            identity.issuer,
        )

    async def identities_of(self, issuer: str, subjects: list[str]) -> list[SimilarIdentity]:
        """Return up to five of an issuer's identities with one of some subjects."""
        return await self._identities(
            "WHERE i.issuer = $1 AND i.subject = ANY($2::text[]) ORDER BY i.key LIMIT 5", issuer, subjects
        )

    async def _identities(self, rest: str, *values: object) -> list[SimilarIdentity]:
        if not self._source.identities:
            return []
        found = relations.all_identities(self._source, self._issuers)
        async with self._directory.database.connection() as connection:
            rows = await connection.fetch(
                f"SELECT i.issuer, i.subject, i.key::text AS user_id FROM ({found}) AS i {rest}",
                *values,
            )
            return [SimilarIdentity(Identity(row["issuer"], row["subject"]), row["user_id"]) for row in rows]

    async def users_called(self, names: list[str], phones: list[str]) -> list[tuple[str, str]]:  # noqa: ARG002 -- as `Diagnostics`: a source has no column that is known for telephone numbers
        """Return up to three users with a name: the id, and the name."""
        if self._source.display_name is None:
            return []
        async with self._directory.database.connection() as connection:
            rows = await connection.fetch(
                f"SELECT u.id, u.display_name FROM ({relations.users(self._source)}) AS u"
                " WHERE u.display_name = ANY($1::text[]) AND u.status <> 'deleted' LIMIT 3",
                names,
            )
            return [(row["id"], row["display_name"]) for row in rows]

    async def excluded(self, identity: Identity) -> list[Excluded]:
        """Return rows with a subject that the `where` of the issuer's entries keeps out."""
        name, _ = place_of(self._issuers, identity)
        found: list[Excluded] = []
        async with self._directory.database.connection() as connection:
            for number, each in enumerate(self._source.identities):
                if name not in each.issuer or each.where is None:
                    continue
                table = each.table or self._source.table
                keys = await connection.fetch(
                    f"SELECT ({each.user or self._source.id})::text AS key"
                    f" FROM {relations.table_of(self._source, table)} AS {relations.alias_of(table)}"
                    f" WHERE ({each.subject})::text = $1::text AND ({each.where}) IS NOT TRUE LIMIT 3",
                    identity.subject,
                )
                found += [Excluded(each, number, row["key"]) for row in keys if row["key"] is not None]
        return found

    async def rule_of(self, user_id: str) -> HoldingRule | None:
        """Return the rule that gives a user its status; None: none holds, and the user is active."""
        source = self._source
        if not source.status:
            return None
        columns = [
            column
            for number, rule in enumerate(source.status)
            for column in (
                f"coalesce(({rule.when})::boolean, false) AS holds{number}",
                f"extract(epoch FROM ({rule.until or 'NULL'})::timestamptz)::float8 AS until{number}",
            )
        ]
        async with self._directory.database.connection() as connection:
            types = (await self._directory.database.statements(connection)).types
            row = await connection.fetchrow(
                f"SELECT {', '.join(columns)} FROM {relations.table_of(source, source.table)}"
                f" AS {relations.alias_of(source.table)}"
                f" WHERE {relations.is_key(types.key, f'({source.id})', '$1::text')}",
                spelt(types.key, user_id),
            )
        if row is None:
            return None
        holding = tuple(bool(row[f"holds{number}"]) for number in range(len(source.status)))
        if not any(holding):
            return None
        number = holding.index(True)
        return HoldingRule(number, source.status[number], row[f"until{number}"], holding)

    async def unreported(self) -> str | None:
        """Return a table, quoted, whose triggers are missing, disabled or of another configuration."""
        watched = await self._directory.database.watched()
        if not watched.tables:
            return None
        async with self._directory.database.connection() as connection:
            table: str | None = await connection.fetchval(
                _UNREPORTED, list(watched.tables), list(watched.names), list(watched.functions)
            )
            return table

    async def faults(self) -> list[Fault]:
        """Return what is wrong with the tables, the rights and the expressions, by setting."""
        async with self._directory.database.connection() as connection:
            return await trial.faults(connection, self._source)

    async def database_name(self) -> str:
        """Return the name of the database."""
        async with self._directory.database.connection() as connection:
            return str(await connection.fetchval("SELECT current_database()"))
