"""The steps about the stores: revocations, and each tier's answer about the user."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gateway.core.model import Claims, MissingUser, Resolution, Route, StoreUnavailable, Tier, User
from gateway.core.reasons import TOKEN_REVOKED, TOKENS_REVOKED_BEFORE, Denial
from gateway.core.revocations import Revocation, hits
from gateway.explain.answer import Cause, Fix, Outcome
from gateway.explain.evidence import Evidence
from gateway.explain.steps import outage, source
from gateway.explain.trail import Trail
from gateway.explain.users import Users
from gateway.explain.wording import ago, moment, shown, span, yaml_line
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.diagnostics import Diagnostics, failure_kind
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.postgres.requirements import Shortcoming
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.ownership import ForeignRedis

_CAUSES = {
    "jti": Cause.TOKEN_REVOKED,
    "user": Cause.USER_TOKENS_REVOKED,
    "issuer": Cause.ISSUER_TOKENS_REVOKED,
}


_TROUBLES = {
    "not_migrated": (
        Cause.STORE_NOT_MIGRATED,
        "The tables, or this user's row, are not as `gateway migrate` creates them.",
    ),
    "permission_denied": (
        Cause.STORE_PERMISSION_DENIED,
        "As the owner of the tables, allow the gateway's role to read them.",
    ),
}

_UNCLAIMED = (
    "Redis has no owner yet. The first gateway that uses it claims it, and then no cached user in it counts."
    " If a gateway runs, its `redis.url` or `redis.prefix` is another one"
)
_AGREES: Final = 5.0
"""Seconds by which two clocks may differ and still agree."""
_UNHEARD = {
    "postgres": "this worker does not receive the changes of Postgres: every request asks Postgres",
    "redis": "this worker does not receive the changes of keys in Redis: every request asks Redis",
}


def described(user: User | None) -> str:
    """Return a short description of a user."""
    if user is None:
        return "no user"
    tenant = "" if user.tenant is None else f", tenant {shown(user.tenant)}"
    return f"user {user.id}, {user.status}{tenant}"


# Revocations ---------------------------------------------------------------------------------------


def revocation(trail: Trail, claims: Claims, evidence: Evidence) -> None:
    """Report the revocations that apply to the token: their time, reason, author and end."""
    issued = "at an unknown time" if claims.issued_at is None else moment(claims.issued_at)
    expected = f"none of the jti {shown(claims.jti)}, and none of user or issuer since its issue, {issued}"
    resolution, rows = evidence.resolution, evidence.revocations
    if isinstance(rows, StoreUnavailable):
        rows = []
    hitting = [row for row in rows if row.kind == "jti" or hits(row.revoked_at, claims.issued_at)]
    revoked = resolution.revoked if isinstance(resolution, Resolution) else None
    for row in hitting:
        by_redis = revoked is None and isinstance(resolution, Resolution)
        _blame_revocation(trail, claims, row.kind, _told(row, trail.now), evidence, unheard=by_redis)
    if revoked is not None and all(row.kind != revoked for row in hitting):
        told = "another program has set a key in Redis, and Postgres has no such row"
        _blame_revocation(trail, claims, revoked, told, evidence, unheard=False)
    if isinstance(resolution, Denial) and not hitting:
        trail.step("revocation", "skipped", expected, detail=resolution.reason.title)
        return
    if revoked is None and not hitting:
        trail.step("revocation", "pass", expected, "none")
        return
    kinds = ", ".join(dict.fromkeys([*(row.kind for row in hitting), *([revoked] if revoked else [])]))
    detail = "; ".join(_told(row, trail.now) for row in hitting) or "only Redis has it"
    trail.step("revocation", "warn" if revoked is None else "fail", expected, f"revoked: {kinds}", detail)


def _told(row: Revocation, now: float) -> str:
    until = "for ever" if row.expires_at is None else f"until {moment(row.expires_at)}"
    reason = "no reason given" if row.reason is None else f"reason: {shown(row.reason)}"
    by = "" if row.revoked_by is None else f" by {shown(row.revoked_by)}"
    return f"{moment(row.revoked_at)} ({ago(row.revoked_at, now)}){by}, {reason}, {until}"


def _blame_revocation(
    trail: Trail, claims: Claims, kind: str, told: str, evidence: Evidence, *, unheard: bool
) -> None:
    if unheard:
        trail.blame(
            None,
            Cause.CACHE_STALE,
            f"Postgres has a revocation of the {'token' if kind == 'jti' else kind} that Redis does not have"
            f" yet: {told}",
            Fix("Wait: gateways fill the blacklist from Postgres every 30 s."),
        )
        return
    name = claims.realm
    owner = evidence.served or _truth(evidence)
    if kind == "jti":
        command = trail.commands.gateway("revocations", "lift", "jti", operands=[name, claims.jti or ""])
    elif kind == "issuer":
        command = trail.commands.gateway("revocations", "lift", "issuer", operands=[name])
    else:
        command = None if owner is None else trail.commands.gateway("revocations", "lift", "user", owner.id)
    whose = {
        "jti": "This token was",
        "user": "All tokens of the user were",
        "issuer": f"All tokens of issuer {name} were",
    }
    trail.blame(
        Denial(TOKEN_REVOKED if kind == "jti" else TOKENS_REVOKED_BEFORE),
        _CAUSES[kind],
        f"{whose[kind]} revoked: {told}",
        Fix("Let the user sign in again; or, if the revocation was a mistake, lift it.", command=command),
    )


async def clock(trail: Trail, postgres: Postgres) -> None:
    """Compare this machine's clock with that of Postgres, if a clock is the likely cause."""
    if not any(found.cause is Cause.CLOCK_SKEW for found in trail.findings):
        return
    try:
        off = await Diagnostics(postgres).clock() - time.time()
    except StoreUnavailable:
        return
    advice = (
        "The clock of Postgres agrees with the gateway's, so the issuer's is the likelier one to be wrong."
    )
    if abs(off) > _AGREES:
        where = "behind" if off > 0 else "ahead of"
        advice = (
            f"The gateway's clock is {span(off)} {where} that of Postgres, so the gateway's is the likelier"
            " one to"
            " be wrong."
        )
    trail.amend(Cause.CLOCK_SKEW, advice, None)


