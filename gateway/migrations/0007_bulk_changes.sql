-- Bulk changes. What the triggers cost grows with the rows of a statement, and no faster. A transaction sends at
-- most 500 notices and then one flush, which covers all else that it changes.
--
-- The planner knows nothing of transition tables, and keeps the plan of the first statement of a session for all
-- later ones. So their joins are FULL joins, which cannot be nested loops. A condition that holds for no missing
-- row would turn them into other joins: none is used.

SET LOCAL lock_timeout = '5s';

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Whether a revocation still counts. The only rule for that in SQL; its counterpart in the gateway is `counts`.
CREATE FUNCTION gateway_counts(expires_at timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT expires_at IS NULL OR expires_at > now()
$$;

-- It tells nothing, and is asked with the rights of each role.
GRANT EXECUTE ON FUNCTION gateway_counts(timestamptz) TO PUBLIC;

-- What this transaction has told is in a setting: "<id of the transaction> <notices>". A savepoint that is rolled
-- back gives the value back together with the notices. A value of another transaction counts for nothing. Each
-- schema has a setting of its own. Called by functions that have the path of 0002.
CREATE FUNCTION gateway_told_setting() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT 'gateway.told_' || encode(convert_to(current_schema()::text, 'UTF8'), 'hex')
$$;

-- The notices of this transaction; above 500 a flush is among them, and nothing more need be told.
CREATE FUNCTION gateway_told() RETURNS integer LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    told CONSTANT text := current_setting(gateway_told_setting(), true);
BEGIN
    IF told ~ '^[0-9]+ [0-9]{1,3}$' AND split_part(told, ' ', 1) = pg_current_xact_id_if_assigned()::text THEN
        RETURN split_part(told, ' ', 2);
    END IF;
    RETURN 0;
END
$$;

CREATE OR REPLACE FUNCTION gateway_tell(message jsonb) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    told integer := gateway_told() + 1;
BEGIN
    IF told > 501 THEN
        RETURN;
    END IF;
    IF told = 501 OR message ->> 'kind' = 'all' THEN
        told := 501;
        message := jsonb_build_object('kind', 'all', 'schema', message -> 'schema');
    END IF;
    PERFORM set_config(gateway_told_setting(), pg_current_xact_id()::text || ' ' || told, true);
    PERFORM pg_notify(
        'gateway_changes',
        (message || jsonb_build_object('version', pg_current_xact_id()::text::bigint))::text
    );
END
$$;

-- A transaction that changes a user must see all identities that lead to that user, or would leave one of them
-- untold. A transaction that links identities therefore takes the rows of their users: a change of such a user
-- waits for it. In ascending order, so that two that link the same users do not wait for each other.
-- Returns the users whose rows this transaction has not written itself.
CREATE FUNCTION gateway_hold_users(ids uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SET search_path FROM CURRENT
-- Else a plan that was made for few users would read all of them each time, and in an order of its own.
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
    RETURN ARRAY(
        SELECT id FROM users WHERE id = ANY(ids) AND xmin <> pg_current_xact_id()::xid
        ORDER BY id FOR NO KEY UPDATE
    );
END
$$;

-- At READ COMMITTED, to wait is enough. At a higher level the other goes on with a snapshot from before. Where few
-- users are linked their rows are written, so that it fails. To write many would take longer than to link them:
-- the highest id of such a transaction is kept instead, out of reach of snapshots.
CREATE SEQUENCE gateway_linked_many;

-- False for an id that this server has not come to: the sequence is from a backup of another one.
CREATE FUNCTION gateway_has_begun(id bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RETURN pg_xact_status(id::text::xid8) IS NOT NULL;
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;
END
$$;

CREATE FUNCTION gateway_note_many_linked() RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    latest bigint;
    own CONSTANT bigint := pg_current_xact_id()::text;
BEGIN
    -- The first number is "gate", so that it meets no lock of another program.
    PERFORM pg_advisory_xact_lock(1734440037, hashtext(current_schema()::text));
    SELECT last_value INTO latest FROM gateway_linked_many;
    IF latest < own OR NOT gateway_has_begun(latest) THEN
        PERFORM setval('gateway_linked_many', own);
    END IF;
    -- Rolled back with this block is the lock alone: sequences know no transactions.
    RAISE EXCEPTION USING ERRCODE = 'GW001';
EXCEPTION WHEN SQLSTATE 'GW001' THEN
    NULL;
END
$$;

-- Whether identities may have been linked that this transaction cannot see.
CREATE FUNCTION gateway_may_miss_links() RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    latest bigint;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('repeatable read', 'serializable') THEN
        RETURN false;
    END IF;
    SELECT last_value INTO latest FROM gateway_linked_many;
    RETURN latest >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint AND gateway_has_begun(latest);
END
$$;

CREATE FUNCTION gateway_identities_of(ids uuid[]) RETURNS jsonb[]
LANGUAGE plpgsql SET search_path FROM CURRENT
-- As above: one user in a hundred thousand may have most of the identities.
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
    RETURN ARRAY(SELECT jsonb_build_array(issuer, subject) FROM identities WHERE user_id = ANY(ids) LIMIT 501);
END
$$;

-- As in 0002, but for what is said above. The schema is that of this function: a partition may be in another.
CREATE OR REPLACE FUNCTION gateway_users_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed uuid[];
BEGIN
    IF gateway_told() > 500 THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        changed := ARRAY(SELECT id FROM before LIMIT 501);
    ELSE
        -- What the gateway does not read, such as updated_at, may change unheard.
        changed := ARRAY(
            SELECT id FROM after FULL JOIN before USING (id)
            WHERE (after.status, after.tenant, after.email, after.display_name, after.roles,
                   after.attributes, after.tokens_valid_after)::record
                *<> (before.status, before.tenant, before.email, before.display_name, before.roles,
                     before.attributes, before.tokens_valid_after)::record
            LIMIT 501
        );
    END IF;
    IF cardinality(changed) = 0 THEN
        RETURN NULL;
    END IF;
    IF cardinality(changed) > 500 OR gateway_may_miss_links() THEN
        PERFORM gateway_tell_all(current_schema());
    ELSE
        PERFORM gateway_tell_identities(current_schema(), gateway_identities_of(changed), changed);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION gateway_identities_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed jsonb[];
    linked uuid[];
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := ARRAY(SELECT jsonb_build_array(issuer, subject) FROM before LIMIT 501);
    ELSIF TG_OP = 'INSERT' THEN
        changed := ARRAY(SELECT jsonb_build_array(issuer, subject) FROM after LIMIT 501);
        linked := ARRAY(SELECT DISTINCT user_id FROM after LIMIT 501);
    ELSE
        changed := ARRAY(
            SELECT jsonb_build_array(issuer, subject) FROM after FULL JOIN before USING (issuer, subject)
            WHERE after.user_id IS DISTINCT FROM before.user_id LIMIT 501
        );
        linked := ARRAY(
            SELECT DISTINCT after.user_id FROM after FULL JOIN before USING (issuer, subject)
            WHERE after.user_id IS DISTINCT FROM before.user_id LIMIT 501
        );
    END IF;
    IF cardinality(linked) > 500 THEN
        PERFORM gateway_note_many_linked();
        -- In parts, which fit into memory.
        FOR linked IN
            SELECT array_agg(DISTINCT user_id) FROM (
                SELECT user_id, dense_rank() OVER (ORDER BY user_id) / 5000 AS part FROM after
            ) AS dealt_out GROUP BY part ORDER BY part
        LOOP
            PERFORM gateway_hold_users(linked);
        END LOOP;
    ELSIF cardinality(linked) > 0 THEN
        -- Planned each time, for the table as it is: triggers of others are run by this statement, and are to
        -- find no settings of the planner.
        EXECUTE 'UPDATE users SET updated_at = now() WHERE id = ANY($1)' USING gateway_hold_users(linked);
    END IF;
    IF gateway_told() <= 500 THEN
        PERFORM gateway_tell_identities(current_schema(), changed, '{}');
    END IF;
    RETURN NULL;
END
$$;

-- A row that has expired counts no more, and goes unheard: pruning lifts nothing.
CREATE OR REPLACE FUNCTION gateway_revocations_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    messages jsonb[];
BEGIN
    IF gateway_told() > 500 THEN
        RETURN NULL;
    END IF;
    -- A statement has only those of the two tables that its kind has.
    IF TG_OP = 'DELETE' THEN
        messages := ARRAY(
            SELECT gateway_revocation('lifted', kind, issuer, value, revoked_at, expires_at)
            FROM before WHERE gateway_counts(expires_at) LIMIT 501
        );
    ELSIF TG_OP = 'INSERT' THEN
        messages := ARRAY(
            SELECT gateway_revocation('set', kind, issuer, value, revoked_at, expires_at)
            FROM after WHERE gateway_counts(expires_at) LIMIT 501
        );
    ELSE
        messages := ARRAY(
            SELECT gateway_revocation(change, kind, issuer, value, revoked_at, expires_at) FROM (
                SELECT CASE WHEN counts.there THEN 'set' ELSE 'lifted' END AS change, kind, issuer, value,
                    CASE WHEN counts.there THEN counts.revoked_at ELSE counted.revoked_at END AS revoked_at,
                    CASE WHEN counts.there THEN counts.expires_at ELSE counted.expires_at END AS expires_at
                FROM (
                    SELECT kind, issuer, value, revoked_at, expires_at, true AS there FROM after
                    WHERE gateway_counts(expires_at)
                ) AS counts FULL JOIN (
                    SELECT kind, issuer, value, revoked_at, expires_at, true AS there FROM before
                    WHERE gateway_counts(expires_at)
                ) AS counted USING (kind, issuer, value)
                WHERE (counts.there, counts.revoked_at, counts.expires_at)
                    IS DISTINCT FROM (counted.there, counted.revoked_at, counted.expires_at)
                LIMIT 501
            ) AS other ORDER BY change
        );
    END IF;
    IF cardinality(messages) > 500
        OR EXISTS (SELECT FROM unnest(messages) AS message WHERE octet_length(message::text) > 6900)
    THEN
        PERFORM gateway_tell_all(current_schema());
    ELSE
        PERFORM gateway_tell(message || jsonb_build_object('schema', current_schema()))
        FROM unnest(messages) AS message;
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION gateway_table_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM gateway_tell_all(current_schema());
    RETURN NULL;
END
$$;

-- For tables that are partitioned or inherited from: a statement fires the triggers of the table that it names, and
-- may name a partition. Gives each of them the triggers that it lacks; returns how many were created.
CREATE FUNCTION gateway_watch_tables() RETURNS integer LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    wanted record;
    created integer := 0;
BEGIN
    FOR wanted IN
        WITH RECURSIVE watched (root, watched) AS (
            SELECT name, to_regclass(name)::oid FROM unnest(ARRAY['users', 'identities', 'revocations']) AS name
            UNION
            SELECT root, inhrelid FROM watched JOIN pg_inherits ON inhparent = watched
        ), kinds (kind, clauses) AS (
            VALUES ('insert', 'REFERENCING NEW TABLE AS after'),
                ('update', 'REFERENCING OLD TABLE AS before NEW TABLE AS after'),
                ('delete', 'REFERENCING OLD TABLE AS before'),
                ('truncate', '')
        )
        SELECT watched::regclass AS place, kind, clauses,
            CASE kind WHEN 'truncate' THEN 'gateway_table_truncated' ELSE 'gateway_' || root || '_changed' END
                AS reaction
        FROM watched CROSS JOIN kinds
        WHERE watched IS NOT NULL AND NOT (root = 'users' AND kind = 'insert') AND NOT EXISTS (
            SELECT FROM pg_trigger WHERE tgrelid = watched AND tgname = 'gateway_changes_' || kind
        )
    LOOP
        EXECUTE format(
            'CREATE TRIGGER gateway_changes_%s AFTER %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION %s()',
            wanted.kind, wanted.kind, wanted.place, wanted.clauses, wanted.reaction
        );
        created := created + 1;
    END LOOP;
    RETURN created;
END
$$;

COMMENT ON FUNCTION gateway_watch_tables() IS
    'To be called by the owner after users, identities or revocations were partitioned, or got another partition.';

REVOKE ALL ON FUNCTION
    gateway_told_setting(),
    gateway_told(),
    gateway_hold_users(uuid[]),
    gateway_has_begun(bigint),
    gateway_note_many_linked(),
    gateway_may_miss_links(),
    gateway_identities_of(uuid[]),
    gateway_watch_tables()
FROM PUBLIC;
