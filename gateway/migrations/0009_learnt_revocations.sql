-- Revocations that another program has set in Redis alone, as gateways have seen them there: so that they
-- outlive Redis. They have a table of their own, which nothing but these functions reads or writes: a row of an
-- operator in `revocations` for the same key is neither changed nor in the way. The rights are those on `revocations`.

SET LOCAL lock_timeout = '5s';
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE learnt_revocations (
    LIKE revocations INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS,
    PRIMARY KEY (kind, issuer, value)
);

COMMENT ON TABLE learnt_revocations IS
    'Revocations that another program has set in Redis, written down by gateways. They count as those of `revocations`.';

CREATE INDEX learnt_revocations_expires_at ON learnt_revocations (expires_at);

-- Tells whether the role that asks has a right on `revocations`: a definer's rights are not that role's.
CREATE FUNCTION gateway_may_on_revocations(privilege text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    asking name := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
    -- SELECT may have been granted on columns.
    IF NOT (has_table_privilege(asking, 'revocations', privilege)
        OR (privilege = 'SELECT' AND has_any_column_privilege(asking, 'revocations', privilege)))
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'permission denied for table revocations';
    END IF;
END
$$;

-- Those of some keys, or all, expired ones included.
CREATE FUNCTION gateway_learnt_revocations(kinds text[], issuers text[], subjects text[])
RETURNS SETOF learnt_revocations LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM gateway_may_on_revocations('SELECT');
    IF kinds IS NULL THEN
        RETURN QUERY SELECT * FROM learnt_revocations;
    ELSE
        RETURN QUERY SELECT held.* FROM unnest(kinds, issuers, subjects) AS each (kind, issuer, subject)
            JOIN learnt_revocations AS held
            ON (held.kind, held.issuer, held.value) = (each.kind, each.issuer, each.subject);
    END IF;
END
$$;

-- For an operator who lifts a revocation; gateways hear of it, and delete the key. Returns how many rows it had here.
CREATE FUNCTION gateway_lift_learnt_revocation(lifted_kind text, issuers text[], subject text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    gone learnt_revocations;
    lifted bigint := 0;
BEGIN
    PERFORM gateway_may_on_revocations('DELETE');
    FOR gone IN
        DELETE FROM learnt_revocations AS held
        WHERE held.kind = lifted_kind AND held.issuer = ANY (issuers) AND held.value = subject
        RETURNING held.*
    LOOP
        PERFORM gateway_tell(
            gateway_revocation(
                'lifted', gone.kind, gone.issuer, gone.value, gone.revoked_at, gone.expires_at
            ) || jsonb_build_object('schema', current_schema())
        );
        lifted := lifted + 1;
    END LOOP;
    RETURN lifted;
END
$$;

-- For the gateway's role, which may not write. What is there is only ever extended. A flood of keys is bounded:
-- there are at most 100,000 rows and one batch more. Returns how many rows were written, and of each revocation
-- whether a row of `revocations` says it; null: no more are taken.
-- `expires_in` is in seconds, null for ever; `revoked_until` is a Unix time, null for a `jti`. `iss` is the other
-- spelling of an issuer. What a row of `revocations` says is not learnt: it goes when that row is lifted.
-- What was lost before it was `seen` has an expiry that is guessed, and a row says enough that counts.
CREATE FUNCTION gateway_learn_revocations(
    kinds text[], issuers text[], subjects text[], revoked_until float8[], expires_in float8[],
    iss text[], seen boolean[], OUT written bigint, OUT said boolean[]
) LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM learnt_revocations LIMIT 100000) AS few) >= 100000 THEN
        RETURN;
    END IF;
    said := ARRAY(
        SELECT EXISTS (
            SELECT FROM revocations AS row
            WHERE row.kind = each.kind AND row.issuer IN (each.issuer, each.iss) AND row.value = each.subject
                AND gateway_counts(row.expires_at)
                -- Instants in Redis have fewer digits.
                AND (each.kind = 'jti' OR row.revoked_at >= to_timestamp(each.revoked_until) - interval '1 ms')
                AND (NOT each.seen OR row.expires_at IS NULL
                    OR row.expires_at >= now() + (each.expires_in - 5) * interval '1 s')
        )
        FROM unnest(kinds, issuers, subjects, revoked_until, expires_in, iss, seen) WITH ORDINALITY
            AS each (kind, issuer, subject, revoked_until, expires_in, iss, seen, number)
        ORDER BY each.number
    );
    INSERT INTO learnt_revocations AS held (kind, issuer, value, revoked_at, expires_at, reason, revoked_by)
    SELECT DISTINCT ON (each.kind, each.issuer, each.subject)
        each.kind, each.issuer, each.subject,
        coalesce(to_timestamp(each.revoked_until), now()), now() + each.expires_in * interval '1 s',
        'learnt from Redis, where another program set it', 'redis'
    FROM unnest(kinds, issuers, subjects, revoked_until, expires_in, said)
        AS each (kind, issuer, subject, revoked_until, expires_in, said)
    WHERE NOT each.said
    -- In one order, or two gateways that learn the same would wait for each other.
    ORDER BY each.kind, each.issuer, each.subject
    ON CONFLICT (kind, issuer, value) DO UPDATE SET
        revoked_at = CASE held.kind WHEN 'jti' THEN held.revoked_at
            ELSE greatest(held.revoked_at, excluded.revoked_at) END,
        expires_at = CASE WHEN held.expires_at IS NOT NULL AND excluded.expires_at IS NOT NULL
            THEN greatest(held.expires_at, excluded.expires_at) END
    -- Moments are no difference: several gateways see the same key.
    WHERE (held.kind <> 'jti' AND excluded.revoked_at > held.revoked_at)
        OR (held.expires_at IS NOT NULL AND excluded.expires_at IS NULL)
        OR excluded.expires_at > held.expires_at + interval '5 s';
    GET DIAGNOSTICS written = ROW_COUNT;
END
$$;

-- For keys that were deleted in Redis. It takes away what gateways have learnt, and no row of an operator.
CREATE FUNCTION gateway_unlearn_revocations(kinds text[], issuers text[], subjects text[]) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    WITH gone AS (
        DELETE FROM learnt_revocations AS held
        USING unnest(kinds, issuers, subjects) AS each (kind, issuer, subject)
        WHERE (held.kind, held.issuer, held.value) = (each.kind, each.issuer, each.subject)
        RETURNING true
    )
    SELECT count(*) FROM gone
$$;

-- As in 0002, for both tables.
CREATE OR REPLACE FUNCTION gateway_prune_revocations() RETURNS bigint
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
    ), expired_learnt AS (
        SELECT kind, issuer, value FROM learnt_revocations
        WHERE expires_at < now() - interval '1 hour'
        LIMIT 5000 FOR UPDATE SKIP LOCKED
    ), pruned_learnt AS (
        DELETE FROM learnt_revocations AS held USING expired_learnt AS gone
        WHERE (held.kind, held.issuer, held.value) = (gone.kind, gone.issuer, gone.value)
        RETURNING true
    )
    SELECT (SELECT count(*) FROM pruned) + (SELECT count(*) FROM pruned_learnt)
$$;

REVOKE ALL ON FUNCTION
    gateway_learn_revocations(text[], text[], text[], float8[], float8[], text[], boolean[]),
    gateway_unlearn_revocations(text[], text[], text[])
FROM PUBLIC;
