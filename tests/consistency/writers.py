"""Writers that change which users are admitted, like any program: plain SQL, plain `SET` and `DEL`."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

import asyncpg
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests import tokens
from tests.consistency.history import ROW, Change, History, Store
from tests.consistency.tables import Tables
from tests.consistency.world import ISSUER_NAME, OWN, PREFIX, Person, World

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_STATUSES: Final[Mapping[str | None, str]] = {
    None: "active",
    "user_suspended": "suspended",
    "user_locked": "locked",
    "user_pending": "pending",
    "user_deleted": "deleted",
}
CLIENT_NAME: Final = "consistency"
"""What connections of the test itself are called in Redis."""
_PAUSE: Final = 0.3
"""Mean seconds between two turns of one writer."""
_TURNS: Final = (1, 1, 2, 3)
"""How many changes of one fact a turn may have: readers of the first are still reading at the second."""
_BREATHS: Final = (0.004, 0.1)
"""The most seconds between them, for links that are fast and for such that are slow."""
_IN_TRANSACTION: Final = 0.3
"""The share of changes that are committed some time after they were made."""
_LONGEST_TRANSACTION: Final = 0.2


@dataclass(frozen=True, slots=True)
class SqlFact:
    """Something in Postgres that can be said against tokens."""

    name: str
    jtis: frozenset[str]
    codes: tuple[str, ...]
    statement: Callable[[str | None], tuple[str, tuple[object, ...]]]
    """code → the statement that makes it so, and its values."""


@dataclass(frozen=True, slots=True)
class KeyFact:
    """A key in Redis that is said against tokens as long as it is there."""

    name: str
    jtis: frozenset[str]
    code: str
    key: str
    value: Callable[[], str]


def cast(
    count: int = 2, kinds: Collection[str] = (), tables: Tables = OWN
) -> tuple[list[Person], list[SqlFact], list[KeyFact]]:
    """Return `count` people of each kind, by default of every kind, and what will be changed about them.

    Of the bystanders, who are always there, nothing is.
    """
    people = [Person(f"bystander-{number}") for number in range(count)]
    sql: list[SqlFact] = []
    keys: list[KeyFact] = []
    for number in range(count):
        for kind, facts in _chosen(_SQL_FACTS, kinds):
            person = Person(f"{kind}-{number}")
            people.append(person)
            sql += facts(person, tables)
        for kind, fact in _chosen(_KEY_FACTS, kinds):
            person = Person(f"{kind}-{number}")
            people.append(person)
            keys.append(fact(person))
    return people, sql, keys


def _status(person: Person, tables: Tables) -> Iterator[SqlFact]:
    def statement(code: str | None) -> tuple[str, tuple[object, ...]]:
        return tables.set_status, (_STATUSES[code], person.id)

    codes = tuple(code for code in _STATUSES if code is not None)
    yield SqlFact(f"users.status of {person.subject}", frozenset(person.jtis), codes, statement)


def _valid_after(person: Person, tables: Tables) -> Iterator[SqlFact]:
    def statement(code: str | None) -> tuple[str, tuple[object, ...]]:
        return tables.undo_sign_out if code is None else tables.sign_out, (person.id,)

    name = f"users.tokens_valid_after of {person.subject}"
    yield SqlFact(name, frozenset(person.jtis), ("tokens_revoked_before",), statement)


def _identity(person: Person, tables: Tables) -> Iterator[SqlFact]:
    def statement(code: str | None) -> tuple[str, tuple[object, ...]]:
        if code is None:
            return tables.link, (tokens.ISSUER, person.subject, person.id)
        return tables.unlink, (tokens.ISSUER, person.subject)

    yield SqlFact(f"identity of {person.subject}", frozenset(person.jtis), ("user_not_found",), statement)


def _row(kind: str, issuer: str, value: str) -> Callable[[str | None], tuple[str, tuple[object, ...]]]:
    def statement(code: str | None) -> tuple[str, tuple[object, ...]]:
        if code is None:
            where = "WHERE kind = $1 AND issuer = $2 AND value = $3"
            return f"DELETE FROM revocations {where}", (kind, issuer, value)  # noqa: S608
        return (
            "INSERT INTO revocations (kind, issuer, value, expires_at) VALUES ($1, $2, $3, now() + '1 day')"
            " ON CONFLICT DO NOTHING",
            (kind, issuer, value),
        )

    return statement


def _token_rows(person: Person, _: Tables) -> Iterator[SqlFact]:
    # A row names the issuer either way.
    for jti, issuer in zip(person.jtis, (ISSUER_NAME, tokens.ISSUER), strict=True):
        yield SqlFact(f"{ROW}{jti}", frozenset({jti}), ("token_revoked",), _row("jti", issuer, jti))


def _user_row(person: Person, _: Tables) -> Iterator[SqlFact]:
    name = f"{ROW}the user {person.subject}"
    yield SqlFact(name, frozenset(person.jtis), ("tokens_revoked_before",), _row("user", "", str(person.id)))


def _token_key(person: Person) -> KeyFact:
    jti = person.jtis[0]
    key = f"{PREFIX}revoked:jti:{ISSUER_NAME}:{jti}"
    return KeyFact(f"key of {jti}", frozenset({jti}), "token_revoked", key, lambda: "1")


def _user_key(person: Person) -> KeyFact:
    key = f"{PREFIX}revoked:user:{person.id}"
    name = f"key of the user {person.subject}"
    return KeyFact(name, frozenset(person.jtis), "tokens_revoked_before", key, lambda: str(int(time.time())))


_SQL_FACTS: Final[Mapping[str, Callable[[Person, Tables], Iterator[SqlFact]]]] = {
    "status": _status,
    "signed-out": _valid_after,
    "unlinked": _identity,
    "row": _token_rows,
    "user-row": _user_row,
}
_KEY_FACTS: Final[Mapping[str, Callable[[Person], KeyFact]]] = {"key": _token_key, "user-key": _user_key}


def facts_about(person: Person, kind: str) -> Iterator[SqlFact]:
    """Return what can be said against a person in the gateway's own tables, of one kind."""
    return _SQL_FACTS[kind](person, OWN)


