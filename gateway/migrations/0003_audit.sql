-- Who changed what through the admin API; and what its searches and its flush of all caches need.

-- As in 0002: better to fail, and be run again, than to let every writer wait.
SET LOCAL lock_timeout = '5s';
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE audit (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text        NOT NULL,
    action     text        NOT NULL,
    target     text        NOT NULL,
    request_id text        NOT NULL,
    detail     jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT audit_detail_object CHECK (jsonb_typeof(detail) = 'object')
);

COMMENT ON TABLE audit IS
    'What was done through the admin API: each row was written in the transaction of what it records.';
COMMENT ON COLUMN audit.actor IS 'api@ and the address that the request came from.';
COMMENT ON COLUMN audit.target IS 'What was changed: user:<id>, revocation:<kind>, issuer:<name>, caches.';

-- Searches by how an address or a name begins. The beginning is enough, and always fits into an index.
CREATE INDEX users_email_begins ON users (lower(left(email, 128)) text_pattern_ops);
CREATE INDEX users_display_name_begins ON users (lower(left(display_name, 128)) text_pattern_ops);
-- Which issuers know a subject; the primary key begins with the issuer.
CREATE INDEX identities_subject ON identities (subject);
CREATE INDEX revocations_revoked_at ON revocations (revoked_at DESC);

-- For the gateway's role, which owns nothing: voids what every gateway remembers, when the transaction
-- commits. Returns the version of that, the id of the transaction.
CREATE FUNCTION gateway_flush() RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT gateway_tell_all(current_schema());
    SELECT pg_current_xact_id()::text::bigint
$$;

-- It costs every gateway its caches.
REVOKE ALL ON FUNCTION gateway_flush() FROM PUBLIC;
