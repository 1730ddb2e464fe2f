"""The SQL of the functions that all triggers of a source share: they send the notifications.

Notifications go on the channel `gateway_changes`, in the form of gateway/migrations/0002_changes.sql. After
500 notifications of one transaction, a single further one covers all other changes.
"""

from typing import Final

from gateway.stores.postgres.change_stream.listener import SOURCE_SCHEMA

SCHEMA: Final = SOURCE_SCHEMA
"""The schema of all functions; dropping it removes them and the triggers."""
TRUNCATED: Final = "truncated"
"""The beginning of the name of a function that reports a TRUNCATE."""
PLACEHOLDER: Final = "VERSION"
"""In the names of functions, stands for the version of all of them."""

FUNCTIONS: Final = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};

-- How many notifications this transaction has sent; above 500 one for all users is among them.
CREATE FUNCTION {SCHEMA}.told() RETURNS integer LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $gateway$
DECLARE
    told CONSTANT text := current_setting('{SCHEMA}.told', true);
BEGIN
    IF told ~ '^[0-9]+ [0-9]{{1,3}}$'
        AND split_part(told, ' ', 1) = pg_current_xact_id_if_assigned()::text
    THEN
        RETURN split_part(told, ' ', 2);
    END IF;
    RETURN 0;
END
$gateway$;

CREATE FUNCTION {SCHEMA}.tell(message jsonb) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $gateway$
DECLARE
    told integer := {SCHEMA}.told() + 1;
BEGIN
    IF told > 501 THEN
        RETURN;
    END IF;
    IF told = 501 OR message ->> 'kind' = 'all' THEN
        told := 501;
        message := '{{"kind": "all"}}';
    END IF;
    PERFORM set_config('{SCHEMA}.told', pg_current_xact_id()::text || ' ' || told, true);
    PERFORM pg_notify('gateway_changes', (message || jsonb_build_object(
        'schema', '{SCHEMA}', 'version', pg_current_xact_id()::text::bigint
    ))::text);
END
$gateway$;

CREATE FUNCTION {SCHEMA}.tell_all() RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $gateway$
    SELECT {SCHEMA}.tell('{{"kind": "all"}}')
$gateway$;

-- A notification has less than 8000 bytes. Items are dealt out to several, by where they end in the list.
CREATE FUNCTION {SCHEMA}.tell_changes(identities jsonb[], ids text[]) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $gateway$
BEGIN
    IF cardinality(identities) > 500 OR cardinality(ids) > 500
        OR EXISTS (SELECT FROM unnest(identities) AS item WHERE octet_length(item::text) > 3300)
        OR EXISTS (SELECT FROM unnest(ids) AS item WHERE octet_length(item) > 3300)
    THEN
        PERFORM {SCHEMA}.tell_all();
        RETURN;
    END IF;
    PERFORM {SCHEMA}.tell(jsonb_build_object(
        'kind', 'identities',
        'identities', coalesce(jsonb_agg(item) FILTER (WHERE is_identity), '[]'),
        'users', coalesce(jsonb_agg(item) FILTER (WHERE NOT is_identity), '[]')
    ))
    FROM (
        SELECT item, is_identity,
            sum(octet_length(item::text) + 2) OVER (ORDER BY is_identity, item) / 3300 AS part
        FROM (
            SELECT DISTINCT item, true AS is_identity FROM unnest(identities) AS item
            UNION ALL
            SELECT DISTINCT to_jsonb(item), false FROM unnest(ids) AS item
        ) AS items
    ) AS dealt_out
    GROUP BY part;
END
$gateway$;

CREATE FUNCTION {SCHEMA}.{TRUNCATED}_{PLACEHOLDER}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $gateway$
BEGIN
    PERFORM {SCHEMA}.tell_all();
    RETURN NULL;
END
$gateway$;
"""
