"""The identity tiers together: which user is behind a token, and whether the token is revoked.

Memory answers first (`recall`), while the worker receives every change. Redis answers next. One read returns
the user, the revocations, the marker of the blacklist and the epoch. The document of a user counts in the
epoch in which it was stored. A missing revocation counts while there is an epoch, because then some worker
carries the changes from Postgres to Redis. Postgres answers if Redis does not know the user: one query serves
all requests that wait for the same user. Postgres answers for user and revocations both if Redis cannot prove
that its revocations are complete. While Postgres does not answer, the last known state counts, and is marked
as stale. A store that does not answer never means that a user does not exist.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from gateway.core.model import (
    Claims,
    RecordUnusable,
    Resolution,
    StoreUnavailable,
    Tier,
    User,
    Validity,
)
from gateway.core.reasons import REVOCATION_UNAVAILABLE, USER_STORE_UNAVAILABLE, Denial
from gateway.core.revocations import Revocations, hits
from gateway.identity.local_cache import IdentityKey, LocalCache, Ticket
from gateway.identity.single_flight import SingleFlight
from gateway.identity.tiers import Blacklist, LearntRevocations, SharedTier, SystemOfRecord
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.redis.answers import SharedAnswer
from gateway.stores.redis.user_documents import CachedUser

_SKEW: Final = 5.0
"""Seconds by which the clock of the machine that stored an entry may be ahead of ours."""
_PATIENCE: Final = 5.0
"""Seconds that a request waits for a query, and that a query may take; Postgres's timeouts are shorter."""
_SHARED: Final = 0.1
"""Seconds within which requests share a query while changes are not received."""
_FRESH_MISS: Final = 1.0
"""Seconds for which a miss counts if the token was just issued."""


@dataclass(frozen=True, slots=True)
class _Before:
    """The state before Redis was asked."""

    ticket: Ticket
    known: tuple[User | None, float] | None
    """What Postgres last said of the token's user, and when."""
    trusted: bool
    """Whether the blacklist was trusted."""

    @property
    def user_id(self) -> str | None:
        """The id of the user who is probably behind the token."""
        return self.known[0].id if self.known is not None and self.known[0] is not None else None


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer of a store, or of memory in its place."""

    resolution: Resolution
    stored_at: float = 0.0
    ticket: Ticket | None = None
    """The ticket with which the answer fills the local tier; None if it must not be remembered."""


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What Postgres said at `asked_at`."""

    user: User | None
    asked_at: float
    ticket: Ticket | None
    """None if Redis refused to store the user: it changed since, or Redis cannot tell."""


_QueryKey: TypeAlias = tuple[IdentityKey, str | None, bool, Ticket, int]


