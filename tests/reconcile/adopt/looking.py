"""Looks at a database of a test, as `gateway adopt` does."""

from collections.abc import Iterable

from gateway.reconcile.adopt.subjects import SubjectSample
from gateway.reconcile.adopt.survey import Survey, survey
from gateway.stores.postgres.inspection.session import inspection
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.postgres.source.definition import UserSource
from tests.systems.sources import ISSUERS, source_of


def sample_of(subjects: Iterable[str]) -> SubjectSample:
    sample = SubjectSample()
    sample.add_subjects(subjects)
    return sample


async def look(
    dsn: str,
    subjects: Iterable[str] | None = None,
    *,
    issuer: str | None = None,
    limit: float = 5.0,
    readable: bool = True,
) -> Survey:
    """Look at a database. What is proposed is tried on it, if the tables are `readable`."""
    sample = None if subjects is None else sample_of(subjects)
    async with inspection(dsn, statement_timeout=limit) as database:
        found = await survey(database, sample, issuer=issuer)
    if found.source is not None:
        source = source_of(found.source)
        if readable:
            await _try(source, dsn)
    return found


async def _try(source: UserSource, dsn: str) -> None:
    """Run the statements of requests, which Postgres parses."""
    database = SourceDatabase(source, ISSUERS, dsn, statement_timeout=10)
    try:
        await database.ping()
    finally:
        await database.close()
