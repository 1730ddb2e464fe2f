-- Changes made known: whatever a gateway may have remembered, and a statement has changed, is told on
-- the channel gateway_changes when the transaction commits. A payload is one JSON object:
--   {"kind": "identities", "identities": [[issuer, subject], ...], "users": [id, ...]}
--   {"kind": "revocation", "change": "set" | "lifted", "revocation": {kind, issuer, value, revoked_at, expires_at}}
--   {"kind": "all"}: too much to list, or TRUNCATE; whatever is remembered is void
-- each with "schema", the schema of the tables, and "version", the id of the transaction.

-- Better to fail, and be run again, than to let every writer wait behind one long transaction.
SET LOCAL lock_timeout = '5s';

-- The functions below keep this path (FROM CURRENT), whatever that of the client who fires them.
-- Without pg_temp at its end, a client's temporary tables would come first.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE FUNCTION gateway_tell(message jsonb) RETURNS void LANGUAGE sql SET search_path FROM CURRENT AS $$
    SELECT pg_notify(
        'gateway_changes',
        (message || jsonb_build_object('version', pg_current_xact_id()::text::bigint))::text
    )
$$;

CREATE FUNCTION gateway_tell_all(tables name) RETURNS void LANGUAGE sql SET search_path FROM CURRENT AS $$
    SELECT gateway_tell(jsonb_build_object('kind', 'all', 'schema', tables))
$$;

