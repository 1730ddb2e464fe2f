-- Users of another system (users.source) have ids of their own: integers or texts. A revocation of a user's tokens
-- takes any id. The gateway's commands and API still check it: in the gateway's own tables, ids are UUIDs.

SET LOCAL lock_timeout = '5s';

ALTER TABLE revocations
    DROP CONSTRAINT revocations_shape,
    ADD CONSTRAINT revocations_shape CHECK (
        CASE kind
            WHEN 'jti' THEN issuer <> '' AND value <> ''
            -- UUIDs as Postgres writes them: other spellings would revoke nothing, without a word.
            WHEN 'user' THEN issuer = '' AND value <> ''
                AND (value = lower(value) OR value !~* '^\{?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\}?$')
            WHEN 'issuer' THEN issuer <> '' AND value = ''
            ELSE false
        END
    );

ALTER TABLE learnt_revocations
    DROP CONSTRAINT revocations_shape,
    ADD CONSTRAINT revocations_shape CHECK (
        CASE kind
            WHEN 'jti' THEN issuer <> '' AND value <> ''
            -- UUIDs as Postgres writes them: other spellings would revoke nothing, without a word.
            WHEN 'user' THEN issuer = '' AND value <> ''
                AND (value = lower(value) OR value !~* '^\{?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\}?$')
            WHEN 'issuer' THEN issuer <> '' AND value = ''
            ELSE false
        END
    );

COMMENT ON TABLE revocations IS
    'jti: the token (issuer, value = jti). user: tokens of the user (value = the id as the gateway hands it to '
    'upstreams) issued at or before revoked_at. issuer: tokens of the issuer issued at or before revoked_at. '
    'issuer holds the configured name of the issuer, or its iss.';
