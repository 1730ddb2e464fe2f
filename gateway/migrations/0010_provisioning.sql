-- Users whom a gateway creates at their first request, on routes with `missing_user: provision`.

SET LOCAL lock_timeout = '5s';
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- For the gateway's role, which may not write. It creates a user with an identity, or says why not:
-- created: there was neither; exists: the identity has a user, whatever its status; deleted, taken: the identity has
-- none, but the e-mail address is that of a deleted user, or of another one. Nothing is linked: whoever controls an
-- address at one issuer is not therefore the user of another.
-- What was read before `version` may not show the user.
CREATE FUNCTION gateway_provision_user(
    new_issuer text, new_subject text, new_email text, new_display_name text, new_tenant text, new_roles text[],
    issuer_name text, request text, OUT result text, OUT owner uuid, OUT version bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    -- One after the other for each address, or else for each identity. The first number is "prov", so that it
    -- meets no lock of another program.
    PERFORM pg_advisory_xact_lock(
        1886547830, hashtext(current_schema()::text || ' ' || coalesce(lower(new_email), new_issuer || ' ' || new_subject))
    );
    version := pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1;
    SELECT held.user_id INTO owner FROM identities AS held
    WHERE held.issuer = new_issuer AND held.subject = new_subject;
    IF FOUND THEN
        result := 'exists';
        RETURN;
    END IF;
    SELECT CASE WHEN bool_or(other.status = 'deleted') THEN 'deleted' ELSE 'taken' END INTO result
    FROM users AS other WHERE lower(other.email) = lower(new_email) HAVING count(*) > 0;
    IF FOUND THEN
        RETURN;
    END IF;
    INSERT INTO users (email, display_name, tenant, roles)
    VALUES (new_email, new_display_name, new_tenant, new_roles) RETURNING id INTO owner;
    INSERT INTO identities (issuer, subject, user_id) VALUES (new_issuer, new_subject, owner)
    ON CONFLICT (issuer, subject) DO NOTHING;
    IF NOT FOUND THEN
        -- Another program was faster, and takes no lock.
        DELETE FROM users WHERE id = owner;
        SELECT held.user_id INTO owner FROM identities AS held
        WHERE held.issuer = new_issuer AND held.subject = new_subject;
        result := 'exists';
        version := pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1;
        RETURN;
    END IF;
    INSERT INTO audit (actor, action, target, request_id, detail) VALUES (
        'gateway', 'user.provision', 'user:' || owner, request,
        jsonb_build_object(
            'issuer', new_issuer, 'subject', new_subject, 'tenant', new_tenant, 'roles', to_jsonb(new_roles),
            'issuer_name', issuer_name
        )
    );
    result := 'created';
    version := pg_current_xact_id()::text::bigint;
END
$$;

COMMENT ON FUNCTION gateway_provision_user(text, text, text, text, text, text[], text, text) IS
    'Creates a user at its first request. Whoever may execute it may create users with any role.';
COMMENT ON TABLE audit IS
    'What was done through the admin API, by `gateway` commands and by gateways that create users: each row was'
    ' written in the transaction of what it records.';
COMMENT ON COLUMN audit.actor IS
    'api@ and the address that the request came from; cli: and the user of the operating system; or gateway.';

REVOKE ALL ON FUNCTION gateway_provision_user(text, text, text, text, text, text[], text, text) FROM PUBLIC;
