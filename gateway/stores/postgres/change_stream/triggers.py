"""Whether each watched table has its triggers, and had them all the time.

A statement fires the triggers of the table that it names, so each partition and each inheriting table
needs its own. Triggers that were disabled and enabled again in one transaction, and partitions that were
attached or detached, send no notification. The mark of all triggers changes instead.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

BEAT: Final = """
WITH RECURSIVE watched (root, place) AS (
    SELECT c.relname::text, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $3 AND c.relname IN ('users', 'identities', 'revocations')
    UNION
    SELECT root, to_regclass(root)::oid FROM unnest($4::text[]) AS root WHERE to_regclass(root) IS NOT NULL
    UNION
    SELECT root, inhrelid FROM watched JOIN pg_inherits ON inhparent = place
), wanted (root, name, function) AS (
    SELECT root, 'gateway_changes_' || kind, NULL
    FROM unnest(ARRAY['users', 'identities', 'revocations']) AS root,
        unnest(ARRAY['insert', 'update', 'delete', 'truncate']) AS kind
    WHERE $3 <> '' AND (root, kind) <> ('users', 'insert')
    UNION ALL
    SELECT * FROM unnest($4::text[], $5::text[], $6::text[])
), found AS (
    SELECT coalesce(place::regclass::text, wanted.root) AS place, function,
        t.oid AS number, t.xmin AS written
    FROM wanted LEFT JOIN watched USING (root)
    LEFT JOIN (pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid)
        ON t.tgrelid = place AND t.tgname = name AND t.tgenabled IN ('O', 'A')
        AND (function IS NULL OR p.proname = function)
)
SELECT min(place) FILTER (WHERE number IS NULL AND function IS NULL) AS unwatched,
    min(place) FILTER (WHERE number IS NULL AND function IS NOT NULL) AS unwatched_in_source,
    hashtextextended(string_agg(number::text || ' ' || written::text, ',' ORDER BY number), 0) AS mark,
    CASE WHEN count(*) = count(number) THEN pg_notify($1, $2) END AS sent
FROM found
"""
"""Sends a heartbeat, $2 on channel $1, unless a table lacks a trigger.

The tables are those of schema $3, or none where that is empty, and those of a source: $4 has the tables, $5
the names of their triggers, $6 the functions that they must call. `mark` is another number after the triggers
were changed in any way.
"""


@dataclass(frozen=True, slots=True)
class Watched:
    """The triggers without which changes go unheard."""

    schema: str = ""
    """The schema of the gateway's own tables; empty: they are not there."""
    tables: tuple[str, ...] = ()
    """Tables of a source, quoted."""
    names: tuple[str, ...] = ()
    """The name of a trigger for each of `tables`."""
    functions: tuple[str, ...] = ()
    """The name of its function."""
    feed_patience: float = 0.0
    """Seconds within which a gateway must have read the changes of a source that reports none itself, and
    have passed them on (`gateway.stores.postgres.source.feed`); 0: the source's triggers report them here."""


Watch: TypeAlias = Callable[[], Awaitable[Watched]]
"""Returns what must be there. May raise `StoreUnavailable`."""

FEED_AGE: Final = """
SELECT extract(epoch FROM clock_timestamp() - reported_at)::float8 FROM gateway_source_feed
"""
"""Seconds since a gateway has last read the changes of a source. None: no gateway ever has."""


def unfed(patience: float) -> str:
    """Return what is wrong when no gateway passes on the changes of a source, and what to do."""
    return (
        f"users.source: no gateway has read its changes within {patience:g} s: see the dependency"
        " `users_source` in /readyz"
    )


def unwatched(table: str) -> str:
    """Return what is wrong with a table, and what to do."""
    return (
        f"triggers that report changes are missing or disabled on {table}: run `gateway migrate`, or enable"
        " them; for partitions and inheriting tables, run SELECT gateway_watch_tables()"
    )


def unwatched_in_source(table: str) -> str:
    """Return what is wrong with a table of a source, and what to do."""
    return (
        f"users.source: triggers that report changes are missing, disabled or of another configuration on"
        f" {table}: run `gateway migrate` with this configuration, or enable them"
    )
