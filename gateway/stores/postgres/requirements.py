"""The gateway's requirements for the tables, and those that are not met: for readiness and diagnosis.

Postgres reports why one statement failed, but not always the cause: without USAGE on a schema, its tables
look missing. The catalogs have the cause. Requests never query them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import asyncpg

from gateway.stores.postgres.errors import quoted

if TYPE_CHECKING:
    from gateway.stores.postgres.pool import Connection

_TEXT: Final = "text"
_TEXTS: Final = "text[]"
_UUID: Final = "uuid"
_JSON: Final = "jsonb"
_INSTANT: Final = "timestamp with time zone"

_Columns: TypeAlias = dict[str, str]

NEEDED: Final[dict[str, _Columns]] = {
    "users": {
        "id": _UUID, "status": _TEXT, "tenant": _TEXT, "email": _TEXT, "display_name": _TEXT, "roles": _TEXTS,
        "attributes": _JSON, "tokens_valid_after": _INSTANT,
    },
    "identities": {"issuer": _TEXT, "subject": _TEXT, "user_id": _UUID},
    "revocations": {
        "kind": _TEXT, "issuer": _TEXT, "value": _TEXT, "revoked_at": _INSTANT, "expires_at": _INSTANT,
    },
}  # fmt: skip
"""The columns that requests read, and the types that the migrations give them."""

_FUNCTION: Final = "gateway_learnt_revocations(text[], text[], text[])"
"""The function with which requests read the revocations that gateways have learnt from Redis."""

_SCHEMA: Final = """
SELECT (SELECT p.oid FROM pg_proc p WHERE p.proname = 'gateway_learnt_revocations' AND p.pronamespace = n.oid)
        AS function,
    coalesce((
        SELECT has_function_privilege(p.oid, 'EXECUTE') FROM pg_proc p
        WHERE p.proname = 'gateway_learnt_revocations' AND p.pronamespace = n.oid
    ), false) AS function_usable,
    current_user::text AS role, current_database()::text AS database,
    current_setting('search_path') AS path,
    n.oid IS NOT NULL AS found, coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS usable,
    coalesce(n.nspname = ANY (current_schemas(false)), false) AS searched,
    EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'gateway_migrations')
        AS migrated,
    ARRAY(
        SELECT o.nspname::text FROM pg_class c JOIN pg_namespace o ON o.oid = c.relnamespace
        WHERE c.relname = 'identities' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND o.nspname <> $1
            AND EXISTS (SELECT FROM pg_class u WHERE u.relnamespace = o.oid AND u.relname = 'users')
    ) AS others
