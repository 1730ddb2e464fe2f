import hashlib
from collections.abc import AsyncIterator, Iterable

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import StoreUnavailable, UserStatus
from gateway.core.text.spelling import difference
from gateway.reconcile.denied_subjects import DeniedSubjects, Refusal
from gateway.reconcile.orphans import (
    Comparison,
    Finding,
    KnownIdentity,
    NotActive,
    Repeated,
    ScratchFailed,
    SpeltDifferently,
    WithoutSubject,
    WithoutUser,
    known_identities,
    scratch,
)
from gateway.stores.postgres.database import Postgres
from gateway.telemetry.logs import hash_subject

ISS = "https://idp.example.com/"
OTHER = "https://other.example.com/"


@pytest.fixture
async def postgres(dsn: str) -> AsyncIterator[Postgres]:
    store = Postgres(dsn, pool_max=1, statement_timeout=10)
    yield store
    await store.close()


async def fill(dsn: str, rows: int) -> None:
    """Add users with the subjects user-1 and so on."""
    connection = await asyncpg.connect(dsn)
    # No listener receives the changes, and a notification takes longer than the change.
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(
        "INSERT INTO users (id, status) SELECT md5('u' || n)::uuid, 'active' FROM generate_series(1, $1) n",
        rows,
    )
    await connection.execute(
        "INSERT INTO identities (issuer, subject, user_id)"
        " SELECT $2, 'user-' || n, md5('u' || n)::uuid FROM generate_series(1, $1) n",
        rows, ISS,
    )  # fmt: skip
    await connection.close()


def known(subject: str, status: str = "active", issuer: str = ISS) -> KnownIdentity:
    return KnownIdentity(issuer, subject, f"user of {subject}", status)


def compare(exported: Iterable[str], identities: Iterable[KnownIdentity]) -> list[Finding]:
    with scratch() as database:
        comparison = Comparison(database)
        comparison.add_subjects(enumerate(exported, 2))
        comparison.add_identities(identities)
        comparison.compare()
        return list(comparison.findings())


def test_the_same_on_both_sides_finds_nothing() -> None:
    assert compare(["ann", "bob"], [known("bob"), known("ann")]) == []


def test_nothing_on_either_side() -> None:
    assert compare([], []) == []


def test_each_kind_of_finding() -> None:
    found = compare(
        ["ann", "Bob", "eve", "ann", "sue", "dan"],
        [known("ann"), known("bob"), known("tom"), known("sue", "suspended"), known("del", "deleted")],
    )

    assert found == [
        SpeltDifferently("Bob", 3, "bob", "user of bob", UserStatus.ACTIVE, "case"),
        Repeated("ann", 2, 2),
        WithoutUser("dan", 7),
        WithoutUser("eve", 4),
        WithoutSubject("tom", "user of tom"),
        NotActive("sue", "user of sue", UserStatus.SUSPENDED, exported=True),
        NotActive("del", "user of del", UserStatus.DELETED, exported=False),
    ]


def test_a_subject_in_its_own_spelling_is_no_other_users() -> None:
    assert compare(["ann", "Ann"], [known("ann")]) == [WithoutUser("Ann", 3)]


def test_another_providers_user_is_not_spelt_differently() -> None:
    assert compare(["github|7"], [known("auth0|7")]) == [
        WithoutUser("github|7", 2),
        WithoutSubject("auth0|7", "user of auth0|7"),
    ]


def test_a_subject_may_resemble_several() -> None:
    found = compare(["7"], [known("auth0|7"), known("ad|7", "locked")])

    assert [(each.identity, each.difference) for each in found if isinstance(each, SpeltDifferently)] == [
        ("ad|7", "prefix"),
        ("auth0|7", "prefix"),
    ]
    assert len(found) == 2


def test_subjects_with_anything_in_them() -> None:
    odd = ["a\0b", "'; DROP TABLE known; --", "\N{PILE OF POO}", "a,b\n", " "]

    assert compare(odd, [known(subject) for subject in odd]) == []
    assert {each.subject for each in compare(odd, []) if isinstance(each, WithoutUser)} == set(odd)


texts = st.lists(st.text(alphabet="aA1| %2", min_size=1, max_size=4), max_size=12)


@given(texts, st.sets(st.text(alphabet="aA1| %2", min_size=1, max_size=4), max_size=12))
def test_it_finds_what_a_comparison_of_each_with_each_finds(exported: list[str], table: set[str]) -> None:
    found = compare(exported, map(known, sorted(table)))

    lone, unmatched = set(exported) - table, table - set(exported)
    pairs = {(a, b, difference(a, b)) for a in lone for b in unmatched if difference(a, b)}
    assert {(f.subject, f.identity, f.difference) for f in found if isinstance(f, SpeltDifferently)} == pairs
    assert {f.subject for f in found if isinstance(f, WithoutUser)} == lone - {a for a, _, _ in pairs}
    assert {f.subject for f in found if isinstance(f, WithoutSubject)} == unmatched - {b for _, b, _ in pairs}
    assert {f.subject: f.times for f in found if isinstance(f, Repeated)} == {
        subject: exported.count(subject) for subject in exported if exported.count(subject) > 1
    }


