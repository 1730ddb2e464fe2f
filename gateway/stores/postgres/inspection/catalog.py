"""The tables, columns and keys of any database, as its catalogs have them (PostgreSQL manual, chapter 52).

Any role may read the catalogs, even those of tables whose rows it may not read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import asyncpg

MAX_RELATIONS: Final = 3_000
"""Tables and views that are read; a database with more is read in part."""

Kind: TypeAlias = Literal["table", "partitioned table", "view", "materialized view", "foreign table"]

_KINDS: Final[Mapping[str, Kind]] = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}

SERVER: Final = """
SELECT current_database()::text AS database, current_user::text AS role,
    current_setting('server_version') AS version, pg_is_in_recovery() AS replica
"""

# Partitions are left out: their parent has all of their rows. The rows of a parent are those of its leaves.
RELATIONS: Final = """
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
    quote_ident(n.nspname) AS schema_sql, quote_ident(c.relname) AS name_sql,
    has_schema_privilege(n.oid, 'USAGE') AS schema_usable,
    CASE WHEN c.relkind = 'p' THEN (
        SELECT sum(greatest(leaf.reltuples, 0)) FROM pg_partition_tree(c.oid) t
        JOIN pg_class leaf ON leaf.oid = t.relid WHERE t.isleaf
    ) ELSE nullif(c.reltuples, -1) END::bigint AS estimate
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY n.nspname = 'public' DESC, n.nspname, c.relname LIMIT $1
"""

# Of a domain, its base type counts.
COLUMNS: Final = """
SELECT a.attrelid::bigint AS relation, a.attname::text AS name, quote_ident(a.attname) AS name_sql,
    a.attnum::int AS place, a.attnotnull AS required, base.typname::text AS type,
    base.typcategory::text AS category, item.typcategory::text AS item_category,
    has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS readable,
    CASE WHEN base.typtype = 'e' THEN ARRAY(
        SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = base.oid ORDER BY e.enumsortorder
    ) END AS labels
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type base ON base.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
LEFT JOIN pg_type item ON item.oid = base.typelem AND base.typcategory = 'A'
WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

# Unique and primary keys are indexes, too: those of a condition or an expression say nothing of a column.
INDEXES: Final = """
SELECT i.indrelid::bigint AS relation, i.indisunique AS is_unique, i.indisprimary AS is_primary,
    (i.indkey::int2[])[0:i.indnkeyatts - 1]::int[] AS places
FROM pg_index i
WHERE i.indrelid = ANY ($1::oid[]) AND i.indisvalid AND i.indpred IS NULL
"""

