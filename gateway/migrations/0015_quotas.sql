-- What has been spent of quotas (`limits` with `quota`), as gateways copy it from Redis: so that quotas outlive Redis.
-- Nothing but these two functions reads or writes the table. A subject is a digest.

SET LOCAL lock_timeout = '5s';
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE gateway_quotas (
    quota    text        NOT NULL,
    subject  text        NOT NULL,
    period   text        NOT NULL,
    used     bigint      NOT NULL,
    ends_at  timestamptz NOT NULL,
    PRIMARY KEY (quota, subject, period)
);

CREATE INDEX gateway_quotas_ends_at ON gateway_quotas (ends_at);

REVOKE ALL ON gateway_quotas FROM PUBLIC;

COMMENT ON TABLE gateway_quotas IS
    'What has been spent of quotas in a day or month. Gateways write it every few seconds, and read it when Redis has lost it.';

CREATE FUNCTION gateway_quota_used(quota text, subject text, period text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT coalesce(max(held.used), 0) FROM gateway_quotas AS held
    WHERE (held.quota, held.subject, held.period)
        = (gateway_quota_used.quota, gateway_quota_used.subject, gateway_quota_used.period)
$$;

-- Many at once; of each, the larger number stays. Rows go an hour after their day or month is over. `ends` are Unix times.
CREATE FUNCTION gateway_save_quotas(
    quotas text[], subjects text[], periods text[], used bigint[], ends float8[]
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DELETE FROM gateway_quotas WHERE (quota, subject, period) IN (
        SELECT old.quota, old.subject, old.period FROM gateway_quotas AS old
        WHERE old.ends_at < now() - interval '1 hour' LIMIT 1000 FOR UPDATE SKIP LOCKED
    );
    INSERT INTO gateway_quotas AS held (quota, subject, period, used, ends_at)
    SELECT each.quota, each.subject, each.period, each.used, to_timestamp(each.ends)
    FROM unnest(quotas, subjects, periods, used, ends) AS each (quota, subject, period, used, ends)
    -- In one order, or two gateways that write the same would wait for each other.
    ORDER BY each.quota, each.subject, each.period
    ON CONFLICT (quota, subject, period) DO UPDATE SET used = excluded.used WHERE excluded.used > held.used
$$;

-- For an operator who gives a quota anew.
CREATE FUNCTION gateway_reset_quota(quota text, subject text, period text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    WITH gone AS (
        DELETE FROM gateway_quotas AS held WHERE (held.quota, held.subject, held.period)
            = (gateway_reset_quota.quota, gateway_reset_quota.subject, gateway_reset_quota.period)
        RETURNING true
    )
    SELECT count(*) FROM gone
$$;

REVOKE ALL ON FUNCTION
    gateway_quota_used(text, text, text),
    gateway_save_quotas(text[], text[], text[], bigint[], float8[]),
    gateway_reset_quota(text, text, text)
FROM PUBLIC;
