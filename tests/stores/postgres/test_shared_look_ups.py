"""Look-ups that share a query, on a real Postgres."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.core.model import Identity, RecordUnusable, StoreUnavailable
from gateway.stores.postgres import look_ups
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.users import UserDirectory
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.postgres.pool import Connection
from gateway.stores.postgres.shared_look_ups import AT_ONCE, MAX_BATCH
from tests.stores.cable import Cable
from tests.stores.examples import ISS


class Queries:
    """The queries that are sent, each with its identities; and what holds their answers back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[list[str]] = []
        self.released = asyncio.Event()
        self.released.set()
        self._arrived = asyncio.Condition()
        find_all = look_ups.find_all

        async def recorded(
            connection: Connection, identities: list[Identity]
        ) -> list[FoundUser | RecordUnusable]:
            found = await find_all(connection, identities)
            self.sent.append([each.subject for each in identities])
            async with self._arrived:
                self._arrived.notify_all()
            await self.released.wait()
            return found

        monkeypatch.setattr(look_ups, "find_all", recorded)

    async def arrived(self, number: int) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.sent) >= number)


@pytest.fixture
async def postgres(dsn: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(dsn, statement_timeout=10)
    await postgres.ping()
    yield postgres
    await postgres.close()


@pytest.fixture
def queries(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Queries:
    return Queries(monkeypatch)


def looked_up(postgres: Postgres, subject: str) -> "asyncio.Task[FoundUser]":
    return asyncio.create_task(postgres.find_user(Identity(ISS, subject)))


async def test_look_ups_that_begin_together_share_a_query_and_get_their_own_users(
    postgres: Postgres, queries: Queries
) -> None:
    directory = UserDirectory(postgres)
    users = {subject: (await directory.add(Identity(ISS, subject))).user for subject in ("ann", "bob", "eve")}
    await directory.add(Identity("https://elsewhere.example.com/", "dan"))
    subjects = ["bob", "absent", "ann", "dan", "ann", "eve"]
    found = await asyncio.gather(*(looked_up(postgres, subject) for subject in subjects))
    assert [each.user for each in found] == [users.get(subject) for subject in subjects]
    assert queries.sent == [subjects]
    assert len({each.horizon for each in found}) == 1


async def test_look_ups_that_begin_while_queries_are_in_flight_share_the_next(
    postgres: Postgres, queries: Queries
) -> None:
    queries.released.clear()
    waiting = []
    for number in range(AT_ONCE):
        waiting.append(looked_up(postgres, f"first-{number}"))
        await queries.arrived(number + 1)
    waiting += [looked_up(postgres, f"{number}") for number in range(MAX_BATCH + 1)]
    await asyncio.sleep(0)
    assert len(queries.sent) == AT_ONCE
    queries.released.set()
    assert [(await each).user for each in waiting] == [None] * (AT_ONCE + MAX_BATCH + 1)
    assert sorted(map(len, queries.sent)) == [1] * (AT_ONCE + 1) + [MAX_BATCH]


async def test_a_query_sees_commits_before_the_look_up(postgres: Postgres, queries: Queries) -> None:
    queries.released.clear()
    first = looked_up(postgres, "ann")
    await queries.arrived(1)
    user = (await UserDirectory(postgres).add(Identity(ISS, "ann"))).user
    second = looked_up(postgres, "ann")
    await queries.arrived(2)
    queries.released.set()
    assert ((await first).user, (await second).user) == (None, user)


@pytest.mark.parametrize("odd", ["a\x00b", "a\ud800b"])
async def test_a_subject_that_postgres_cannot_hold_fails_no_other(
    postgres: Postgres, queries: Queries, odd: str
) -> None:
    user = (await UserDirectory(postgres).add(Identity(ISS, "ann"))).user
    ann, bad, absent = await asyncio.gather(
        *(looked_up(postgres, subject) for subject in ("ann", odd, "absent")), return_exceptions=True
    )
    assert isinstance(ann, FoundUser)
    assert isinstance(absent, FoundUser)
    assert (ann.user, absent.user) == (user, None)
    assert isinstance(bad, StoreUnavailable)


async def test_a_row_that_cannot_be_read_fails_no_other(postgres: Postgres, queries: Queries) -> None:
    directory = UserDirectory(postgres)
    ann, bob = [(await directory.add(Identity(ISS, subject))).user for subject in ("ann", "bob")]
    async with postgres.connection() as connection:
        await connection.execute("ALTER TABLE users DROP CONSTRAINT users_status_known")
        await connection.execute("UPDATE users SET status = 'zombie' WHERE id = $1::uuid", ann.id)
    bad, good = await asyncio.gather(
        looked_up(postgres, "ann"), looked_up(postgres, "bob"), return_exceptions=True
    )
    assert isinstance(bad, RecordUnusable)
    assert isinstance(good, FoundUser)
    assert good.user == bob


async def test_a_failure_reaches_every_caller_with_an_exception_of_its_own(dsn: str) -> None:
    async with Cable(dsn) as cable:
        await cable.pull()
        postgres = Postgres(cable.url)
        waiting = [looked_up(postgres, f"{number}") for number in range(3)]
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(failure) for failure in failures] == [str(failures[0])] * 3
        assert len(set(map(id, failures))) == 3
        assert isinstance(failures[0], StoreUnavailable)
        assert isinstance(failures[0].__cause__, OSError)
        await cable.plug()
        assert (await looked_up(postgres, "ann")).user is None
        await postgres.close()


async def test_a_caller_that_gives_up_takes_no_answer_along(postgres: Postgres, queries: Queries) -> None:
    queries.released.clear()
    leaving, staying = looked_up(postgres, "ann"), looked_up(postgres, "bob")
    await queries.arrived(1)
    leaving.cancel()
    queries.released.set()
    assert (await staying).user is None


@pytest.mark.parametrize("sent", [False, True])
async def test_closing_lets_no_caller_wait_for_ever(postgres: Postgres, queries: Queries, sent: bool) -> None:
    queries.released.clear()
    waiting = [looked_up(postgres, "ann")]
    await asyncio.sleep(0)
    if sent:
        await queries.arrived(1)
        waiting += [looked_up(postgres, f"{number}") for number in range(AT_ONCE + 1)]
        await asyncio.sleep(0)
    await postgres.close()
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(failure, StoreUnavailable) for failure in failures)
