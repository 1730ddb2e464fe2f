"""The gateway's own decision: its pipeline, run on the request without side effects."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from gateway.core import policy
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import Claims, Header, Request, Resolution, RevocationKind, Route, User
from gateway.core.provisioning import claims_read
from gateway.core.reasons import Denial
from gateway.core.routes import RouteTable
from gateway.explain.evidence.keys import ColdKeys
from gateway.explain.provisioning_dry_run import ProvisioningDryRun
from gateway.explain.setup import Introspector, Setup
from gateway.identity.local_cache import LocalCache
from gateway.identity.resolver import IdentityResolver
from gateway.identity.tiers import LearntRevocations, SystemOfRecord
from gateway.pipeline import Pipeline
from gateway.stores.redis.answers import SharedAnswer
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.user_documents import CachedUser
from gateway.verifier import TokenVerifier

ANY_ROUTE: Final = Route(name="", path="/**", upstream="")
"""Needs a user, and has no further requirements: the route of a token without a request."""
NO_HOST: Final = "localhost"
"""Stands for a host that is not known."""
_SCHEMES: Final[dict[str, Literal["http", "https"]]] = {
    "http": "http",
    "https": "https",
    "ws": "http",
    "wss": "https",
}


Newcomer: TypeAlias = Literal["forwarded", "created"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The pipeline's decision."""

    route: Route | None
    denial: Denial | None
    """None if the request is admitted."""
    resolution: Resolution | None
    """The tiers' answer about the user; None if they were not asked."""
    newcomer: Newcomer | None = None
    """What becomes of an admitted token without a user."""


class ColdResolver:
    """The identity tiers as a worker with empty memory uses them. It stores nothing. A `Directory`."""

    def __init__(self, resolver: IdentityResolver, local: LocalCache | None) -> None:
        self._resolver = resolver
        self._local = local
        self.resolution: Resolution | None = None
        """The latest answer."""

    async def find(self, claims: Claims) -> Resolution:
        """Answer from the memory of this worker, or from the stores. Raises `Denial`."""
        self.resolution = None if self._local is None else self._local.recall(claims)
        if self.resolution is None:
            self.resolution = await self._resolver.resolve(claims)
        return self.resolution


@asynccontextmanager
async def cold_tiers(
    setup: Setup,
    postgres: SystemOfRecord,
    redis: RedisTier,
    local: LocalCache | None,
    clock: Callable[[], float],
    learnt_revocations: LearntRevocations | None = None,
    *,
    hears: bool = True,
) -> AsyncIterator[ColdResolver]:
    """Combine the tiers. `learnt_revocations` are those that this worker remembers.

    `hears` tells whether this worker receives the changes of Postgres. Without them, it trusts no user in
    Redis.
    """
    resolver = IdentityResolver(
        LocalCache(ttl=0.0, max_users=1, max_tokens=1, clock=time.monotonic),
        _ReadOnly(redis),
        postgres,
        _Assumed(),
        believes=lambda _: hears,
        user_ttl=setup.user_ttl,
        negative_ttl=setup.negative_ttl,
        stale_if_error=setup.stale_if_error,
        creation_grace=setup.creation_grace,
        unchecked_allowed=setup.unchecked_allowed,
        learnt_revocations=None if learnt_revocations is None else _Remembered(learnt_revocations),
        clock=clock,
    )
    try:
        yield ColdResolver(resolver, local)
    finally:
        await resolver.close()


class _ReadOnly:
    """Redis for the tiers, without writes."""

    def __init__(self, redis: RedisTier) -> None:
        self._redis = redis

    async def read(self, claims: Claims, user_id: str | None) -> SharedAnswer:
        return await self._redis.read(claims, user_id)

    async def user_revoked_at(self, user_id: str) -> float | None:
        return await self._redis.user_revoked_at(user_id)

    async def buried(self, claims: Claims) -> bool:
        return await self._redis.buried(claims)

    async def store_user(self, claims: Claims, cached: CachedUser, ttl: float, *, horizon: int) -> bool:  # noqa: ARG002 -- the signature of the Protocol
        # Only the answer counts. If Redis refuses to store a row because of a change, the primary is asked
        # again.
        return cached.epoch != "" and not await self._redis.refuses(claims, horizon)


class _Remembered:
    """The refusals that a worker remembers. An explanation adds none."""

    def __init__(self, learnt_revocations: LearntRevocations) -> None:
        self._learnt_revocations = learnt_revocations

    def told(self, claims: Claims, user: User | None, kind: RevocationKind | None, era: bytes) -> None: ...

    def against(self, claims: Claims, user: User | None) -> RevocationKind | None:
        return self._learnt_revocations.against(claims, user)


class _Assumed:
    """A trusted blacklist, like that of a worker whose Redis was never away."""

    trusted = True

    def doubt(self) -> None: ...

    def request(self) -> None: ...


async def judge(
    headers: tuple[Header, ...],
    request: Request | None,
    setup: Setup,
    keys: ColdKeys,
    resolver: ColdResolver,
    dry_run: ProvisioningDryRun,
    now: float,
    introspector: Introspector | None = None,
) -> Verdict:
    """Run the pipeline on a request with the credentials in `headers`.

    Without a request, it has a route that only needs a user.
    """
    routes = (ANY_ROUTE,) if request is None else setup.routes
    request = request or request_for("GET", "/")
    pipeline = Pipeline(
        RouteTable(routes),
        TokenVerifier(
            setup.issuers,
            keys,
            clock=lambda: now,
            claims_read=claims_read(setup.issuers) | policy.claims_read(routes),
            introspector=introspector,
        ),
        resolver,
        HeaderPolicy(HeaderRules({})),
        dry_run,
    )
    try:
        admission = await pipeline.admit(replace(request, headers=(*request.headers, *headers)))
    except Denial as denial:
        return Verdict(denial.route, denial, resolver.resolution)
    newcomer: Newcomer | None = None
    if dry_run.user is not None:
        newcomer = "created"
    elif admission.claims is not None and admission.user is None:
        newcomer = "forwarded"
    return Verdict(admission.forwarding.route, None, resolver.resolution, newcomer)


def request_for(method: str, url: str) -> Request:
    """Return the head of a request for a URL, or for a path on a host that no route names.

    Text that is neither becomes an invalid request-target.
    """
    target, host, scheme = url.partition("#")[0], NO_HOST, _SCHEMES["http"]
    if not url.startswith("/"):
        with suppress(ValueError):
            parts = urlsplit(url)
            if parts.scheme in _SCHEMES and parts.hostname and parts.port != 0:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                host, scheme = parts.netloc.rpartition("@")[2], _SCHEMES[parts.scheme]
    return Request(
        method=method.upper(),
        target=target,
        headers=((b"Host", host.encode("utf-8", "replace")),),
        peer="127.0.0.1",
        scheme=scheme,
        id="explain",
    )
