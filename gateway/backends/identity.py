"""The tiers put together: who is behind a token, and whether it has been revoked.

Every request asks Redis, once, for user, revocations and the blacklist's marker. What Redis does
not know of the user, Postgres is asked, by one query however many requests wait for it. When Redis
is down or its blacklist incomplete, Postgres answers both questions. What this process remembers
helps to ask in one round trip, keeps unknown subjects away from Postgres for a moment, and serves
when the stores do not. A store that does not answer is never taken for a user who does not exist.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeAlias

from gateway.backends.flights import SingleFlight
from gateway.backends.mirror import RevocationMirror
from gateway.backends.postgres import Postgres
from gateway.backends.redis import CachedUser, Redis, SharedAnswer
from gateway.backends.revocations import Revocations, hits
from gateway.core.lru import LRU
from gateway.core.model import Claims, Resolution, StoreUnavailable, Tier, User
from gateway.core.reasons import REVOCATION_UNAVAILABLE, USER_STORE_UNAVAILABLE, Denial

_SKEW: Final = 5.0
"""Seconds by which the clock of the machine that stored an entry may be ahead of ours."""
_PATIENCE: Final = 5.0
"""Seconds that a request waits for a query that it shares; Postgres's own timeouts are shorter."""

_Both: TypeAlias = tuple[User | None, Revocations]
_Key: TypeAlias = tuple[str, str]
"""`iss` and `sub`: an identity that costs little to make and to look up."""


