-- For the diagnosis of a subject that has no user: whose subject is spelt nearly like it? The prefix of a
-- provider (`auth0|`), the case of letters, spaces, dashes and braces make no difference here.

-- Better to fail, and be run again, than to let every writer wait behind one long transaction.
SET LOCAL lock_timeout = '5s';

CREATE INDEX identities_spelling ON identities
    (lower(regexp_replace(subject, '^.*[|]|[^[:alnum:]]', '', 'g')));
