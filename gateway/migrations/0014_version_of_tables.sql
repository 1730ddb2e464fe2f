-- Which migration is the newest, for gateways whose role may not read the ledger: they tell when program and tables are of
-- different versions.

SET LOCAL lock_timeout = '5s';
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE FUNCTION gateway_tables_version() RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT max(version) FROM gateway_migrations
$$;

COMMENT ON FUNCTION gateway_tables_version() IS 'The number of the newest migration that was applied.';
