-- Changes of one revocation get an order: who is late with one must not undo what came after it. The ids of
-- transactions do not tell, for one that began earlier may change a row later. Whoever changes a row has
-- waited for the commit of who changed it before, and only then, after the statement, takes a number.
-- Numbers are no lower than the microseconds since 1970: in a backup, or on a standby that took over without the
-- last of them, the sequence has gone back, and what changes there would count as overtaken.

SET LOCAL lock_timeout = '5s';

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE SEQUENCE gateway_revocation_order;

-- As in 0002, and each message has "order".
CREATE OR REPLACE FUNCTION gateway_revocations_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    messages jsonb[];
    place bigint := nextval('gateway_revocation_order');
    moment bigint := extract(epoch FROM clock_timestamp()) * 1000000;
BEGIN
    IF place < moment THEN
        place := setval('gateway_revocation_order', moment);
    END IF;
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
        PERFORM gateway_tell(message || jsonb_build_object('schema', TG_TABLE_SCHEMA, 'order', place))
        FROM unnest(messages) AS message;
    END IF;
    RETURN NULL;
END
$$;
