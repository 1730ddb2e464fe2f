"""Looks at a database of a test, as `gateway adopt` does."""

from collections.abc import Iterable

import asyncpg

from gateway.reconcile.adopt.subjects import SubjectSample
from gateway.reconcile.adopt.survey import Survey, survey
from gateway.stores.postgres.inspection.session import inspection


def sample_of(subjects: Iterable[str]) -> SubjectSample:
    sample = SubjectSample()
    sample.add_subjects(subjects)
    return sample


async def look(
    dsn: str, subjects: Iterable[str] | None = None, *, issuer: str | None = None, limit: float = 5.0
) -> Survey:
    sample = None if subjects is None else sample_of(subjects)
    async with inspection(dsn, statement_timeout=limit) as database:
        return await survey(database, sample, issuer=issuer)


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