def _chosen(facts: Mapping[str, T], kinds: Collection[str]) -> Iterator[tuple[str, T]]:
    return ((kind, fact) for kind, fact in facts.items() if not kinds or kind in kinds)


async def write_sql(
    dsn: str,
    facts: Sequence[SqlFact],
    history: History,
    chance: random.Random,
    standing: dict[str, str | None] | None = None,
) -> None:
    """Change facts until cancelled; one writer for each fact, so that its changes have an order.

    `standing` is what has been written before: fact → code.
    """
    standing = {} if standing is None else standing
    while True:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            # What was confirmed outlives a crash of the server, as an operator's own would.
            connection = await asyncpg.connect(dsn, server_settings={"synchronous_commit": "on"})
            try:
                while True:
                    fact = chance.choice(facts)
                    for _ in range(chance.choice(_TURNS)):
                        await change(connection, fact, standing, history, chance)
                        await asyncio.sleep(chance.uniform(0, chance.choice(_BREATHS)))
                    await asyncio.sleep(chance.expovariate(1 / _PAUSE))
            finally:
                connection.terminate()
        await asyncio.sleep(0.1)


async def change(
    connection: Connection,
    fact: SqlFact,
    standing: dict[str, str | None],
    history: History,
    chance: random.Random,
) -> None:
    """Have a fact stand against its tokens, or stand no longer; now and then by a slow transaction."""
    code = chance.choice(fact.codes) if standing.get(fact.name) is None else None
    statement, values = fact.statement(code)

    async def write() -> None:
        if chance.random() >= _IN_TRANSACTION:
            await connection.execute(statement, *values)
            return
        async with connection.transaction():
            await connection.execute(statement, *values)
            # Others commit in the meantime, and readers see the old row.
            await asyncio.sleep(chance.uniform(0, _LONGEST_TRANSACTION))

    standing[fact.name] = code
    await recorded(history, Change(fact.name, "postgres", fact.jtis, code, time.monotonic(), None), write)


async def recorded(history: History, change: Change, write: Callable[[], Awaitable[None]]) -> None:
    """Make a change; it is in the history also when its outcome is unknown, which is raised."""
    done = None
    try:
        await write()
        done = time.monotonic()
    finally:
        history.changes.append(replace(change, done=done))


async def write_keys(world: World, facts: Sequence[KeyFact], chance: random.Random) -> None:
    """Set and delete keys until cancelled."""
    async with Redis.from_url(
        world.redis.url, client_name=CLIENT_NAME, retry=Retry(NoBackoff(), 0)
    ) as client:
        standing: set[str] = set()
        while True:
            fact = chance.choice(facts)
            with suppress(OSError, RedisError):
                for _ in range(chance.choice(_TURNS)):
                    async with world.redis_turn:
                        await _set_or_delete(client, fact, standing, world.history)
                    await asyncio.sleep(chance.uniform(0, chance.choice(_BREATHS)))
            await asyncio.sleep(chance.expovariate(1 / _PAUSE))


async def _set_or_delete(client: Redis, fact: KeyFact, standing: set[str], history: History) -> None:
    code = None if fact.name in standing else fact.code

    async def write() -> None:
        if code is None:
            await client.delete(fact.key)
        else:
            await client.set(fact.key, fact.value(), ex=86_400)

    standing ^= {fact.name}
    store: Store = "redis"
    await recorded(history, Change(fact.name, store, fact.jtis, code, time.monotonic(), None), write)


def keys_lost(history: History, facts: Sequence[KeyFact], sent: float) -> None:
    """Record that Redis has none of the keys any more."""
    now = time.monotonic()
    history.changes += [Change(fact.name, "redis", fact.jtis, None, sent, now, lost=True) for fact in facts]


async def ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: an error on the way out, as of a ROLLBACK, displaces the first."""
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=1)
