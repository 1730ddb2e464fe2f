-- Users, the identities that lead to them, and revocations: the system of record.

CREATE TABLE users (
    id                 uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    status             text        NOT NULL DEFAULT 'active',
    tenant             text,
    email              text,
    display_name       text,
    roles              text[]      NOT NULL DEFAULT '{}',
    attributes         jsonb       NOT NULL DEFAULT '{}',
    tokens_valid_after timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    deleted_at         timestamptz,
    CONSTRAINT users_status_known CHECK (status IN ('active', 'pending', 'suspended', 'locked', 'deleted')),
    CONSTRAINT users_roles_present CHECK (array_position(roles, NULL) IS NULL),
    CONSTRAINT users_attributes_object CHECK (jsonb_typeof(attributes) = 'object')
);

COMMENT ON TABLE users IS 'The users behind identities; only those with status active may pass the gateway.';
COMMENT ON COLUMN users.tokens_valid_after IS 'Tokens issued at or before this instant are refused.';
COMMENT ON COLUMN users.deleted_at IS 'Follows status, and status follows it, by a trigger: deletion is soft.';

CREATE INDEX users_email ON users (lower(email));
CREATE INDEX users_created ON users (created_at, id);

CREATE TABLE identities (
    issuer     text        NOT NULL,
    subject    text        NOT NULL,
    user_id    uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject),
    CONSTRAINT identities_not_empty CHECK (issuer <> '' AND subject <> '')
);

COMMENT ON COLUMN identities.issuer IS 'The iss of the tokens, exactly as they carry it.';

CREATE INDEX identities_user_id ON identities (user_id);

CREATE TABLE revocations (
    kind       text        NOT NULL,
    issuer     text        NOT NULL DEFAULT '',
    value      text        NOT NULL DEFAULT '',
    revoked_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    reason     text,
    revoked_by text,
    PRIMARY KEY (kind, issuer, value),
    -- A row in another shape would revoke nothing, without a word.
    CONSTRAINT revocations_shape CHECK (
        CASE kind
            WHEN 'jti' THEN issuer <> '' AND value <> ''
            WHEN 'user' THEN issuer = '' AND value = value::uuid::text
            WHEN 'issuer' THEN issuer <> '' AND value = ''
            ELSE false
        END
    )
);

COMMENT ON TABLE revocations IS
    'jti: the token (issuer, value = jti). user: tokens of the user (value = users.id) issued at or before '
    'revoked_at. issuer: tokens of the issuer issued at or before revoked_at. '
    'issuer holds the configured name of the issuer, or its iss.';
COMMENT ON COLUMN revocations.expires_at IS 'The row counts until then; NULL: for ever.';

CREATE INDEX revocations_expires_at ON revocations (expires_at);

-- Deletion is soft. status and deleted_at follow each other, whichever is written; a statement that
-- sets deleted_at deletes, whatever status it gives.
CREATE FUNCTION gateway_users_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.updated_at := now();
        IF NEW.deleted_at IS NOT NULL AND OLD.deleted_at IS NULL THEN
            NEW.status := 'deleted';
        ELSIF NEW.deleted_at IS NULL AND OLD.deleted_at IS NOT NULL AND NEW.status = OLD.status THEN
            NEW.status := 'active';
        END IF;
    ELSIF NEW.deleted_at IS NOT NULL THEN
        NEW.status := 'deleted';
    END IF;
    IF NEW.status = 'deleted' THEN
        NEW.deleted_at := coalesce(NEW.deleted_at, now());
    ELSE
        NEW.deleted_at := NULL;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER gateway_users_before_write BEFORE INSERT OR UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION gateway_users_before_write();