class IdentityTiers:
    """Implements the pipeline's `Directory`. Durations are seconds.

    A user from Redis is served for `user_ttl`, and for `stale_if_error` longer while Postgres is
    down; that there is no such user is believed for `negative_ttl`. With `unchecked_allowed`
    (`revocation.on_unavailable: allow`) known users pass when no store can check revocations.
    `clock` gives Unix seconds. The stores and the mirror remain their owner's to close.
    """

    def __init__(
        self,
        postgres: Postgres,
        redis: Redis,
        mirror: RevocationMirror,
        *,
        local_ttl: float = 30.0,
        user_ttl: float = 300.0,
        negative_ttl: float = 5.0,
        stale_if_error: float = 300.0,
        max_users: int = 50_000,
        unchecked_allowed: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._postgres = postgres
        self._redis = redis
        self._mirror = mirror
        self._local_ttl = min(local_ttl, user_ttl)
        self._user_ttl = user_ttl
        self._negative_ttl = negative_ttl
        self._keep = user_ttl + stale_if_error
        self._unchecked_allowed = unchecked_allowed
        self._clock = clock
        self._users: LRU[_Key, CachedUser] = LRU(max_users)
        self._absent: LRU[_Key, float] = LRU(max_users)
        self._user_flights: SingleFlight[_Key, User | None] = SingleFlight(_PATIENCE)
        self._both_flights: SingleFlight[tuple[_Key, str | None], _Both] = SingleFlight(_PATIENCE)

    @property
    def remembered(self) -> tuple[int, int]:
        """How many users, and how many subjects without one, this process remembers."""
        return len(self._users), len(self._absent)

    async def close(self) -> None:
        """Give up the queries that are still running."""
        await self._user_flights.close()
        await self._both_flights.close()

    def recall(self, claims: Claims) -> Resolution | None:  # noqa: ARG002 -- the Directory's signature
        """Answer nothing: what this process remembers is never right without Redis's word."""
        return None

    async def resolve(self, claims: Claims) -> Resolution:
        """Find the user behind a token and check its revocations.

        A token that is revoked whoever its user is has none looked up. Raises `Denial`, with
        `user_store_unavailable` or `revocation_unavailable`, when no store can answer.
        """
        known = self._users.get(_key(claims))
        guess = None if known is None else known.user.id
        # A filling that ends while Redis is being read came too late for what was read.
        trusted = self._mirror.trusted
        try:
            shared = await self._redis.read(claims, guess)
        except StoreUnavailable:
            self._mirror.doubt()
            return await self._ask_postgres_alone(claims, None)

        revoked = shared.revocations.against_anyone(claims.issued_at)
        if revoked is not None:
            user = None if shared.cached is None else shared.cached.user
            return Resolution(user, Tier.REDIS, revoked, Tier.REDIS)
        if shared.complete and trusted and self._mirror.trusted:
            resolution = await self._find(claims, shared.cached, known)
        else:
            self._mirror.request()
            resolution = await self._ask_postgres_alone(claims, shared)
        if resolution.user is None or resolution.revoked is not None:
            return resolution
        try:
            user_at = (
                shared.revocations.user_at
                if resolution.user.id == guess
                else await self._redis.user_revoked_at(resolution.user.id)
            )
        except StoreUnavailable:
            self._mirror.doubt()
            return await self._ask_postgres_alone(claims, None)
        if hits(user_at, claims.issued_at):
            return replace(resolution, revoked="user", revocation_tier=Tier.REDIS)
        return resolution

    async def _find(self, claims: Claims, cached: CachedUser | None, known: CachedUser | None) -> Resolution:
        """Find the user with Redis up; `known` is what this process knew before Redis was asked."""
        key = _key(claims)
        if cached is not None and self._within(cached.stored_at, self._user_ttl):
            if known is not None and known.user == cached.user:
                # One object for one state of a user lets others know it again at a glance.
                cached = CachedUser(known.user, cached.stored_at)
            self._users.put(key, cached)
            return Resolution(cached.user, Tier.REDIS, None, Tier.REDIS)
        absent_since = self._absent.get(key)
        if absent_since is not None and self._within(absent_since, self._negative_ttl):
            return Resolution(None, Tier.LOCAL, None, Tier.REDIS)
        learnt = self._users.get(key)
        if learnt is not None and learnt is not known and self._within(learnt.stored_at, self._local_ttl):
            # Another request brought the answer while this one was asking Redis.
            return Resolution(learnt.user, Tier.LOCAL, None, Tier.REDIS)
        try:
            user = await self._user_flights.do(key, lambda: self._fetch_user(claims))
        except (StoreUnavailable, TimeoutError) as error:
            return self._remembered(claims, cached, Tier.REDIS, error)
        return Resolution(user, Tier.POSTGRES, None, Tier.REDIS)

    async def _ask_postgres_alone(self, claims: Claims, shared: SharedAnswer | None) -> Resolution:
        """Ask Postgres for user and revocations both: what Redis has, if it is up, is not enough."""
        try:
            user, revocations = await self._both_flights.do(
                (_key(claims), claims.jti), lambda: self._fetch_both(claims, redis_up=shared is not None)
            )
        except (StoreUnavailable, TimeoutError) as error:
            if not self._unchecked_allowed:
                raise Denial(REVOCATION_UNAVAILABLE, str(error)) from error
            return self._remembered(claims, None if shared is None else shared.cached, None, error)
        return Resolution(user, Tier.POSTGRES, revocations.against(claims.issued_at), Tier.POSTGRES)

    def _remembered(
        self, claims: Claims, cached: CachedUser | None, revocation_tier: Tier | None, error: Exception
    ) -> Resolution:
        """Answer from Redis or from memory, because Postgres cannot."""
        key = _key(claims)
        absent_since = self._absent.get(key)
        if absent_since is not None and self._within(absent_since, self._negative_ttl):
            return Resolution(None, Tier.LOCAL, None, revocation_tier)
        known = self._users.get(key)
        if cached is None or (known is not None and known.stored_at > cached.stored_at):
            cached, tier = known, Tier.LOCAL
        else:
            tier = Tier.REDIS
        if cached is None or not self._within(cached.stored_at, self._keep):
            raise Denial(USER_STORE_UNAVAILABLE, str(error)) from error
        stale = tier is Tier.LOCAL or not self._within(cached.stored_at, self._user_ttl)
        return Resolution(cached.user, tier, None, revocation_tier, stale)

    async def _fetch_user(self, claims: Claims) -> User | None:
        asked_at = self._clock()
        user = await self._postgres.find_user(claims.identity)
        await self._learn(claims, user, asked_at, redis_up=True)
        return user

    async def _fetch_both(self, claims: Claims, *, redis_up: bool) -> _Both:
        asked_at = self._clock()
        user, revocations = await self._postgres.find_user_and_revocations(claims)
        await self._learn(claims, user, asked_at, redis_up=redis_up)
        return user, revocations

    async def _learn(self, claims: Claims, user: User | None, asked_at: float, *, redis_up: bool) -> None:
        key = _key(claims)
        if user is None:
            self._users.pop(key)
            self._absent.put(key, asked_at)
        else:
            self._users.put(key, CachedUser(user, asked_at))
            self._absent.pop(key)
        if not redis_up:
            return
        # Postgres has answered; that Redis cannot be told is for the next request to find out.
        with suppress(StoreUnavailable):
            if user is None:
                await self._redis.forget_users([(claims.issuer_name, claims.subject)])
            else:
                await self._redis.store_user(claims, CachedUser(user, asked_at), self._keep)

    def _within(self, since: float, seconds: float) -> bool:
        return -_SKEW <= self._clock() - since < seconds


def _key(claims: Claims) -> _Key:
    return claims.issuer, claims.subject
