"""Which users of an export can become users of the gateway, and why the others cannot.

What one export says twice is found with a temporary database, in bounded memory.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

from gateway.core.model import UserStatus
from gateway.core.tokens.claims import MAX_SUBJECT_CHARACTERS, is_clean
from gateway.reconcile.exports.accounts import Account
from gateway.stores.postgres.directory.imports import Holder, NewUser

_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")
_TABLES: Final = """
CREATE TABLE subjects (subject TEXT PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE addresses (email TEXT PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID;
"""


class Skip(StrEnum):
    """Why a user of an export is not created."""

    NO_SUBJECT = "no_subject"
    SUBJECT_UNUSABLE = "subject_unusable"
    SUBJECT_REPEATED = "subject_repeated"
    STATUS_UNKNOWN = "status_unknown"
    VALUE_UNUSABLE = "value_unusable"
    EMAIL_REPEATED = "email_repeated"
    EXISTS = "exists"
    USER_DELETED = "user_deleted"
    EMAIL_TAKEN = "email_taken"
    EMAIL_OF_DELETED_USER = "email_of_deleted_user"


MEANS: Final[dict[Skip, str]] = {
    Skip.NO_SUBJECT: "it has no subject",
    Skip.SUBJECT_UNUSABLE: "no token can have its subject: it is too long, or has control characters",
    Skip.SUBJECT_REPEATED: "its subject is in the export before",
    Skip.STATUS_UNKNOWN: "the word for its status is unknown",
    Skip.VALUE_UNUSABLE: "its tenant or a role is empty or has control characters",
    Skip.EMAIL_REPEATED: "its e-mail address is in the export before, with another subject",
    Skip.EXISTS: "its identity has a user",
    Skip.USER_DELETED: "its identity is that of a deleted user",
    Skip.EMAIL_TAKEN: "its e-mail address is that of another user",
    Skip.EMAIL_OF_DELETED_USER: "its e-mail address is that of a deleted user",
}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A user of an export who is not created."""

    line: int
    subject: str | None
    why: Skip
    user: str | None = None
    """The id of the user who stands in the way."""
    before: int | None = None
    """The line of the export that stands in the way."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A user who can be created as far as the export tells."""

    line: int
    new: NewUser


class Candidates:
    """Takes the accounts of an export, in order. Each method may raise `ScratchFailed`."""

    def __init__(self, database: sqlite3.Connection, *, tenant: str | None, roles: Sequence[str]) -> None:
        """`tenant` and `roles` are those of each user, unless the export has a tenant for it."""
        self._database = database
        self._tenant = tenant
        self._roles = tuple(roles)
        database.executescript(_TABLES)

    def batches(
        self, accounts: Iterator[Account], size: int
    ) -> Iterator[tuple[list[Candidate], list[Skipped]]]:
        """Yield those who can be created, and the others, of each `size` accounts."""
        while batch := list(islice(accounts, size)):
            candidates: list[Candidate] = []
            skipped: list[Skipped] = []
            self._database.execute("BEGIN")
            for account in batch:
                found = self._judge(account)
                if isinstance(found, Skipped):
                    skipped.append(found)
                else:
                    candidates.append(found)
            self._database.execute("COMMIT")
            yield candidates, skipped

    def _judge(self, account: Account) -> Candidate | Skipped:
        line, subject = account.line, account.subject
        if subject is None:
            return Skipped(line, None, Skip.NO_SUBJECT)
        if len(subject) > MAX_SUBJECT_CHARACTERS or not is_clean(subject):
            return Skipped(line, subject, Skip.SUBJECT_UNUSABLE)
        if (before := self._first("subjects", "subject", subject, line)) is not None:
            return Skipped(line, subject, Skip.SUBJECT_REPEATED, before=before)
        if account.status is None:
            return Skipped(line, subject, Skip.STATUS_UNKNOWN)
        tenant = self._tenant if account.tenant is None else account.tenant
        roles = tuple(dict.fromkeys((*self._roles, *account.roles)))
        if not all(is_clean(text) for text in (*roles, *([] if tenant is None else [tenant]))):
            return Skipped(line, subject, Skip.VALUE_UNUSABLE)
        email, name = account.email, account.name
        # A deleted user needs no address, and may have one that another user has now.
        unusable = email is not None and not (is_clean(email) and _EMAIL.fullmatch(email))
        if unusable or account.status is UserStatus.DELETED:
            email = None
        if email is not None:
            before = self._first("addresses", "email", email.lower(), line)
            if before is not None:
                return Skipped(line, subject, Skip.EMAIL_REPEATED, before=before)
        if name is not None and not is_clean(name):
            name = None
        return Candidate(line, NewUser(subject, account.status, tenant, email, name, roles))

    def _first(self, table: str, column: str, value: str, line: int) -> int | None:
        """Remember a value; return the line that has it already."""
        added = self._database.execute(
            f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT DO NOTHING",  # noqa: S608 -- a constant
            (value, line),
        )
        if added.rowcount:
            return None
        (before,) = self._database.execute(
            f"SELECT line FROM {table} WHERE {column} = ?",  # noqa: S608 -- constants
            (value,),
        ).fetchone()
        return int(before)


def held(candidates: Iterable[Candidate], holders: Iterable[Holder | None]) -> Iterator[Skipped]:
    """Yield the candidates whom another user stands in the way."""
    for candidate, holder in zip(candidates, holders, strict=True):
        if holder is None:
            continue
        deleted = holder.status is UserStatus.DELETED
        if holder.by_email:
            why = Skip.EMAIL_OF_DELETED_USER if deleted else Skip.EMAIL_TAKEN
        else:
            # A user who is deleted on both sides is there as it should be.
            gone = deleted and candidate.new.status is not UserStatus.DELETED
            why = Skip.USER_DELETED if gone else Skip.EXISTS
        yield Skipped(candidate.line, candidate.new.subject, why, user=holder.user)
