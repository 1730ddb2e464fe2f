"""The tables of another system that has the users, as values: what `users.source` configures.

Texts are SQL of the operator, checked by `core.text.sql_text`. They are put into statements as they are;
subjects and ids travel as parameters.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.core.model import UserStatus

_READS_MORE: Final = re.compile(r"\bselect\b|\w\s*\(", re.IGNORECASE)
"""A query or a call in an expression: it may read other tables than its own."""

ALL_USERS: Final = "*"
"""In place of a column: each row concerns all users."""


@dataclass(frozen=True, slots=True)
class Value:
    """An expression over a user's row, or a query with `$1` for the user's id."""

    sql: str | None = None
    query: str | None = None
    watch: Mapping[str, str] = field(default_factory=dict)
    """The tables that the query reads, each with its column of user ids, or `ALL_USERS`."""


@dataclass(frozen=True, slots=True)
class StatusRule:
    """A status, and the condition for it."""

    when: str
    status: UserStatus
    until: str | None = None
    """The instant at which time changes whether the condition holds."""


@dataclass(frozen=True, slots=True)
class Identities:
    """The place of the subjects of some issuers."""

    issuer: tuple[str, ...]
    """Names of issuers."""
    subject: str
    table: str | None = None
    """None: the table of users."""
    user: str | None = None
    """The column with the user's id; None in the table of users."""
    where: str | None = None
    tenant: str | None = None
    """For issuers of many tenants: the tenant in the `iss` of the subject's tokens."""


@dataclass(frozen=True, slots=True)
class Poll:
    """How changes are polled. Durations are seconds."""

    column: str | None = None
    interval: float = 1.0
    compare: float = 30.0


@dataclass(frozen=True, slots=True)
class UserSource:
    """The tables that have the users."""

    table: str
    id: str
    identities: tuple[Identities, ...]
    schema_name: str = "public"
    """The schema of tables that are named without one."""
    status: tuple[StatusRule, ...] = ()
    tenant: Value | None = None
    email: Value | None = None
    display_name: Value | None = None
    roles: Value | None = None
    attributes: Mapping[str, Value] = field(default_factory=dict)
    tokens_valid_after: Value | None = None
    created_at: Value | None = None
    watch: Mapping[str, str] = field(default_factory=dict)
    changes: Literal["triggers", "poll", "none"] = "triggers"
    poll: Poll = Poll()
    writable: bool = False

    @property
    def values(self) -> Mapping[str, Value]:
        """The configured values by name; attributes as `attributes.<name>`."""
        named = {
            name: getattr(self, name)
            for name in ("tenant", "email", "display_name", "roles", "tokens_valid_after", "created_at")
        }
        named |= {f"attributes.{name}": value for name, value in self.attributes.items()}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def watched(self) -> dict[str, frozenset[str]]:
        """The tables on which an answer depends, beside those of users and identities, with their columns."""
        found: dict[str, set[str]] = {}
        for watch in (self.watch, *(value.watch for value in self.values.values())):
            for table, column in watch.items():
                found.setdefault(table, set()).add(column)
        return {table: frozenset(columns) for table, columns in found.items()}

    @property
    def identities_may_vanish(self) -> bool:
        """Whether a change of a watched table may take an identity from its user.

        Its triggers cannot tell then which identity that was, only whose.
        """
        texts = [text for each in self.identities for text in (each.subject, each.user, each.where) if text]
        named = any(column != ALL_USERS for column in self.watch.values())
        return named and any(_READS_MORE.search(text) for text in texts)

    def identities_of(self, issuer_name: str) -> tuple[Identities, ...]:
        """Return where the subjects of an issuer are."""
        return tuple(each for each in self.identities if issuer_name in each.issuer)
