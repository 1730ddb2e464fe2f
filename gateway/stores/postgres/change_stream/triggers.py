"""Whether each watched table has its triggers, and had them all the time.

A statement fires the triggers of the table that it names, so each partition and each inheriting table
needs its own. Triggers that were disabled and enabled again in one transaction, and partitions that were
attached or detached, send no notification. The mark of all triggers changes instead.
"""

from typing import Final

BEAT: Final = """
WITH RECURSIVE watched (root, place) AS (
    SELECT c.relname::text, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $3 AND c.relname IN ('users', 'identities', 'revocations')
    UNION
    SELECT root, inhrelid FROM watched JOIN pg_inherits ON inhparent = place
), wanted (root, name) AS (
    SELECT root, 'gateway_changes_' || kind
    FROM unnest(ARRAY['users', 'identities', 'revocations']) AS root,
        unnest(ARRAY['insert', 'update', 'delete', 'truncate']) AS kind
    WHERE (root, kind) <> ('users', 'insert')
), found AS (
    SELECT coalesce(place::regclass::text, wanted.root) AS place, t.oid AS number, t.xmin AS written
    FROM wanted LEFT JOIN watched USING (root)
    LEFT JOIN pg_trigger t ON t.tgrelid = place AND t.tgname = name AND t.tgenabled IN ('O', 'A')
)
SELECT min(place) FILTER (WHERE number IS NULL) AS unwatched,
    hashtextextended(string_agg(number::text || ' ' || written::text, ',' ORDER BY number), 0) AS mark,
    CASE WHEN count(*) = count(number) THEN pg_notify($1, $2) END AS sent
FROM found
"""
"""Sends a heartbeat, $2 on channel $1, unless a table of schema $3 lacks a trigger: `unwatched`.

`mark` is another number after the triggers were changed in any way.
"""


def unwatched(table: str) -> str:
    """Return what is wrong with a table, and what to do."""
    return (
        f"triggers that report changes are missing or disabled on {table}: run `gateway migrate`, or enable"
        " them; for partitions and inheriting tables, run SELECT gateway_watch_tables()"
    )
