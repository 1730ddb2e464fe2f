"""The dependencies that `/readyz` checks."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from gateway.admin.health import Dependency, Finding, Probe
from gateway.core.model import StoreUnavailable
from gateway.issuer_keys.issuer import KeyStatus
from gateway.issuer_keys.keyring import KeyRing
from gateway.stores.availability import Availability
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.redis.shared_tier import RedisTier


class Stream(Protocol):
    """A connection that receives changes."""

    @property
    def up(self) -> bool:
        """Whether it receives every change."""

    @property
    def detail(self) -> str | None:
        """Why it does not."""


def dependencies(
    issuers: Iterable[str],
    postgres: Postgres,
    redis: RedisTier,
    keys: KeyRing,
    streams: Mapping[str, Stream],
    *,
    vouched: Callable[[], bool],
    stands_in_for: float,
    users: SourceDatabase | None = None,
) -> dict[str, Dependency]:
    """Return them by name. `issuers` are the configured names; the keys of `streams` are the stores.

    Redis stands in for Postgres while its blacklist is trusted, which `vouched` tells, and for at most
    `stands_in_for` seconds: no user in Redis counts for longer. `users`: the tables of another system that
    has the users, if they are not the gateway's own.
    """

    def stand_in(availability: Availability) -> str | None:
        known = availability.ever_served and availability.down_for < stands_in_for
        return "redis" if known and vouched() else None

    async def issuer(name: str) -> Finding:
        return issuer_finding(keys.status_of(name))

    return {
        **_of_database("postgres", postgres, stand_in, partial(_of_this_version, postgres)),
        **({} if users is None else _of_database("users_source", users, stand_in)),
        # Without Redis, Postgres answers everything. That is slower, but the gateway still takes requests.
        "redis": Dependency(partial(_ping, redis.ping), essential=False),
        # Without a stream, memory is not trusted, and the stores are asked instead.
        **{
            f"stream:{name}": Dependency(partial(_heard, stream), essential=False)
            for name, stream in streams.items()
        },
        **{f"issuer:{name}": Dependency(partial(issuer, name), essential=True) for name in issuers},
    }


def _of_database(
    name: str,
    database: Postgres | SourceDatabase,
    stand_in: Callable[[Availability], str | None],
    ask: Callable[[], Awaitable[Finding]] | None = None,
) -> dict[str, Dependency]:
    """Return the primary of a database, and its replica if there is one.

    `ask` finds out about the primary, if more is to be known than whether it serves requests.
    """
    found = {
        # Once it has answered, users and revocations in Redis suffice during an outage.
        name: Dependency(
            _probe(ask or partial(_ping, database.ping), database.availability),
            essential=True,
            stand_in=partial(stand_in, database.availability),
            patient=True,
        )
    }
    if database.replica_availability is not None:
        # The primary answers instead.
        found[f"{name}_replica"] = Dependency(
            _probe(partial(_ping, database.ping_replica), database.replica_availability),
            essential=False,
            patient=True,
        )
    return found


def issuer_finding(status: KeyStatus) -> Finding:
    """Report an issuer's keys. If the last fetch failed, tokens of newer keys are refused for a time."""
    if not status.ready:
        return Finding("down", status.last_error)
    if status.last_error is not None:
        return Finding("degraded", f"{status.last_error}; the {status.keys} keys loaded before stay in use")
    if status.left_out:
        return Finding(
            "degraded", f"{status.left_out} published keys are ignored: only the first {status.keys} are kept"
        )
    return Finding("up")


def _probe(
    ask: Callable[[], Awaitable[Finding]], availability: Availability
) -> Callable[[], Awaitable[Finding]]:
    return Probe(ask, lambda: availability.silent_for).check


async def _of_this_version(postgres: Postgres) -> Finding:
    """Report whether requests could be served, and whether the tables are of this program's version."""
    finding, found = await _ping(postgres.ping), postgres.version_difference
    if finding.status == "down" or found is None:
        return finding
    # Newer tables are how an upgrade begins: no gateway of the version before may leave service for them.
    return Finding("up" if found.kind == "newer" else "degraded", str(found))


async def _ping(ping: Callable[[], Awaitable[None]]) -> Finding:
    try:
        await ping()
    except StoreUnavailable as error:
        return Finding("down", error.detail)
    return Finding("up")


async def _heard(stream: Stream) -> Finding:
    if stream.up:
        return Finding("up")
    return Finding("down", stream.detail or "no heartbeat came back in time")