FROM (VALUES (true)) AS always LEFT JOIN pg_namespace n ON n.nspname = $1
"""

# For a domain, its base type counts. A type's category says how it behaves (pg_type.typcategory).
_COLUMNS: Final = """
SELECT wanted.relation, wanted.name, c.oid IS NOT NULL AS relation_found, a.attnum IS NOT NULL AS found,
    coalesce(has_column_privilege(c.oid, a.attnum, 'SELECT'), false) AS readable,
    coalesce(row_security_active(c.oid), false) AS filtered,
    format_type(a.atttypid, a.atttypmod) AS type, format_type(base.oid, NULL) AS base,
    base.typcategory::text AS category, item.typcategory::text AS item_category
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS wanted (relation, name, place)
LEFT JOIN pg_class c ON c.relname = wanted.relation AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = wanted.name AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type base ON base.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
LEFT JOIN pg_type item ON item.oid = base.typelem AND base.typcategory = 'A'
ORDER BY wanted.place
"""

FailureKind: TypeAlias = Literal["not_migrated", "permission_denied"]
About: TypeAlias = Literal["schema", "search_path", "table", "column", "type", "rows", "rights", "function"]


@dataclass(frozen=True, slots=True)
class Shortcoming:
    """A requirement that is not met."""

    trouble: FailureKind
    found: str
    fix: str
    sql: str | None = None
    """The command with which the owner of the tables can fix it; None if that takes more."""
    migrate: bool = False
    """Whether `gateway migrate` fixes it."""
    breaks: bool = True
    """Whether requests cannot be served because of it."""
    about: About = "table"
    """What the requirement is of."""
    elsewhere: tuple[str, ...] = ()
    """Other schemas that have tables of these names."""


async def shortcomings(connection: "Connection", schema: str) -> list[Shortcoming]:
    """Return the requirements that are not met, the most fundamental first.

    Queries the catalogs, which any role may read. Raises the driver's exceptions.
    """
    place = await connection.fetchrow(_SCHEMA, schema)
    if place is None:
        raise ValueError("a query that always has one row had none")
    if found := _of_the_schema(place, schema):
        return [found]
    wanted = [(relation, name) for relation, columns in NEEDED.items() for name in columns]
    relations, names = map(list, zip(*wanted, strict=True))
    rows = await connection.fetch(_COLUMNS, schema, relations, names)
    unlike = [
        shortcoming
        for relation in NEEDED
        for shortcoming in _of_a_table(
            [row for row in rows if row["relation"] == relation], relation, schema, place
        )
    ]
    unreadable = _of_rights([row for row in rows if row["found"] and not row["readable"]], schema, place)
    function = _of_the_function(schema, place)
    return [*unlike, *(each for each in (unreadable, function) if each is not None)]


def _of_the_schema(place: asyncpg.Record, schema: str) -> Shortcoming | None:
    role, others = place["role"], ", ".join(place["others"])
    if not place["found"]:
        elsewhere = f"set `postgres.schema` to {others}, where tables of these names are"
        return Shortcoming(
            "not_migrated",
            f"database {place['database']} has no schema {schema}",
            f"run `gateway migrate`, or {elsewhere if others else 'correct the database in `postgres.dsn`'}",
            migrate=True,
            about="schema",
            elsewhere=tuple(place["others"]),
        )
    if not place["usable"]:
        grant = f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {quoted(role)}"
        return Shortcoming(
            "permission_denied",
            f"role {role} may not use schema {schema}",
            f"as its owner: {grant}",
            grant,
            about="rights",
        )
    if not place["searched"]:
        alter = f"ALTER ROLE {quoted(role)} SET search_path = {quoted(schema)}"
        return Shortcoming(
            "not_migrated",
            f"the search_path of the connection is {place['path']}, without schema {schema}: a pooler has"
            " ignored the gateway's setting",
            f"set it for the role: {alter}",
            about="search_path",
        )
    return None


def _of_a_table(
    rows: list[asyncpg.Record], table: str, schema: str, place: asyncpg.Record
) -> Iterator[Shortcoming]:
    if not rows[0]["relation_found"]:
        yield _missing_table(table, schema, place)
        return
    name = f"{quoted(schema)}.{quoted(table)}"
    for row in rows:
        if not row["found"]:
            yield Shortcoming(
                "not_migrated",
                f"{table} has no column {row['name']}",
                f"add it, or rename it back; its type is {NEEDED[table][row['name']]}",
                about="column",
            )
        elif not _fits(row):
            wanted = NEEDED[table][row["name"]]
            yield Shortcoming(
                "not_migrated",
                f"{table}.{row['name']} is {row['type']}, but must be {wanted}",
                f"ALTER TABLE {name} ALTER COLUMN {row['name']} TYPE {wanted}, with a suitable USING",
                # Ids of another type are compared correctly if both have it; a time without its zone
                # is read, but may be wrong by hours.
                breaks=wanted not in {_UUID, _INSTANT},
                about="type",
            )
    if rows[0]["filtered"]:
        yield Shortcoming(
            "permission_denied",
            f"row-level security hides rows of {table} from role {place['role']}",
            f"as a superuser: ALTER ROLE {quoted(place['role'])} BYPASSRLS",
            about="rows",
        )


def _of_rights(unreadable: list[asyncpg.Record], schema: str, place: asyncpg.Record) -> Shortcoming | None:
    """Return the tables or columns that the role may not read, and one GRANT for all of them."""
    if not unreadable:
        return None
    columns: dict[str, list[str]] = {}
    for row in unreadable:
        columns.setdefault(row["relation"], []).append(row["name"])
    tables = ", ".join(f"{quoted(schema)}.{quoted(table)}" for table in columns)
    named = (
        table if len(names) == len(NEEDED[table]) else f"{table} (columns {', '.join(names)})"
        for table, names in columns.items()
    )
    grant = f"GRANT SELECT ON {tables} TO {quoted(place['role'])}"
    return Shortcoming(
        "permission_denied",
        f"role {place['role']} lacks SELECT on {', '.join(named)}",
        f"as the owner of the tables: {grant}",
        grant,
        about="rights",
    )


def _of_the_function(schema: str, place: asyncpg.Record) -> Shortcoming | None:
    if place["function"] is None:
        return Shortcoming(
            "not_migrated",
            f"schema {schema} has no function {_FUNCTION}",
            "run `gateway migrate`: the tables are of an older version",
            migrate=True,
            about="function",
        )
    if not place["function_usable"]:
        grant = f"GRANT EXECUTE ON FUNCTION {quoted(schema)}.{_FUNCTION} TO {quoted(place['role'])}"
        return Shortcoming(
            "permission_denied",
            f"role {place['role']} may not call {_FUNCTION}",
            f"as the owner of the tables: {grant}",
            grant,
            about="function",
        )
    return None


def _missing_table(table: str, schema: str, place: asyncpg.Record) -> Shortcoming:
    others = ", ".join(place["others"])
    if place["migrated"]:
        # `gateway_migrations` has a record of its creation, so `gateway migrate` does not create it again.
        fix = (
            "it was dropped or renamed: restore it from a backup; `gateway migrate` does not create it again"
        )
    elif others:
        fix = f"run `gateway migrate`, or set `postgres.schema` to {others}, where tables of these names are"
    else:
        fix = "run `gateway migrate`"
    return Shortcoming(
        "not_migrated",
        f"schema {schema} has no table {table}",
        fix,
        migrate=not place["migrated"],
        elsewhere=tuple(place["others"]),
    )


def _fits(row: asyncpg.Record) -> bool:
    """Return whether a column can be read and compared like the required type."""
    wanted = NEEDED[row["relation"]][row["name"]]
    base, category, item = str(row["base"]), str(row["category"]), str(row["item_category"])
    if wanted == _TEXT:
        return category == "S" or (category == "E" and row["relation"] == "users")
    if wanted == _TEXTS:
        return item in {"S", "E"}
    if wanted == _JSON:
        return base in {"json", "jsonb"} or category == "S"
    return base == wanted