class IdentityResolver:
    """Implements the pipeline's `Directory`. Durations are seconds.

    A user from Redis counts for `user_ttl`, and for `stale_if_error` longer while Postgres is down. A missing
    user counts for `negative_ttl`, or for a second if the token was issued within `creation_grace`. With
    `unchecked_allowed` (`revocation.on_unavailable: allow`), known users pass if no store can check
    revocations. `believes` tells whether this process has received every change in an epoch. If it has not,
    the workers that fill Redis may have missed changes, too, and Postgres answers for users and revocations
    both. `clock` gives Unix seconds. The caller opens and closes the stores, the local tier and the
    blacklist.
    """

    def __init__(
        self,
        local: LocalCache,
        redis: SharedTier,
        postgres: SystemOfRecord,
        blacklist: Blacklist,
        *,
        believes: Callable[[str], bool],
        user_ttl: float = 300.0,
        negative_ttl: float = 5.0,
        stale_if_error: float = 300.0,
        creation_grace: float = 10.0,
        unchecked_allowed: bool = False,
        learnt_revocations: LearntRevocations | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._local = local
        # One call less for each request.
        self.is_valid = local.is_valid
        self._redis = redis
        self._postgres = postgres
        self._blacklist = blacklist
        self._believes = believes
        self._user_ttl = user_ttl
        self._negative_ttl = negative_ttl
        self._keep = user_ttl + stale_if_error
        self._creation_grace = creation_grace
        self._unchecked_allowed = unchecked_allowed
        self._learnt = learnt_revocations
        self._clock = clock
        self._user_queries: SingleFlight[_QueryKey, _Fetched] = SingleFlight(_PATIENCE, _PATIENCE)
        self._combined_queries: SingleFlight[_QueryKey, tuple[_Fetched, Revocations]] = SingleFlight(
            _PATIENCE, _PATIENCE
        )

    async def close(self) -> None:
        """Give up the queries that are still running."""
        await self._user_queries.close()
        await self._combined_queries.close()

    def recall(self, claims: Claims) -> Resolution | None:
        """Answer from memory; None when `resolve` is to be asked."""
        return self._local.recall(claims)

    def validity(self, claims: Claims) -> Validity | None:
        """Return how long the answer that is recalled at this moment is valid."""
        return self._local.validity(claims)

    async def find(self, claims: Claims) -> Resolution:
        """Answer from memory, or else from the stores. Raises `Denial` as `resolve` does."""
        return self.recall(claims) or await self.resolve(claims)

    async def resolve(self, claims: Claims) -> Resolution:
        """Find the user behind a token and check its revocations, by asking the stores.

        When the token or its issuer is revoked, no user is looked up. Raises `Denial`, with
        `user_store_unavailable` or `revocation_unavailable`, when no store can answer.
        """
        # Taken first: a copy of the blacklist that ends during the read does not vouch for its answer.
        before = _Before(self._local.ticket(), self._local.last_known(claims), self._blacklist.trusted)
        shared: SharedAnswer | None = None
        try:
            shared = await self._redis.read(claims, before.user_id)
        except StoreUnavailable:
            self._blacklist.doubt()
            resolution = await self._ask_postgres_alone(claims, None, vouched=False)
        else:
            resolution = await self._resolve(claims, before, shared)
        learnt = self._learnt
        if learnt is None:
            return resolution
        if shared is not None and resolution.revocation_tier is Tier.REDIS:
            learnt.told(claims, resolution.user, resolution.revoked, shared.era)
        if resolution.revoked is not None:
            return resolution
        # Redis may have a revocation that Postgres lacks, while it cannot be asked or has lost the key.
        kind = learnt.against(claims, resolution.user)
        return resolution if kind is None else replace(resolution, revoked=kind)

    async def _resolve(self, claims: Claims, before: _Before, shared: SharedAnswer) -> Resolution:
        """Use the answer of Redis, as far as it counts."""
        revoked = shared.revocations.against_anyone(claims.issued_at)
        if revoked is not None:
            user = None if shared.cached is None else shared.cached.user
            return Resolution(user, Tier.REDIS, revoked, Tier.REDIS)
        vouched = shared.complete and before.trusted and self._blacklist.trusted
        if not vouched:
            self._blacklist.request()
        # Checked last: an answer from Redis counts only if no change has been missed since.
        if vouched and shared.epoch is not None and self._believes(shared.epoch):
            answer = await self._find(claims, shared, before)
        else:
            answer = _Answer(await self._ask_postgres_alone(claims, shared, vouched=vouched))

        resolution = answer.resolution
        if resolution.revoked is not None:
            return resolution
        user_at: float | None = None
        if resolution.user is not None:
            try:
                user_at = (
                    shared.revocations.user_at
                    if resolution.user.id == shared.user_id
                    else await self._redis.user_revoked_at(resolution.user.id)
                )
            except StoreUnavailable:
                self._blacklist.doubt()
                return await self._ask_postgres_alone(claims, None, vouched=False)
        if hits(user_at, claims.issued_at):
            return replace(resolution, revoked="user", revocation_tier=Tier.REDIS)
        if answer.ticket is not None:
            known = shared.revocations
            self._remember(
                answer, claims, known if known.user_at == user_at else replace(known, user_at=user_at)
            )
        return resolution

    async def _find(self, claims: Claims, shared: SharedAnswer, before: _Before) -> _Answer:
        """Find the user while Redis has a trusted epoch."""
        ticket, known, cached = before.ticket, before.known, shared.cached
        if cached is not None and cached.epoch == shared.epoch and self._lifetime(claims, cached) > 0:
            # Reuse the object of an equal user, so that others may compare users by identity.
            user = known[0] if known is not None and known[0] == cached.user else cached.user
            return _Answer(Resolution(user, Tier.REDIS, None, Tier.REDIS), cached.stored_at, ticket)
        newer = self._local.last_known(claims)
        if newer is not None and (known is None or newer[1] > known[1]):
            # Another request brought the answer while this one was asking Redis.
            return _Answer(Resolution(newer[0], Tier.LOCAL, None, Tier.REDIS))
        try:
            fetched = await self._user_queries.do(
                self._query_key(claims, None), lambda: self._fetch_user(claims, shared.epoch or "")
            )
        except RecordUnusable as error:
            # Postgres has answered, so no earlier answer may take its place.
            raise Denial(USER_STORE_UNAVAILABLE, str(error)) from error
        except (StoreUnavailable, TimeoutError) as error:
            return _Answer(await self._last_known(claims, shared, Tier.REDIS, error))
        resolution = Resolution(fetched.user, Tier.POSTGRES, None, Tier.REDIS)
        if fetched.ticket is None:
            return _Answer(resolution)
        return _Answer(resolution, fetched.asked_at, min(ticket, fetched.ticket))

    async def _ask_postgres_alone(
        self, claims: Claims, shared: SharedAnswer | None, *, vouched: bool
    ) -> Resolution:
        """Ask Postgres for user and revocations both: the data in Redis may be old or incomplete.

        `vouched`: if Postgres is down, the revocations in Redis count.
        """
        try:
            fetched, revocations = await self._combined_queries.do(
                self._query_key(claims, claims.jti), lambda: self._fetch_both(claims, shared)
            )
        except RecordUnusable as error:
            raise Denial(USER_STORE_UNAVAILABLE, str(error)) from error
        except (StoreUnavailable, TimeoutError) as error:
            if vouched:
                return await self._last_known(claims, shared, Tier.REDIS, error)
            if self._unchecked_allowed:
                return await self._last_known(claims, shared, None, error)
            raise Denial(REVOCATION_UNAVAILABLE, str(error)) from error
        return Resolution(fetched.user, Tier.POSTGRES, revocations.against(claims.issued_at), Tier.POSTGRES)

    async def _last_known(
        self, claims: Claims, shared: SharedAnswer | None, revocation_tier: Tier | None, error: Exception
    ) -> Resolution:
        """Answer from Redis, whatever the epoch of the document, or from memory, because Postgres is down."""
        cached = None if shared is None else shared.cached
        known = self._local.last_known(claims)
        if known is not None and await self._missed(claims, shared):
            known = None
        if known is not None and (cached is None or known[1] > cached.stored_at):
            user, stored_at, tier = *known, Tier.LOCAL
        elif cached is not None:
            user, stored_at, tier = cached.user, cached.stored_at, Tier.REDIS
        else:
            raise Denial(USER_STORE_UNAVAILABLE, str(error)) from error
        # A user who was missing may exist by this time, and a ban may have begun. Only Postgres can tell.
        if user is None or not -_SKEW <= self._clock() - stored_at < self._keep or self._is_over(user):
            raise Denial(USER_STORE_UNAVAILABLE, str(error)) from error
        return Resolution(user, tier, None, revocation_tier, stale=True)

    async def _missed(self, claims: Claims, shared: SharedAnswer | None) -> bool:
        """Tell whether other workers received a change of the user that this worker missed."""
        if shared is None or shared.epoch is None or shared.cached is not None:
            # No gateway receives changes, or none has deleted the document.
            return False
        if self._local.up_to_date(claims):
            return False
        try:
            return await self._redis.buried(claims)
        except StoreUnavailable:
            self._blacklist.doubt()
            return True

    # Postgres ----------------------------------------------------------------------------------------

    def _query_key(self, claims: Claims, jti: str | None) -> _QueryKey:
        """Return the key of a query: requests with the same key share it, but never across a change."""
        identity = (claims.issuer, claims.subject)
        # While changes may be missed, time separates the queries.
        moment = 0 if self._local.trusted else int(self._clock() / _SHARED)
        return identity, jti, self._is_fresh(claims), self._local.last_change(claims), moment

    async def _fetch_user(self, claims: Claims, epoch: str) -> _Fetched:
        ticket, asked_at = self._local.ticket(), self._clock()
        found = await self._postgres.find_user(claims.identity)
        stored = await self._store(claims, found, asked_at, epoch)
        if self._postgres.has_replica and (not stored or (found.user is None and self._is_fresh(claims))):
            # A replica may lag behind the latest write.
            ticket, asked_at = self._local.ticket(), self._clock()
            found = await self._postgres.find_user(claims.identity, primary=True)
            stored = await self._store(claims, found, asked_at, epoch)
        self._local.learn(ticket, claims, found.user, asked_at)
        return _Fetched(found.user, asked_at, ticket if stored else None)

    async def _fetch_both(self, claims: Claims, shared: SharedAnswer | None) -> tuple[_Fetched, Revocations]:
        ticket, asked_at = self._local.ticket(), self._clock()
        found, revocations = await self._postgres.find_user_and_revocations(claims)
        if shared is not None:
            await self._store(claims, found, asked_at, shared.epoch or "")
        self._local.learn(ticket, claims, found.user, asked_at)
        return _Fetched(found.user, asked_at, None), revocations

    async def _store(self, claims: Claims, found: FoundUser, asked_at: float, epoch: str) -> bool:
        if not found.shared:
            return True
        cached = CachedUser(found.user, asked_at, epoch)
        ttl = self._miss_ttl(claims) if found.user is None else self._keep
        try:
            return await self._redis.store_user(claims, cached, ttl, horizon=found.horizon)
        except StoreUnavailable:
            # Postgres has answered; the next request finds out that Redis is down.
            return False

    # Times -------------------------------------------------------------------------------------------

    def _remember(self, answer: _Answer, claims: Claims, revocations: Revocations) -> None:
        user, stored_at, ticket = answer.resolution.user, answer.stored_at, answer.ticket
        refused = self._learnt is not None and self._learnt.against(claims, user) is not None
        if ticket is not None and not refused:
            lifetime = self._lifetime(claims, CachedUser(user, stored_at, ""))
            self._local.fill(ticket, claims, user, stored_at, revocations, lifetime)

    def _lifetime(self, claims: Claims, cached: CachedUser) -> float:
        """Return the seconds for which an answer still counts; not positive when it does not."""
        age = self._clock() - cached.stored_at
        if age < -_SKEW:
            return 0.0
        if cached.user is None:
            return self._miss_ttl(claims) - age
        left = self._user_ttl - age
        until = cached.user.valid_until
        return left if until is None else min(left, until - self._clock())

    def _is_over(self, user: User) -> bool:
        return user.valid_until is not None and self._clock() >= user.valid_until

    def _miss_ttl(self, claims: Claims) -> float:
        return min(_FRESH_MISS, self._negative_ttl) if self._is_fresh(claims) else self._negative_ttl

    def _is_fresh(self, claims: Claims) -> bool:
        return claims.issued_at is not None and self._clock() - claims.issued_at < self._creation_grace