FOREIGN_KEYS: Final = """
SELECT c.conrelid::bigint AS relation, c.conkey::int[] AS places, c.confrelid::bigint AS target,
    c.confkey::int[] AS target_places
FROM pg_constraint c WHERE c.contype = 'f' AND c.conparentid = 0 AND c.conrelid = ANY ($1::oid[])
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table or view."""

    name: str
    sql: str
    """The name as SQL has it: in double quotes where it needs them."""
    type: str
    """The name of the type (`pg_type.typname`), such as `varchar`, `int8`; of a domain, that of its base."""
    category: str
    """`pg_type.typcategory`: `S` text, `N` number, `B` boolean, `D` date or time, `A` array, `E` enum."""
    item_category: str | None = None
    """The category of an array's items."""
    required: bool = False
    """Whether it is NOT NULL."""
    readable: bool = True
    labels: tuple[str, ...] = ()
    """The values of an enum."""
    indexed: bool = False
    """Whether an index begins with it."""
    unique: bool = False
    """Whether it is unique by itself."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A reference by one column to one column."""

    column: str
    target: int
    """The oid of the table that it refers to."""
    target_column: str


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view."""

    oid: int
    schema: str
    name: str
    schema_sql: str
    name_sql: str
    kind: Kind
    estimate: int | None
    """The number of rows as the planner knows it; None: unknown, for views always."""
    columns: Mapping[str, Column]
    primary_key: tuple[str, ...] = ()
    unique_keys: tuple[tuple[str, ...], ...] = ()
    """The primary key among them."""
    foreign_keys: tuple[ForeignKey, ...] = ()
    schema_usable: bool = True
    """Whether the role may use the schema. Without that, no right on the table counts."""

    @property
    def sql(self) -> str:
        """The name with its schema, as SQL has it."""
        return f"{self.schema_sql}.{self.name_sql}"

    @property
    def usable(self) -> bool:
        """Whether the role may read a column of it, at least."""
        return self.schema_usable and any(column.readable for column in self.columns.values())

    @property
    def shown(self) -> str:
        """The name as SQL has it, without the schema `public`."""
        return self.name_sql if self.schema == "public" else self.sql

    def has(self, *names: str) -> bool:
        """Return whether it has all of these columns."""
        return all(name in self.columns for name in names)


@dataclass(frozen=True, slots=True)
class Server:
    """The database that was looked at, and as whom."""

    database: str
    role: str
    version: str
    replica: bool
    """Whether it is a standby, where no trigger can be installed."""


def relations_from(
    relations: Sequence[asyncpg.Record],
    columns: Sequence[asyncpg.Record],
    indexes: Sequence[asyncpg.Record],
    foreign_keys: Sequence[asyncpg.Record],
) -> tuple[Relation, ...]:
    """Put together what the four queries returned."""
    names: dict[int, dict[int, str]] = {}
    for row in columns:
        names.setdefault(row["relation"], {})[row["place"]] = row["name"]
    primary, unique, leading = _keys(indexes, names)
    single = {(oid, key[0]) for oid, keys in unique.items() for key in keys if len(key) == 1}
    described: dict[int, dict[str, Column]] = {}
    for row in columns:
        oid, name = row["relation"], row["name"]
        described.setdefault(oid, {})[name] = Column(
            name,
            row["name_sql"],
            row["type"],
            row["category"],
            row["item_category"],
            row["required"],
            row["readable"],
            tuple(row["labels"] or ()),
            indexed=(oid, name) in leading,
            unique=(oid, name) in single,
        )
    references: dict[int, list[ForeignKey]] = {}
    for row in foreign_keys:
        oid, target = row["relation"], row["target"]
        if len(row["places"]) == 1 and target in names:
            column, referred = names[oid][row["places"][0]], names[target][row["target_places"][0]]
            references.setdefault(oid, []).append(ForeignKey(column, target, referred))
    return tuple(
        Relation(
            row["oid"],
            row["schema"],
            row["name"],
            row["schema_sql"],
            row["name_sql"],
            _KINDS[row["kind"]],
            row["estimate"] if row["kind"] in "rpm" else None,
            described.get(row["oid"], {}),
            primary.get(row["oid"], ()),
            tuple(unique.get(row["oid"], ())),
            tuple(references.get(row["oid"], ())),
            schema_usable=row["schema_usable"],
        )
        for row in relations
    )


def _keys(
    indexes: Sequence[asyncpg.Record], names: Mapping[int, Mapping[int, str]]
) -> tuple[dict[int, tuple[str, ...]], dict[int, list[tuple[str, ...]]], set[tuple[int, str]]]:
    """Return the primary keys, all unique keys, and the columns that an index begins with."""
    primary: dict[int, tuple[str, ...]] = {}
    unique: dict[int, list[tuple[str, ...]]] = {}
    leading: set[tuple[int, str]] = set()
    for row in indexes:
        # The place of an expression is 0.
        key = tuple(names.get(row["relation"], {}).get(place, "") for place in row["places"])
        if not key or not key[0]:
            continue
        leading.add((row["relation"], key[0]))
        if row["is_unique"] and all(key):
            unique.setdefault(row["relation"], []).append(key)
        if row["is_primary"]:
            primary[row["relation"]] = key
    return primary, unique, leading
