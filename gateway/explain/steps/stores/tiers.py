"""The steps about the tiers: each one's answer about the user."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gateway.core.model import Claims, MissingUser, Resolution, Route, StoreUnavailable, Tier, User
from gateway.core.reasons import Denial
from gateway.explain import changes
from gateway.explain.answer import Cause, Fix, Outcome
from gateway.explain.changes import Change
from gateway.explain.evidence.stores import Evidence
from gateway.explain.evidence.users import Users
from gateway.explain.steps.stores import outage, source, tables
from gateway.explain.trail import Trail
from gateway.explain.wording import ago, moment, shown, span
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.ownership import ForeignRedis

_UNCLAIMED: Final = (
    "Redis has no owner yet. The first gateway that uses it claims it, and then no cached user in it counts."
    " If a gateway runs, its `redis.url` or `redis.prefix` is another one"
)
_UNHEARD: Final = {
    "postgres": "this worker does not receive the changes of Postgres: every request asks Postgres",
    "redis": "this worker does not receive the changes of keys in Redis: every request asks Redis",
}


def described(user: User | None) -> str:
    """Return a short description of a user."""
    if user is None:
        return "no user"
    tenant = "" if user.tenant is None else f", tenant {shown(user.tenant)}"
    return f"user {user.id}, {user.status}{tenant}"


async def check(trail: Trail, claims: Claims, evidence: Evidence, route: Route, users: Users) -> None:
    """Compare the answers of the stores."""
    _redis(trail, claims, evidence)
    await _postgres(trail, claims, evidence, route, users)


def local(trail: Trail, evidence: Evidence, deaf: Mapping[str, str] | None) -> None:
    """Report the answer of this worker's memory. `deaf` has the streams that it does not receive, and why.

    None: this process is not a worker.
    """
    expected = "the answer of Postgres, or no entry"
    resolution = evidence.resolution
    if deaf is None:
        detail = (
            "this process serves no requests; `POST /v1/explain` reads the memory of a worker, and reports"
            " whether the worker receives changes"
        )
        trail.step("identity.local", "skipped", detail=detail)
    elif isinstance(resolution, Denial) or resolution.tier is not Tier.LOCAL:
        unheard = "; ".join(f"{_UNHEARD[stream]} ({why})" for stream, why in deaf.items()) or None
        outcome: Outcome = "warn" if unheard else "pass"
        trail.step("identity.local", outcome, expected, "no valid entry", unheard)
    elif _differs(evidence):
        trail.step("identity.local", "fail", expected, described(resolution.user))
        setup = trail.setup
        longest = setup.local_ttl if resolution.user else min(setup.local_ttl, setup.negative_ttl)
        _blame_stale(trail, evidence, "the memory of this worker", longest, None, changes.flushed())
    else:
        trail.step("identity.local", "pass", expected, described(resolution.user))


def _redis(trail: Trail, claims: Claims, evidence: Evidence) -> None:
    expected, shared = "the answer of Postgres, or no entry", evidence.shared
    if isinstance(shared, StoreUnavailable):
        trail.step("identity.redis", "warn", expected, "no answer", shared.detail)
        if isinstance(shared, ForeignRedis):
            trail.blame(
                None,
                Cause.STORE_UNREACHABLE,
                f"Redis is not used, so Postgres answers everything: {shared.detail}",
                Fix(
                    "If gateways of that other database use it, set another `redis.url` or `redis.prefix`"
                    " here. Only if none does, as after a move to a new server, claim it for this database"
                    " (`gateway redis claim`): what it remembers of the other one is voided."
                ),
            )
            return
        trail.blame(
            None,
            Cause.STORE_UNREACHABLE,
            f"Redis cannot be used, so Postgres answers everything: {shared.detail}",
            outage.of_redis(shared),
        )
        return
    cached = shared.cached
    if evidence.unclaimed:
        trail.step("identity.redis", "warn", expected, "no entry: Postgres is asked", _UNCLAIMED)
        return
    if cached is None:
        trail.step("identity.redis", "pass", expected, "no entry: Postgres is asked")
        return
    found = f"{described(cached.user)}, as of {moment(cached.stored_at)} ({ago(cached.stored_at, trail.now)})"
    truth = evidence.truth
    if isinstance(evidence.record, StoreUnavailable):
        trail.step("identity.redis", "pass", "what was last known", found)
    elif is_same(cached.user, truth):
        trail.step("identity.redis", "pass", expected, found)
    elif isinstance(evidence.resolution, Resolution) and evidence.resolution.tier is Tier.REDIS:
        ttl = trail.setup.negative_ttl if cached.user is None else trail.setup.user_ttl
        remaining = max(0.0, cached.stored_at + ttl - trail.now)
        detail = f"Postgres has {described(truth)}; the entry is served for another {span(remaining)}"
        trail.step("identity.redis", "fail", expected, found, detail)
        key = Keys(trail.setup.prefix).user(claims.realm, claims.subject)
        command = trail.commands.redis("DEL", key)
        change = changes.forgotten(claims.realm, claims.identity, key, described(cached.user))
        _blame_stale(trail, evidence, "Redis", remaining, command, None if command is None else change)
    else:
        why = "it is of another epoch, or the worker does not receive changes"
        detail = f"Postgres has {described(truth)}; the entry is not served: {why}"
        trail.step("identity.redis", "warn", expected, found, detail)


def _blame_stale(
    trail: Trail, evidence: Evidence, where: str, seconds: float, command: str | None, change: Change | None
) -> None:
    truth = evidence.truth
    fix = Fix(
        "Delete the entry, or flush the caches of all workers with `POST /v1/cache/flush`. If it comes back,"
        " workers do not receive the changes of Postgres: see `gateway_invalidation_stream_up`.",
        command=command,
        change=change,
    )
    if evidence.served is None:
        summary = f"A user was added, but {where} remembers that there was none, for another {span(seconds)}"
        trail.blame(None, Cause.NEGATIVE_CACHE_ENTRY, summary, fix)
        return
    summary = (
        f"{where[0].upper()}{where[1:]} has {described(evidence.served)}; Postgres has {described(truth)}."
        f" The old answer may stay for another {span(seconds)}"
    )
    trail.blame(None, Cause.CACHE_STALE, summary, fix)


async def _postgres(trail: Trail, claims: Claims, evidence: Evidence, route: Route, users: Users) -> None:
    needed = route.missing_user is MissingUser.DENY
    expected = "an active user" if needed else "an active user, or none"
    record, found = evidence.record, evidence.found
    if isinstance(record, StoreUnavailable):
        trail.step("identity.postgres", "fail", expected, "no answer", record.detail)
        trail.step("identity.primary", "skipped", detail="it does not answer")
        if users.diagnostics is None:
            await tables.blame(trail, evidence, users.postgres, record)
            return
        await source.blame(trail, claims, evidence.refusal, users.diagnostics, record)
        if isinstance(evidence.revocations, StoreUnavailable):
            await tables.blame(trail, evidence, users.postgres, evidence.revocations)
        return
    if isinstance(evidence.revocations, StoreUnavailable):
        await tables.blame(trail, evidence, users.postgres, evidence.revocations)
    where = None if users.source is None else f"users.source: {users.source.table}"
    if users.diagnostics is not None:
        unreported = await source.check_reports(trail, users.diagnostics)
        where = where if unreported is None else f"{where}. {unreported}"
    if not users.record.has_replica or not isinstance(found, FoundUser):
        outcome: Outcome = "fail" if record is None and needed else "pass"
        trail.step("identity.postgres", outcome, expected, described(evidence.truth), where)
        trail.step(
            "identity.primary", "skipped", detail="there is no replica; the step before asked the primary"
        )
        return
    truth = evidence.truth
    lags = not is_same(found.user, truth)
    missing = truth is None and needed
    outcome = "fail" if lags or missing else "pass"
    trail.step("identity.postgres", outcome, expected, described(found.user), "the replica")
    trail.step("identity.primary", "fail" if missing else "pass", expected, described(truth))
    if lags:
        trail.blame(
            None,
            Cause.REPLICA_LAG,
            f"The replica has {described(found.user)}, but the primary has {described(truth)}",
            Fix(
                "Find out why the replica lags (pg_stat_replication); until then, use only the primary.",
                config=f"{'postgres' if users.look_ups is None else 'users.source'}.replica_dsn: null",
            ),
        )


def _differs(evidence: Evidence) -> bool:
    return not isinstance(evidence.record, StoreUnavailable) and not is_same(evidence.served, evidence.truth)


def is_same(one: User | None, other: User | None) -> bool:
    """Return whether two answers are equal. The instants at which time changes them may differ a little."""
    if one is None or other is None:
        return one is other
    return replace(one, valid_until=None) == replace(other, valid_until=None)
