-- The private keys with which gateways sign who a user is (`assertion`). Nothing but these two functions reads or
-- writes the table, and only roles that were granted them may call them: who can read a key can sign any identity.

SET LOCAL lock_timeout = '5s';
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE gateway_assertion_keys (
    kid         text        PRIMARY KEY,
    algorithm   text        NOT NULL,
    private_key text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    signs_from  timestamptz NOT NULL
);

REVOKE ALL ON gateway_assertion_keys FROM PUBLIC;

COMMENT ON TABLE gateway_assertion_keys IS
    'Private keys of assertions. A key signs from its instant until that of the next one, and is published before and after.';

CREATE FUNCTION gateway_read_assertion_keys() RETURNS SETOF gateway_assertion_keys
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT * FROM gateway_assertion_keys
$$;

-- Adds a key that signs `ahead` seconds from now; at once, if it is the first. Unless `rotate`, it adds none if the
-- newest key is for the same algorithm. Keys go a day after the next one began to sign. Returns whether it was added.
CREATE FUNCTION gateway_add_assertion_key(
    kid text, algorithm text, private_key text, ahead double precision, rotate boolean
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    newest text;
BEGIN
    LOCK TABLE gateway_assertion_keys IN SHARE ROW EXCLUSIVE MODE;
    SELECT held.algorithm INTO newest FROM gateway_assertion_keys AS held
        ORDER BY held.signs_from DESC, held.kid DESC LIMIT 1;
    IF newest IS NOT DISTINCT FROM gateway_add_assertion_key.algorithm AND NOT rotate THEN
        RETURN false;
    END IF;
    DELETE FROM gateway_assertion_keys AS old WHERE EXISTS (
        SELECT FROM gateway_assertion_keys AS later
        WHERE later.signs_from > old.signs_from AND later.signs_from < clock_timestamp() - interval '1 day'
    );
    INSERT INTO gateway_assertion_keys (kid, algorithm, private_key, signs_from) VALUES (
        gateway_add_assertion_key.kid, gateway_add_assertion_key.algorithm, gateway_add_assertion_key.private_key,
        clock_timestamp() + CASE WHEN newest IS NULL THEN 0 ELSE ahead END * interval '1 s'
    );
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION
    gateway_read_assertion_keys(),
    gateway_add_assertion_key(text, text, text, double precision, boolean)
FROM PUBLIC;
