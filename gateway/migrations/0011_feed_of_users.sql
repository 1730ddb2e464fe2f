-- Users in another system's tables that report no changes here, since they are on another server or may not get
-- triggers: one process of all gateways reads their changes, and reports them on the channel gateway_changes. It
-- holds this lease, and writes down when it has last reported all that there was. Workers that find that too long
-- ago do not trust their memory.

SET LOCAL lock_timeout = '5s';
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE gateway_source_feed (
    only_one    boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    holder      text        NOT NULL,
    lease_until timestamptz NOT NULL,
    reported_at timestamptz
);

COMMENT ON TABLE gateway_source_feed IS
    'One row: which process reads the changes of users.source, and when it has last reported all of them.';

-- Takes the lease if it is free, or keeps it, for some seconds. `age` is how many seconds ago the holder began to
-- read what it has reported; null: it has not reported yet. Returns whether the lease is held.
CREATE FUNCTION gateway_hold_feed(process text, seconds double precision, age double precision) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    WITH held AS (
        INSERT INTO gateway_source_feed AS feed (holder, lease_until, reported_at)
        VALUES (
            process, clock_timestamp() + seconds * interval '1 s', clock_timestamp() - age * interval '1 s'
        )
        ON CONFLICT (only_one) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until,
            reported_at = coalesce(excluded.reported_at, feed.reported_at)
        WHERE feed.holder = process OR feed.lease_until < clock_timestamp()
        RETURNING true
    )
    SELECT EXISTS (SELECT FROM held)
$$;

REVOKE ALL ON FUNCTION gateway_hold_feed(text, double precision, double precision) FROM PUBLIC;
