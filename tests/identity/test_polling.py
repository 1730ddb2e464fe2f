"""What one look of `changes: poll` compares, and what it reports."""

from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from gateway.core.model import StoreUnavailable, Tier, User, UserStatus
from gateway.identity.source_feed import Polling
from gateway.stores.postgres.change_stream.listener import Changed, Everything
from gateway.stores.postgres.source.feed import Feed
from gateway.stores.postgres.source.polling import Poller
from gateway.stores.redis.user_documents import CachedUser, decode, encode

ISS = "https://idp.example.com/"
ACTIVE, SUSPENDED = (User("1", status) for status in (UserStatus.ACTIVE, UserStatus.SUSPENDED))
DIGESTS = {UserStatus.ACTIVE: 1, UserStatus.SUSPENDED: 2}


class Tables:
    """A user whose state changes between two questions: each takes the next state, and the last one stays."""

    def __init__(self, *states: User) -> None:
        self._states = list(states)
        self.version = 0

    def _next(self) -> User:
        self.version += 1
        return self._states.pop(0) if len(self._states) > 1 else self._states[0]

    async def begin(self) -> Everything:
        return Everything(0)

    async def changes(self) -> None:
        return None

    async def digests(self, _: str, subjects: Sequence[str]) -> tuple[dict[str, int | None], int]:
        state = self._next()
        return dict.fromkeys(subjects, DIGESTS[state.status]), self.version

    async def users(
        self, _: str, subjects: Sequence[str]
    ) -> tuple[dict[str, tuple[User | None, int | None]], int]:
        state = self._next()
        return dict.fromkeys(subjects, (state, DIGESTS[state.status])), self.version


class Documents:
    """Redis, with the document of one user."""

    def __init__(self, user: User) -> None:
        self.document = encode(CachedUser(user, 0.0, ""), ISS)
        self.away = False

    async def cached_users(self) -> AsyncIterator[Sequence[tuple[str, str, bytes]]]:
        if self.away:
            raise StoreUnavailable(Tier.REDIS, "timed out")
        yield [("main", "ann", self.document)]

    def cached_user(self, document: bytes, iss: str) -> CachedUser | None:
        return decode(document, iss)


class Lease:
    """Holds the lease for so many looks, and keeps what is reported."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.reported: list[Changed | Everything] = []
        self.ages: list[float | None] = []

    async def hold(self, _: float, age: float | None = None) -> bool:
        self.ages.append(age)
        self.looks -= 1
        return self.looks > 0

    async def report(self, change: Changed | Everything) -> None:
        self.reported.append(change)


def polling(lease: Lease, tables: Tables, documents: Documents) -> Polling:
    poller = cast("Poller", tables)
    return Polling(cast("Feed", lease), poller, documents, {"main": ISS}, interval=0.0, compare=0.0)


@pytest.mark.parametrize("looks", [2, 3])
async def test_a_change_that_comes_again_is_found(
    looks: int,
) -> None:
    # The first look asks twice: suspended, and active again. Then the user is suspended for good.
    lease, tables = Lease(looks), Tables(SUSPENDED, ACTIVE, SUSPENDED)
    await polling(lease, tables, Documents(ACTIVE)).serve()
    everything, *changes = lease.reported
    assert everything == Everything(0)
    assert [change.identities for change in changes if isinstance(change, Changed)] == [((ISS, "ann"),)] * (
        looks - 1
    )


async def test_a_report_has_the_version_of_what_was_compared() -> None:
    lease, tables = Lease(1), Tables(ACTIVE, SUSPENDED)
    await polling(lease, tables, Documents(ACTIVE)).serve()
    assert lease.reported[-1] == Changed(((ISS, "ann"),), (), 2)


async def test_an_equal_user_is_not_reported() -> None:
    lease = Lease(3)
    await polling(lease, Tables(ACTIVE), Documents(ACTIVE)).serve()
    assert lease.reported == [Everything(0)]
    assert None not in lease.ages


async def test_a_look_without_redis_proves_nothing() -> None:
    lease, documents = Lease(2), Documents(ACTIVE)
    documents.away = True
    await polling(lease, Tables(ACTIVE), documents).serve()
    assert lease.ages == [None, None]
