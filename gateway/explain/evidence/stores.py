"""What each store answers about a token's user."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from gateway.core.model import Claims, Resolution, StoreUnavailable, User
from gateway.core.reasons import Denial
from gateway.core.revocations import Revocation
from gateway.explain.evidence.users import Users
from gateway.explain.verdict import ColdResolver
from gateway.stores.postgres.directory.diagnostics import Diagnostics
from gateway.stores.postgres.directory.user_rows import UserRecord
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.redis.answers import SharedAnswer
from gateway.stores.redis.shared_tier import RedisTier

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evidence:
    """The answers, or the errors."""

    resolution: Resolution | Denial
    """The combined answer of the tiers, as the pipeline receives it."""
    shared: SharedAnswer | StoreUnavailable
    unclaimed: bool
    """Whether Redis has no owner yet (`gateway.stores.redis.ownership`)."""
    found: FoundUser | StoreUnavailable
    """The answer that requests get from Postgres: the replica's, if there is one."""
    record: UserRecord | StoreUnavailable | None
    """The primary's answer: the truth."""
    revocations: list[Revocation] | StoreUnavailable

    @property
    def served(self) -> User | None:
        """The user that the pipeline receives."""
        return self.resolution.user if isinstance(self.resolution, Resolution) else None

    @property
    def truth(self) -> User | None:
        """The user that the primary has; None also if it does not answer."""
        record = self.record
        return None if record is None or isinstance(record, StoreUnavailable) else record.user

    @property
    def refusal(self) -> Denial | None:
        """What the tiers refuse with."""
        return self.resolution if isinstance(self.resolution, Denial) else None


async def gather(
    claims: Claims, known: Resolution | None, resolver: ColdResolver, users: Users, redis: RedisTier
) -> Evidence:
    """Ask each store. `known` is the answer of the tiers."""
    diagnostics = Diagnostics(users.postgres)
    resolution, shared, found, record = await asyncio.gather(
        _resolved(claims, known, resolver),
        _answer(redis.read(claims, None)),
        _answer(users.record.find_user(claims.identity)),
        _answer(users.directory.find(claims.identity)),
    )
    user_id = record.user.id if isinstance(record, UserRecord) else None
    # Do not ask a database again that did not answer.
    revocations = (
        record
        if isinstance(record, StoreUnavailable) and users.source is None
        else await _answer(diagnostics.revocations(claims, user_id))
    )
    return Evidence(resolution, shared, redis.ownership.unclaimed, found, record, revocations)


async def _resolved(claims: Claims, known: Resolution | None, resolver: ColdResolver) -> Resolution | Denial:
    if known is not None:
        return known
    try:
        return await resolver.find(claims)
    except Denial as denial:
        return denial


async def _answer(question: Awaitable[T]) -> T | StoreUnavailable:
    try:
        return await question
    except StoreUnavailable as error:
        return error
