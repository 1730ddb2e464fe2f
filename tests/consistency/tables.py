"""Where a run's users are: in the gateway's own tables, or in a source (`users.source`). As SQL."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Tables:
    """Statements about users. Statuses are those of the gateway in both."""

    create: str
    """What there must be beside the gateway's own tables."""
    source: Mapping[str, Any] | None
    """`users.source`."""
    add: str
    """A user: $1 is the id."""
    link: str
    """An identity: `iss`, subject, user."""
    unlink: str
    """`iss`, subject."""
    set_status: str
    """Status, user."""
    sign_out: str
    """Refuse the tokens issued until now: user."""
    undo_sign_out: str
    set_everybody: str
    """Status, users."""
    strangers: tuple[tuple[str, tuple[object, ...]], ...]
    """Changes of many rows, in order, with their values."""


_TENANT: Final = "strangers"
"""Tells those who are none of the run's people."""
_STRANGERS: Final = 20_000
"""Rows of each table."""


def own_tables(iss: str) -> Tables:
    """Return the statements for the gateway's own tables. `iss` is the issuer of strangers."""
    return Tables(
        create="",
        source=None,
        add="INSERT INTO users (id) VALUES ($1)",
        link="INSERT INTO identities (issuer, subject, user_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        unlink="DELETE FROM identities WHERE issuer = $1 AND subject = $2",
        set_status="UPDATE users SET status = $1 WHERE id = $2",
        sign_out="UPDATE users SET tokens_valid_after = now() WHERE id = $1",
        undo_sign_out="UPDATE users SET tokens_valid_after = NULL WHERE id = $1",
        set_everybody="UPDATE users SET status = $1 WHERE id = ANY($2::uuid[])",
        strangers=(
            (
                "INSERT INTO users (id, tenant) SELECT gen_random_uuid(), $1"
                " FROM generate_series(1, $2::int)",
                (_TENANT, _STRANGERS),
            ),
            (
                "INSERT INTO identities (issuer, subject, user_id)"
                " SELECT $1, 'stranger-' || id, id FROM users WHERE tenant = $2",
                (iss, _TENANT),
            ),
            ("UPDATE users SET display_name = 'renamed' WHERE tenant = $1", (_TENANT,)),
            (
                "UPDATE identities SET subject = subject || '-renamed' WHERE subject LIKE 'stranger-%'",
                (),
            ),
            # Identities go with their users.
            ("DELETE FROM users WHERE tenant = $1", (_TENANT,)),
        ),
    )


def source_tables(iss: str) -> Tables:
    """Return the statements for tables of another system. `iss` is the issuer that they are for."""
    banned = "CASE WHEN $1 = 'suspended' THEN 'infinity'::timestamptz END"
    status = (
        f"banned_until = {banned}, locked = $1 = 'locked', confirmed = $1 <> 'pending',"
        " deleted_at = CASE WHEN $1 = 'deleted' THEN now() END"
    )
    return Tables(
        create="""
        CREATE TABLE account (
            id uuid PRIMARY KEY, locked boolean NOT NULL DEFAULT false,
            confirmed boolean NOT NULL DEFAULT true, banned_until timestamptz, deleted_at timestamptz,
            signed_out_at timestamptz, plan text
        );
        CREATE TABLE sign_in (
            issuer text, sub text, account uuid NOT NULL REFERENCES account ON DELETE CASCADE,
            PRIMARY KEY (issuer, sub)
        );
        CREATE INDEX ON sign_in (account);
        """,
        source={
            "table": "account",
            "id": "id",
            "status": [
                {"when": "deleted_at IS NOT NULL", "is": "deleted"},
                {"when": "locked", "is": "locked"},
                {"when": "banned_until > now()", "is": "suspended", "until": "banned_until"},
                {"when": "NOT confirmed", "is": "pending"},
            ],
            "tokens_valid_after": "signed_out_at",
            "attributes": ["plan"],
            "identities": [
                {"table": "sign_in", "subject": "sub", "user": "account", "where": f"issuer = '{iss}'"}
            ],
        },
        add="INSERT INTO account (id) VALUES ($1)",
        link="INSERT INTO sign_in (issuer, sub, account) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        unlink="DELETE FROM sign_in WHERE issuer = $1 AND sub = $2",
        set_status=f"UPDATE account SET {status} WHERE id = $2",  # noqa: S608 -- constants
        sign_out="UPDATE account SET signed_out_at = now() WHERE id = $1",
        undo_sign_out="UPDATE account SET signed_out_at = NULL WHERE id = $1",
        set_everybody=f"UPDATE account SET {status} WHERE id = ANY($2::uuid[])",  # noqa: S608 -- constants
        strangers=(
            (
                "INSERT INTO account (id, plan) SELECT gen_random_uuid(), $1"
                " FROM generate_series(1, $2::int)",
                (_TENANT, _STRANGERS),
            ),
            (
                "INSERT INTO sign_in (issuer, sub, account)"
                " SELECT $1, 'stranger-' || id, id FROM account WHERE plan = $2",
                (iss, _TENANT),
            ),
            ("UPDATE account SET plan = plan || '-renamed' WHERE plan = $1", (_TENANT,)),
            ("UPDATE sign_in SET sub = sub || '-renamed' WHERE sub LIKE 'stranger-%'", ()),
            # Identities go with their users.
            ("DELETE FROM account WHERE plan LIKE $1 || '%'", (_TENANT,)),
        ),
    )