-- Postgres takes payloads below 8000 bytes. Items are dealt out by where they end in the whole: a
-- message has at most 3300 bytes of them, and one item more.
CREATE FUNCTION gateway_tell_identities(tables name, identities jsonb[], users uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    room CONSTANT integer := 3300;
BEGIN
    IF cardinality(identities) > 500 OR cardinality(users) > 500
        OR EXISTS (SELECT FROM unnest(identities) AS item WHERE octet_length(item::text) > room)
    THEN
        PERFORM gateway_tell_all(tables);
        RETURN;
    END IF;
    PERFORM gateway_tell(jsonb_build_object(
        'kind', 'identities',
        'schema', tables,
        'identities', coalesce(jsonb_agg(item) FILTER (WHERE is_identity), '[]'),
        'users', coalesce(jsonb_agg(item) FILTER (WHERE NOT is_identity), '[]')
    ))
    FROM (
        SELECT item, is_identity,
            sum(octet_length(item::text) + 2) OVER (ORDER BY is_identity, item) / room AS message
        FROM (
            SELECT unnest(identities) AS item, true AS is_identity
            UNION ALL
            SELECT to_jsonb(unnest(users)), false
        ) AS items
    ) AS dealt_out
    GROUP BY message;
END
$$;

-- A new user needs no word: no identity leads to it yet.
CREATE FUNCTION gateway_users_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed uuid[];
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := ARRAY(SELECT id FROM before LIMIT 501);
    ELSE
        -- What the gateway does not read, such as updated_at, may change unheard.
        changed := ARRAY(
            SELECT id FROM after LEFT JOIN before USING (id)
            WHERE (after.status, after.tenant, after.email, after.display_name, after.roles,
                   after.attributes, after.tokens_valid_after)
                IS DISTINCT FROM
                  (before.status, before.tenant, before.email, before.display_name, before.roles,
                   before.attributes, before.tokens_valid_after)
            LIMIT 501
        );
    END IF;
    IF cardinality(changed) > 500 THEN
        PERFORM gateway_tell_all(TG_TABLE_SCHEMA);
    ELSE
        PERFORM gateway_tell_identities(
            TG_TABLE_SCHEMA,
            ARRAY(
                SELECT jsonb_build_array(issuer, subject)
                FROM unnest(changed) AS owner JOIN identities ON user_id = owner LIMIT 501
            ),
            changed
        );
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION gateway_identities_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed jsonb[];
BEGIN
    -- Who changes a user must see all identities that lead to it, or would leave one of them untold.
    -- Writing the user's row makes the two transactions follow each other, at any isolation level.
    -- A row of this very transaction cannot have been changed by another.
    IF TG_OP = 'DELETE' THEN
        changed := ARRAY(SELECT jsonb_build_array(issuer, subject) FROM before LIMIT 501);
    ELSIF TG_OP = 'INSERT' THEN
        UPDATE users SET updated_at = now() FROM (SELECT DISTINCT user_id FROM after) AS linked
        WHERE users.id = linked.user_id AND users.xmin <> pg_current_xact_id()::xid;
        changed := ARRAY(SELECT jsonb_build_array(issuer, subject) FROM after LIMIT 501);
    ELSE
        UPDATE users SET updated_at = now() FROM (
            SELECT DISTINCT user_id FROM (
                SELECT issuer, subject, user_id FROM after
                EXCEPT SELECT issuer, subject, user_id FROM before
            ) AS other
        ) AS linked
        WHERE users.id = linked.user_id AND users.xmin <> pg_current_xact_id()::xid;
        changed := ARRAY(
            SELECT DISTINCT jsonb_build_array(issuer, subject) FROM (
                (SELECT issuer, subject, user_id FROM before EXCEPT SELECT issuer, subject, user_id FROM after)
                UNION ALL
                (SELECT issuer, subject, user_id FROM after EXCEPT SELECT issuer, subject, user_id FROM before)
            ) AS other LIMIT 501
        );
    END IF;
    PERFORM gateway_tell_identities(TG_TABLE_SCHEMA, changed, '{}');
    RETURN NULL;
END
$$;

-- A row that has expired counts no more, and goes unheard: pruning lifts nothing.
CREATE FUNCTION gateway_revocations_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    messages jsonb[];
BEGIN
    -- A statement has only those of the two tables that its kind has.
    IF TG_OP = 'DELETE' THEN
        messages := ARRAY(
            SELECT gateway_revocation('lifted', kind, issuer, value, revoked_at, expires_at)
            FROM before WHERE expires_at IS NULL OR expires_at > now() LIMIT 501
        );
    ELSIF TG_OP = 'INSERT' THEN
        messages := ARRAY(
            SELECT gateway_revocation('set', kind, issuer, value, revoked_at, expires_at)
            FROM after WHERE expires_at IS NULL OR expires_at > now() LIMIT 501
        );
    ELSE
        messages := ARRAY(
            SELECT gateway_revocation('lifted', kind, issuer, value, revoked_at, expires_at)
            FROM before
            WHERE (expires_at IS NULL OR expires_at > now()) AND NOT EXISTS (
                SELECT FROM after
                WHERE (after.kind, after.issuer, after.value) = (before.kind, before.issuer, before.value)
                    AND (after.expires_at IS NULL OR after.expires_at > now())
            ) LIMIT 501
        ) || ARRAY(
            SELECT gateway_revocation('set', kind, issuer, value, revoked_at, expires_at) FROM (
                SELECT kind, issuer, value, revoked_at, expires_at FROM after
                WHERE expires_at IS NULL OR expires_at > now()
                EXCEPT SELECT kind, issuer, value, revoked_at, expires_at FROM before
            ) AS other LIMIT 501
        );
    END IF;
    IF cardinality(messages) > 500
        OR EXISTS (SELECT FROM unnest(messages) AS message WHERE octet_length(message::text) > 6900)
    THEN
        PERFORM gateway_tell_all(TG_TABLE_SCHEMA);
    ELSE
        PERFORM gateway_tell(message || jsonb_build_object('schema', TG_TABLE_SCHEMA))
        FROM unnest(messages) AS message;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION gateway_revocation(
    change text, kind text, issuer text, value text, revoked_at timestamptz, expires_at timestamptz
) RETURNS jsonb LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT jsonb_build_object('kind', 'revocation', 'change', change, 'revocation', jsonb_build_object(
        'kind', kind, 'issuer', issuer, 'value', value,
        'revoked_at', extract(epoch FROM revoked_at)::float8,
        'expires_at', extract(epoch FROM nullif(expires_at, 'infinity'))::float8
    ))
$$;

CREATE FUNCTION gateway_table_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM gateway_tell_all(TG_TABLE_SCHEMA);
    RETURN NULL;
END
$$;

CREATE TRIGGER gateway_changes_update AFTER UPDATE ON users
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_users_changed();
CREATE TRIGGER gateway_changes_delete AFTER DELETE ON users
    REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_users_changed();
CREATE TRIGGER gateway_changes_truncate AFTER TRUNCATE ON users
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_table_truncated();

CREATE TRIGGER gateway_changes_insert AFTER INSERT ON identities
    REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_identities_changed();
CREATE TRIGGER gateway_changes_update AFTER UPDATE ON identities
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_identities_changed();
CREATE TRIGGER gateway_changes_delete AFTER DELETE ON identities
    REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_identities_changed();
CREATE TRIGGER gateway_changes_truncate AFTER TRUNCATE ON identities
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_table_truncated();

CREATE TRIGGER gateway_changes_insert AFTER INSERT ON revocations
    REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_revocations_changed();
CREATE TRIGGER gateway_changes_update AFTER UPDATE ON revocations
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_revocations_changed();
CREATE TRIGGER gateway_changes_delete AFTER DELETE ON revocations
    REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_revocations_changed();
CREATE TRIGGER gateway_changes_truncate AFTER TRUNCATE ON revocations
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_table_truncated();

-- A trigger fires for everybody; the right to execute is the right to put it on a table of one's own.
REVOKE ALL ON FUNCTION
    gateway_tell(jsonb),
    gateway_tell_all(name),
    gateway_tell_identities(name, jsonb[], uuid[]),
    gateway_revocation(text, text, text, text, timestamptz, timestamptz),
    gateway_users_changed(),
    gateway_identities_changed(),
    gateway_revocations_changed(),
    gateway_table_truncated()
FROM PUBLIC;

-- For the gateway's role, which may not delete. A batch fits into its statement_timeout, and several
-- gateways that prune at once do not wait for each other.
CREATE FUNCTION gateway_prune_revocations() RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    WITH expired AS (
        SELECT kind, issuer, value FROM revocations
        WHERE expires_at < now() - interval '1 hour'
        LIMIT 5000 FOR UPDATE SKIP LOCKED
    ), pruned AS (
        DELETE FROM revocations USING expired
        WHERE (revocations.kind, revocations.issuer, revocations.value)
            = (expired.kind, expired.issuer, expired.value)
        RETURNING true
    )
    SELECT count(*) FROM pruned
$$;

COMMENT ON FUNCTION gateway_prune_revocations() IS
    'Deletes up to 5000 revocations that expired more than an hour ago; returns how many. '
    'Anybody may call it: it takes away nothing that counts.';