def test_a_thousand_subjects_like_a_thousand_identities_do_not_take_for_ever() -> None:
    found = compare((f"p{n}|7" for n in range(1000)), [known(f"q{n}|7") for n in range(1000)])

    assert len(found) == 2000


def test_a_full_disk_is_reported() -> None:
    def fill_up() -> None:
        with scratch() as database:
            database.execute("PRAGMA max_page_count = 50")
            Comparison(database).add_subjects((n, "x" * 200) for n in range(10_000))

    with pytest.raises(ScratchFailed, match="full"):
        fill_up()


async def test_reads_the_identities_of_one_issuer(dsn: str, postgres: Postgres) -> None:
    await fill(dsn, 12_000)
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE users SET status = 'locked' WHERE id = md5('u7')::uuid")
    await connection.execute(
        "INSERT INTO identities SELECT $1, subject, user_id FROM identities LIMIT 5", OTHER
    )
    await connection.close()

    batches = [batch async for batch in known_identities(postgres, ISS)]

    rows = {row.subject: row for batch in batches for row in batch}
    assert len(rows) == sum(map(len, batches)) == 12_000
    assert max(map(len, batches)) <= 5_000
    user = hashlib.md5(b"u7", usedforsecurity=False).hexdigest()
    assert rows["user-7"].status == "locked"
    assert rows["user-7"].user.replace("-", "") == user
    assert {row.status for name, row in rows.items() if name != "user-7"} == {"active"}
    assert len([row async for batch in known_identities(postgres) for row in batch]) == 12_005


async def test_needs_no_right_but_to_read(dsn: str) -> None:
    await fill(dsn, 3)
    reader = f"reader_{hashlib.sha256(dsn.encode()).hexdigest()[:8]}"
    connection = await asyncpg.connect(dsn)
    database = await connection.fetchval("SELECT current_database()")
    try:
        await connection.execute(
            f'CREATE ROLE {reader}; REVOKE TEMP ON DATABASE "{database}" FROM PUBLIC;'
            f" GRANT SELECT ON users, identities TO {reader}"
        )
        await connection.execute(f'ALTER DATABASE "{database}" SET role TO {reader}')
        postgres = Postgres(dsn, statement_timeout=10)
        async with postgres.connection() as lent:
            assert await lent.fetchval("SELECT current_user") == reader

        rows = [row async for batch in known_identities(postgres, ISS) for row in batch]

        assert len(rows) == 3
        await postgres.close()
    finally:
        await connection.execute(
            f'ALTER DATABASE "{database}" RESET role; DROP OWNED BY {reader}; DROP ROLE {reader}'
        )
        await connection.close()


async def test_missing_tables_are_reported(empty_dsn: str) -> None:
    postgres = Postgres(empty_dsn)

    with pytest.raises(StoreUnavailable, match="gateway migrate"):
        [batch async for batch in known_identities(postgres, ISS)]

    await postgres.close()


def denied(refusals: Iterable[Refusal], identities: Iterable[KnownIdentity]) -> list[tuple[object, ...]]:
    with scratch() as database:
        subjects = DeniedSubjects(database)
        subjects.add(refusals)
        subjects.recognise(identities)
        return [
            (
                each.issuer,
                each.subject,
                each.denials,
                each.first,
                each.last,
                each.nearest and (each.nearest.issuer, each.nearest.subject, each.nearest.difference),
            )
            for each in subjects.subjects([("main", ISS), ("other", OTHER)])
        ]


def refusal(subject: str, at: str = "2026-01-01T00:00:00Z", issuer: str = "main") -> Refusal:
    return Refusal(issuer, hash_subject(subject), at)


def test_denials_are_counted_by_subject_and_issuer() -> None:
    refusals = [
        refusal("ann", "2026-01-02T00:00:00Z"),
        refusal("ann", "2026-01-01T00:00:00Z"),
        refusal("ann", "2026-01-03T00:00:00Z"),
        refusal("ann", issuer="other"),
    ]

    assert denied(refusals, []) == [
        ("main", None, 3, "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z", None),
        ("other", None, 1, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", None),
    ]


@pytest.mark.parametrize(
    ("subject", "identities", "nearest"),
    [
        ("ann", [known("ann")], (ISS, "ann", None)),
        ("ann", [known("ann", issuer=OTHER)], (OTHER, "ann", None)),
        ("ann", [known("Ann")], (ISS, "Ann", "case")),
        ("7", [known("auth0|7")], (ISS, "auth0|7", "prefix")),
        ("ann", [known("ann", issuer=OTHER), known("Ann"), known("ann")], (ISS, "ann", None)),
        ("ann", [known("ann", issuer=OTHER), known("Ann")], (ISS, "Ann", "case")),
        ("ann", [known("ANN", issuer=OTHER), known("ann", issuer=OTHER)], (OTHER, "ann", None)),
    ],
)
def test_a_hash_is_recognised_by_the_nearest_identity(
    subject: str, identities: list[KnownIdentity], nearest: tuple[object, ...]
) -> None:
    (found,) = denied([refusal(subject)], identities)

    assert found[1] == subject
    assert found[-1] == nearest


def test_a_subject_in_the_log_is_kept() -> None:
    at = "2026-01-01T00:00:00Z"

    assert denied([Refusal("main", hash_subject("eve"), at, "eve")], [known("ann")]) == [
        ("main", "eve", 1, at, at, None)
    ]
