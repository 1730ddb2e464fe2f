"""Finds the identities of subjects that were refused as unknown. Logs have only hashes of subjects."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.core.model import UserStatus
from gateway.core.text.spelling import Difference, spellings
from gateway.reconcile.orphans import KnownIdentity
from gateway.telemetry.logs import hash_subject

_TABLES: Final = """
CREATE TABLE denied (
    hash TEXT NOT NULL, issuer TEXT NOT NULL, subject TEXT,
    denials INTEGER NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL,
    PRIMARY KEY (hash, issuer)
) WITHOUT ROWID;
CREATE TABLE alike (
    hash TEXT NOT NULL, issuer TEXT NOT NULL, subject TEXT NOT NULL, spelling TEXT NOT NULL,
    differs TEXT, user TEXT NOT NULL, status TEXT NOT NULL
);
CREATE INDEX alike_hash ON alike (hash);
"""

# RFC 3339 in UTC and in one format, so that texts sort like times.
_COUNT: Final = """
INSERT INTO denied (hash, issuer, subject, denials, first, last) VALUES (?, ?, ?, 1, ?, ?)
ON CONFLICT (hash, issuer) DO UPDATE SET
    denials = denials + 1, first = min(first, excluded.first), last = max(last, excluded.last),
    subject = coalesce(subject, excluded.subject)
"""

_RECOGNISE: Final = """
INSERT INTO alike (hash, issuer, subject, spelling, differs, user, status)
SELECT ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM denied WHERE hash = ?)
"""

_DENIED: Final = """
SELECT hash, issuer, subject, denials, first, last FROM denied ORDER BY denials DESC, issuer, hash
"""

# The nearest first: the same identity, another spelling, another issuer. `iss` is NULL for an issuer
# that is not configured.
_NEAREST: Final = """
SELECT issuer, subject, spelling, differs, user, status FROM alike WHERE hash = ?
ORDER BY issuer IS NOT ?, differs IS NOT NULL, status <> 'active', issuer, subject LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One denial because there was no user."""

    issuer: str
    """The configured name."""
    subject_hash: str
    """The hash by `hash_subject`."""
    at: str
    """RFC 3339, in UTC."""
    subject: str | None = None
    """None if the log has only the hash."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The identity that is most similar to a refused subject."""

    issuer: str
    """Its `iss`."""
    subject: str
    user: str
    status: UserStatus
    difference: Difference | None
    """None if the spelling does not differ."""


@dataclass(frozen=True, slots=True)
class DeniedSubject:
    """A subject that was refused as unknown, with its denials."""

    issuer: str
    """The configured name."""
    subject_hash: str
    subject: str | None
    """None if no identity is similar."""
    denials: int
    first: str
    """RFC 3339, as is `last`."""
    last: str
    nearest: Nearest | None


class DeniedSubjects:
    """Counts denials by subject. First add the denials, then the identities, then read the result.

    Each method may raise `ScratchFailed`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.denials = 0
        database.executescript(_TABLES)

    def add(self, refusals: Iterable[Refusal]) -> None:
        rows = ((each.subject_hash, each.issuer, each.subject, each.at, each.at) for each in refusals)
        self._database.execute("BEGIN")
        self.denials += self._database.executemany(_COUNT, rows).rowcount
        self._database.execute("COMMIT")

    def recognise(self, identities: Iterable[KnownIdentity]) -> None:
        """Compare identities, in each likely spelling, with the hashes that were added."""
        self._database.execute("BEGIN")
        self._database.executemany(_RECOGNISE, _hashes(identities))
        self._database.execute("COMMIT")

    def subjects(self, issuers: Iterable[tuple[str, str]]) -> Iterator[DeniedSubject]:
        """Yield the subjects, the most denied first. `issuers` are configured names, each with its `iss`."""
        named = dict(issuers)
        for hashed, issuer, subject, denials, first, last in self._database.execute(_DENIED):
            nearest = None
            row = self._database.execute(_NEAREST, (hashed, named.get(issuer))).fetchone()
            if row is not None:
                iss, known, subject, differs, user, status = row
                nearest = Nearest(iss, known, user, UserStatus(status), differs)
            yield DeniedSubject(issuer, hashed, subject, denials, first, last, nearest)


def _hashes(identities: Iterable[KnownIdentity]) -> Iterator[tuple[str | None, ...]]:
    for issuer, subject, user, status in identities:
        hashed = hash_subject(subject)
        yield hashed, issuer, subject, subject, None, user, status, hashed
        for spelling, differs in spellings(subject):
            hashed = hash_subject(spelling)
            yield hashed, issuer, subject, spelling, differs, user, status, hashed
