-- The audit has what commands do, too.

COMMENT ON TABLE audit IS
    'What was done through the admin API and by `gateway` commands: each row was written in the transaction of'
    ' what it records.';
COMMENT ON COLUMN audit.actor IS
    'api@ and the address that the request came from; or cli: and the user of the operating system.';
COMMENT ON COLUMN audit.request_id IS 'Of the request; or of the run of the command, for all that it did.';
COMMENT ON COLUMN audit.target IS
    'What was changed: user:<id>, revocation:<kind>, revocations, issuer:<name>, caches.';