# Tiers ---------------------------------------------------------------------------------------------


async def tiers(trail: Trail, claims: Claims, evidence: Evidence, route: Route, users: Users) -> None:
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
        _blame_stale(trail, evidence, "the memory of this worker", longest, None)
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
                    "Set another `redis.url` or `redis.prefix`, or claim this Redis for this database.",
                    command=trail.commands.gateway("redis", "claim"),
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
    truth = _truth(evidence)
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
        _blame_stale(trail, evidence, "Redis", remaining, trail.commands.redis("DEL", key))
    else:
        why = "it is of another epoch, or the worker does not receive changes"
        detail = f"Postgres has {described(truth)}; the entry is not served: {why}"
        trail.step("identity.redis", "warn", expected, found, detail)


def _blame_stale(trail: Trail, evidence: Evidence, where: str, seconds: float, command: str | None) -> None:
    truth = _truth(evidence)
    fix = Fix(
        "Delete the entry, or flush the caches of all workers with `POST /v1/cache/flush`. If it comes back,"
        " workers do not receive the changes of Postgres: see `gateway_invalidation_stream_up`.",
        command=command,
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
            await _blame_postgres(trail, evidence, users.postgres, record)
            return
        await source.blame(trail, claims, _refusal(evidence), users.diagnostics, record)
        if isinstance(evidence.revocations, StoreUnavailable):
            await _blame_postgres(trail, evidence, users.postgres, evidence.revocations)
        return
    if isinstance(evidence.revocations, StoreUnavailable):
        await _blame_postgres(trail, evidence, users.postgres, evidence.revocations)
    where = None if users.source is None else f"users.source: {users.source.table}"
    if users.diagnostics is not None:
        unreported = await source.check_reports(trail, users.diagnostics)
        where = where if unreported is None else f"{where}. {unreported}"
    if not users.record.has_replica or not isinstance(found, FoundUser):
        outcome: Outcome = "fail" if record is None and needed else "pass"
        trail.step("identity.postgres", outcome, expected, described(_truth(evidence)), where)
        trail.step(
            "identity.primary", "skipped", detail="there is no replica; the step before asked the primary"
        )
        return
    truth = _truth(evidence)
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


async def _blame_postgres(
    trail: Trail, evidence: Evidence, postgres: Postgres, error: StoreUnavailable
) -> None:
    refusal = _refusal(evidence)
    summary = f"Postgres cannot be used: {error.detail}"
    trouble = failure_kind(error)
    if trouble == "unreachable":
        unreachable, fix = outage.of_postgres(error, trail.setup.postgres)
        trail.blame(refusal, unreachable, summary, fix)
        return
    found, database = await _catalogs(postgres)
    if found:
        # Without USAGE on the schema, the role sees its tables as missing.
        trouble = found[0].trouble
    cause, advice = _TROUBLES[trouble]
    if found and (elsewhere := await _filled_elsewhere(postgres, found[0])):
        place = f"schema {', '.join(elsewhere)} has the tables, with identities"
        config = yaml_line("postgres.schema", elsewhere[0]) if len(elsewhere) == 1 else None
        fix = Fix(f"{_sentence(found[0].found)}; {place}. Correct `postgres.schema`.", config=config)
        trail.blame(refusal, Cause.STORE_SCHEMA_DIFFERS, f"{summary}; {found[0].found}, but {place}", fix)
        return
    cause = cause if not found else _OF_TABLES.get(found[0].about, cause)
    trail.blame(refusal, cause, summary, _fix_of_tables(trail, found, database, advice))


_OF_TABLES: Final = {
    "column": Cause.STORE_COLUMN_DIFFERS,
    "type": Cause.STORE_COLUMN_DIFFERS,
    "rows": Cause.STORE_ROW_SECURITY,
}


async def _filled_elsewhere(postgres: Postgres, found: Shortcoming) -> list[str]:
    """Return the other schemas whose tables have identities: one of them is meant."""
    try:
        return [each for each in found.elsewhere if await Diagnostics(postgres).has_identities(each)]
    except StoreUnavailable:
        return []


async def _catalogs(postgres: Postgres) -> tuple[list[Shortcoming], str]:
    """Return the catalogs' findings about the tables, and the database's name; none without an answer."""
    try:
        return await postgres.shortcomings(), (await Diagnostics(postgres).login()).database
    except StoreUnavailable:
        return [], ""


def _fix_of_tables(trail: Trail, found: list[Shortcoming], database: str, advice: str) -> Fix:
    if not found:
        return Fix(advice)
    text = ". ".join(f"{_sentence(each.found)}: {each.fix}" for each in found)
    grants = [each.sql for each in found if each.sql is not None]
    if len(grants) == len(found):
        return Fix(f"{advice} {text}", command=trail.commands.owner_sql(database, "; ".join(grants)))
    migrates = all(each.migrate for each in found)
    return Fix(text, command=trail.commands.gateway("migrate") if migrates else None)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _truth(evidence: Evidence) -> User | None:
    record = evidence.record
    return None if record is None or isinstance(record, StoreUnavailable) else record.user


def _differs(evidence: Evidence) -> bool:
    return not isinstance(evidence.record, StoreUnavailable) and not is_same(
        evidence.served, _truth(evidence)
    )


def _refusal(evidence: Evidence) -> Denial | None:
    return evidence.resolution if isinstance(evidence.resolution, Denial) else None


def is_same(one: User | None, other: User | None) -> bool:
    """Return whether two answers are equal. The instants at which time changes them may differ a little."""
    if one is None or other is None:
        return one is other
    return replace(one, valid_until=None) == replace(other, valid_until=None)
