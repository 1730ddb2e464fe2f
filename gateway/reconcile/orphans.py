"""Compares the subjects of an identity provider with the identities in the table.

The comparison uses a temporary SQLite database on this machine, in bounded memory. It needs no write
permission in Postgres, which it reads once, with one query. SQLite deletes the database by itself.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, TypeAlias

from gateway.core.model import UserStatus
from gateway.core.text.spelling import Difference, difference, normal_form
from gateway.core.tokens.claims import is_clean
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.source.directory.users import SourceDirectory

_BATCH: Final = 5_000
_READ_TIMEOUT: Final = 600.0
"""Seconds for one batch. The first batch waits for the join of users and identities."""
_CACHE_KIB: Final = 16 * 1024

# Both sides as they were read.
_TABLES: Final = """
CREATE TABLE exported (subject TEXT NOT NULL, line INTEGER NOT NULL);
CREATE TABLE known (subject TEXT NOT NULL, user TEXT NOT NULL, status TEXT NOT NULL);
"""

# Each statement reads its indexes sequentially: for random access, the cache would be too small.
# At most 100 identities are compared with a subject, so that a table of similar subjects stays fast.
_COMPARE: Final = (
    "CREATE INDEX exported_subject ON exported (subject, line)",
    "CREATE INDEX known_subject ON known (subject, status)",
    """
    CREATE TABLE lone_subjects AS
    SELECT subject, min(line) AS line, normal_form(subject) AS normal FROM exported
    WHERE NOT EXISTS (SELECT 1 FROM known WHERE known.subject = exported.subject)
    GROUP BY subject ORDER BY normal, line
    """,
    """
    CREATE TABLE lone_identities AS
    SELECT subject, user, status, normal_form(subject) AS normal FROM known
    WHERE NOT EXISTS (SELECT 1 FROM exported WHERE exported.subject = known.subject)
    GROUP BY subject ORDER BY normal, subject
    """,
    "CREATE INDEX lone_identities_normal ON lone_identities (normal)",
    """
    CREATE TABLE pairs AS
    SELECT s.rowid AS one, i.rowid AS other, difference(s.subject, i.subject) AS differs
    FROM lone_subjects s JOIN lone_identities i
    ON i.rowid IN (SELECT rowid FROM lone_identities WHERE normal = s.normal LIMIT 100)
    WHERE differs IS NOT NULL
    """,
    "CREATE INDEX pairs_one ON pairs (one)",
    "CREATE INDEX pairs_other ON pairs (other)",
)

_SPELT_DIFFERENTLY: Final = """
SELECT s.subject, s.line, i.subject, i.user, i.status, differs
FROM pairs JOIN lone_subjects s ON s.rowid = one JOIN lone_identities i ON i.rowid = other
ORDER BY one, other
"""

_REPEATED: Final = """
SELECT subject, min(line), count(*) FROM exported GROUP BY subject HAVING count(*) > 1
"""

_WITHOUT_USER: Final = """
SELECT subject, line FROM lone_subjects WHERE rowid NOT IN (SELECT one FROM pairs) ORDER BY rowid
"""

_WITHOUT_SUBJECT: Final = """
SELECT subject, user FROM lone_identities
WHERE status = 'active' AND rowid NOT IN (SELECT other FROM pairs) ORDER BY rowid
"""

_NOT_ACTIVE: Final = """
SELECT subject, user, status, EXISTS (SELECT 1 FROM exported WHERE exported.subject = known.subject)
FROM known
WHERE status <> 'active'
    AND subject NOT IN (SELECT i.subject FROM pairs JOIN lone_identities i ON i.rowid = other)
ORDER BY known.rowid
"""


class KnownIdentity(NamedTuple):
    """A row of `identities` with its user. A tuple, because there may be millions."""

    issuer: str
    """The `iss`."""
    subject: str
    user: str
    """The user's id."""
    status: str
    """A `UserStatus`."""


@dataclass(frozen=True, slots=True)
class SpeltDifferently:
    """A subject without a user, and an identity without a subject, that differ only in spelling."""

    kind: ClassVar = "spelt_differently"
    subject: str
    line: int
    """The first line with the subject in the export, counted from 1."""
    identity: str
    """The subject in the table."""
    user: str
    status: UserStatus
    difference: Difference


@dataclass(frozen=True, slots=True)
class Repeated:
    """A subject that the export has more than once."""

    kind: ClassVar = "repeated"
    subject: str
    line: int
    times: int


@dataclass(frozen=True, slots=True)
class WithoutUser:
    """A subject without an identity of the issuer, in any spelling."""

    kind: ClassVar = "without_user"
    subject: str
    line: int


@dataclass(frozen=True, slots=True)
class WithoutSubject:
    """An active user's identity that is not in the export, in any spelling."""

    kind: ClassVar = "without_subject"
    subject: str
    user: str


