-- Which database this is, for gateways whose role may not ask the server (`pg_control_system()`). What Redis
-- holds belongs to one database, and a copy that is made with pg_dump is another.

SET LOCAL lock_timeout = '5s';
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- A generated column is computed where a row is written, and is in no dump: whatever restores one, or
-- subscribes to a publication, makes up an id of its own. Replicas and base backups have it as it is. That
-- Postgres takes only immutable functions there is why this one says that it is.
CREATE FUNCTION gateway_new_copy_id(boolean) RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN pg_catalog.gen_random_uuid();
END
$$;

CREATE TABLE gateway_copy (
    only_one boolean PRIMARY KEY CHECK (only_one),
    id       uuid    GENERATED ALWAYS AS (gateway_new_copy_id(only_one)) STORED
);

COMMENT ON TABLE gateway_copy IS 'One row: an id that tells this database from every copy of it.';

INSERT INTO gateway_copy (only_one) VALUES (true);

CREATE FUNCTION gateway_database_copy() RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT id FROM gateway_copy
$$;

COMMENT ON FUNCTION gateway_database_copy() IS 'The id in gateway_copy, which is no secret.';
