-- Changes of one revocation get an order: who is late with one must not undo what came after it. The ids of
-- transactions do not tell, for one that began earlier may change a row later. Whoever changes a row has
-- waited for the commit of who changed it before, and only then, after the statement, takes a number.

SET LOCAL lock_timeout = '5s';

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE SEQUENCE gateway_revocation_order;

-- Numbers are no lower than the microseconds since 1970: in a backup, or on a standby that took over without the
-- last of them, the sequence has gone back, and what changes there would count as overtaken.
CREATE FUNCTION gateway_next_order() RETURNS bigint LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    place bigint := nextval('gateway_revocation_order');
    moment bigint := extract(epoch FROM clock_timestamp()) * 1000000;
BEGIN
    IF place < moment THEN
        place := setval('gateway_revocation_order', moment);
    END IF;
    RETURN place;
END
$$;

-- As in 0002, and with "order" beside "change". Each call takes a number.
CREATE OR REPLACE FUNCTION gateway_revocation(
    change text, kind text, issuer text, value text, revoked_at timestamptz, expires_at timestamptz
) RETURNS jsonb LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT jsonb_build_object(
        'kind', 'revocation', 'change', change, 'order', gateway_next_order(),
        'revocation', jsonb_build_object(
            'kind', kind, 'issuer', issuer, 'value', value,
            'revoked_at', extract(epoch FROM revoked_at)::float8,
            'expires_at', extract(epoch FROM nullif(expires_at, 'infinity'))::float8
        )
    )
$$;

REVOKE ALL ON FUNCTION gateway_next_order() FROM PUBLIC;