@dataclass(frozen=True, slots=True)
class NotActive:
    """A user who is not active, so the gateway refuses its tokens."""

    kind: ClassVar = "not_active"
    subject: str
    user: str
    status: UserStatus
    exported: bool
    """Whether the export has the subject."""


Finding: TypeAlias = SpeltDifferently | Repeated | WithoutUser | WithoutSubject | NotActive


class ScratchFailed(Exception):
    """The temporary database cannot be written, for example because the disk is full."""


@contextmanager
def scratch() -> Iterator[sqlite3.Connection]:
    """Open a temporary database. Data that does not fit into its cache goes to the disk.

    Raises `ScratchFailed` when SQLite fails.
    """
    try:
        # With the empty name, SQLite creates a private temporary file when it needs one.
        connection = sqlite3.connect("", isolation_level=None)
    except sqlite3.Error as error:
        raise ScratchFailed(str(error)) from error
    try:
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA temp_store = FILE")
        yield connection
    except sqlite3.Error as error:
        raise ScratchFailed(str(error)) from error
    finally:
        connection.close()


async def known_identities(
    postgres: Postgres,
    issuer: str | None = None,
    *,
    by_email: bool = False,
    source: SourceDirectory | None = None,
) -> AsyncIterator[list[KnownIdentity]]:
    """Read the identities of an issuer (its `iss`), or all identities, in batches of one snapshot.

    With `by_email`, the user's e-mail address in small letters stands in the place of the subject. `source`
    has the users, if they are not in the gateway's own tables. Raises `StoreUnavailable`.
    """
    if source is not None:
        rows = source.every_identity(issuer, batch=_BATCH, seconds=_READ_TIMEOUT, by_email=by_email)
        async for each in rows:
            yield [KnownIdentity(*row) for row in each]
        return
    subject = "coalesce(lower(u.email), i.subject)" if by_email else "i.subject"
    async with postgres.connection() as connection, connection.transaction(readonly=True):
        await connection.execute(f"SET LOCAL statement_timeout = {round(_READ_TIMEOUT * 1000)}")
        cursor = await connection.cursor(
            f"SELECT i.issuer, {subject}, u.id::text, u.status"  # noqa: S608 -- one of two constants
            " FROM identities i JOIN users u ON u.id = i.user_id WHERE $1::text IS NULL OR i.issuer = $1",
            issuer,
        )
        while batch := await cursor.fetch(_BATCH, timeout=_READ_TIMEOUT):
            yield [KnownIdentity(*row) for row in batch]


async def count_known(postgres: Postgres, issuer: str, subjects: list[str]) -> int:
    """Return how many of these subjects are identities of an issuer. Raises `StoreUnavailable`."""
    async with postgres.connection() as connection:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM identities WHERE issuer = $1 AND subject = ANY ($2::text[])",
                issuer, [each for each in subjects if is_clean(each)],
            )
        )  # fmt: skip


class Comparison:
    """Compares two lists: first add both sides, then read the findings. May raise `ScratchFailed`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.subjects = 0
        """The number of rows in the export."""
        self.identities = 0
        database.executescript(_TABLES)
        database.create_function("normal_form", 1, normal_form, deterministic=True)
        database.create_function("difference", 2, difference, deterministic=True)

    def add_subjects(self, rows: Iterable[tuple[int, str]]) -> None:
        """Add subjects of the export, each after the number of its line."""
        added = self._add("INSERT INTO exported (line, subject) VALUES (?, ?)", rows)
        self.subjects += added

    def add_identities(self, rows: Iterable[KnownIdentity]) -> None:
        """Add identities of the export's issuer."""
        added = self._add(
            "INSERT INTO known (subject, user, status) VALUES (?, ?, ?)", (row[1:] for row in rows)
        )
        self.identities += added

    def _add(self, statement: str, rows: Iterable[tuple[object, ...]]) -> int:
        self._database.execute("BEGIN")
        added = self._database.executemany(statement, rows).rowcount
        self._database.execute("COMMIT")
        return added

    def compare(self) -> None:
        """Find the subjects on only one side, and those that differ in spelling."""
        for statement in _COMPARE:
            self._database.execute(statement)

    def findings(self) -> Iterator[Finding]:
        """Yield the findings, one kind after the other, in the order of `Finding`."""
        for subject, line, identity, user, status, differs in self._database.execute(_SPELT_DIFFERENTLY):
            yield SpeltDifferently(subject, line, identity, user, UserStatus(status), differs)
        for row in self._database.execute(_REPEATED):
            yield Repeated(*row)
        for row in self._database.execute(_WITHOUT_USER):
            yield WithoutUser(*row)
        for row in self._database.execute(_WITHOUT_SUBJECT):
            yield WithoutSubject(*row)
        for subject, user, status, exported in self._database.execute(_NOT_ACTIVE):
            yield NotActive(subject, user, UserStatus(status), bool(exported))
