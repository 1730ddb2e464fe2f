"""Users that are created at their first request: on routes with `missing_user: provision`.

The store creates exactly one, however many requests and workers ask at the same time; the requests of this
process share one call. Then the entries of the identity in memory and Redis are dropped, and the tiers are
asked again, so that they find the new user as they find any other. If the store refuses to create a user,
requests of that user are refused for a moment without asking again.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog

from gateway.core import policy
from gateway.core.caches import FIFO
from gateway.core.model import Claims, Issuer, Request, Resolution, Route, StoreUnavailable, Tier
from gateway.core.provisioning import NewUser, Provisioned, ProvisioningResult, new_user
from gateway.core.reasons import ACCOUNT_NOT_LINKED, USER_DELETED, USER_STORE_UNAVAILABLE, Denial, Reason
from gateway.core.requests.trace_context import trace_id_of
from gateway.identity.local_cache import LocalCache
from gateway.identity.single_flight import SingleFlight

_PATIENCE: Final = 5.0
"""Seconds that a request waits; Postgres's timeouts are shorter."""
_REMEMBERED: Final = 4096
"""Refusals that are remembered."""
REFUSALS: Final[Mapping[ProvisioningResult, tuple[Reason, str]]] = {
    "deleted": (USER_DELETED, "no user is created: a deleted user has the token's e-mail address"),
    "taken": (ACCOUNT_NOT_LINKED, "no user is created: another user has the token's e-mail address"),
}
"""The denial of a request whose user the store refuses to create."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class UserStore(Protocol):
    """Where users are created: the gateway's own tables, or a source that may be written to."""

    async def provision(self, user: NewUser, request_id: str) -> Provisioned:
        """Create a user with its identity, exactly once, or return why not. Raises `StoreUnavailable`.

        It never creates one with the e-mail address of another user, deleted or not. It records the new user
        and the issuer of the token.
        """


class SharedTier(Protocol):
    """The operation on Redis that a created user needs."""

    async def bury(self, identities: list[tuple[str, str]], version: int) -> None:
        """Delete documents, and refuse documents read before `version`. Raises `StoreUnavailable`."""


class Directory(Protocol):
    """The identity tiers."""

    async def resolve(self, claims: Claims) -> Resolution:
        """Ask the stores. Raises `Denial`."""


class Observer(Protocol):
    """Counts the attempts."""

    def user_provisioned(
        self, issuer: str, result: ProvisioningResult | Literal["not_eligible", "failed"]
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class _Refusal:
    result: ProvisioningResult
    until: float


class Provisioner:
    """Implements the pipeline's `Provisioner`. `refusal_ttl` is in seconds, and so is `clock`."""

    def __init__(
        self,
        issuers: Mapping[str, Issuer],
        store: UserStore,
        local: LocalCache,
        shared: SharedTier,
        directory: Directory,
        observer: Observer,
        *,
        refusal_ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuers = issuers
        self._store = store
        self._local = local
        self._shared = shared
        self._directory = directory
        self._observer = observer
        self._refusal_ttl = refusal_ttl
        self._clock = clock
        self._calls: SingleFlight[NewUser, ProvisioningResult] = SingleFlight(_PATIENCE, _PATIENCE)
        self._refusals: FIFO[NewUser, _Refusal] = FIFO(_REMEMBERED)

    async def close(self) -> None:
        """Give up the calls that are still running."""
        await self._calls.close()

    async def provision(self, route: Route, claims: Claims, request: Request) -> Resolution:
        """Create the user of a token that has none; return what the tiers then answer.

        Raises `Denial`: when the token may create no user, when that user could not use the route, when the
        e-mail address is another user's, or when a store cannot be asked.
        """
        try:
            user = new_user(claims, self._issuers[claims.issuer_name].provisioning)
        except Denial:
            self._observer.user_provisioned(claims.issuer_name, "not_eligible")
            raise
        policy.authorize(route, user.as_user(), claims)
        result = self._refused(user)
        if result is None:
            try:
                result = await self._calls.do(user, lambda: self._create(user, request))
            except (StoreUnavailable, TimeoutError) as error:
                raise Denial(USER_STORE_UNAVAILABLE, str(error)) from error
        if result in REFUSALS:
            reason, detail = REFUSALS[result]
            raise Denial(reason, detail, tier=Tier.POSTGRES)
        return await self._directory.resolve(claims)

    async def _create(self, user: NewUser, request: Request) -> ProvisioningResult:
        name, identity = user.issuer_name, user.identity
        try:
            provisioned = await self._store.provision(user, request.id)
        except StoreUnavailable:
            self._observer.user_provisioned(name, "failed")
            raise
        result = provisioned.result
        self._observer.user_provisioned(name, result)
        if result in REFUSALS:
            self._refusals.put(user, _Refusal(result, self._clock() + self._refusal_ttl))
            return result
        if result == "created":
            log.info(
                "user_provisioned",
                user=provisioned.user_id,
                issuer=name,
                request_id=request.id,
                trace_id=trace_id_of(request),
            )
        # Every worker receives the change soon, but these requests must find the user now. Memory comes last,
        # so that answers read from Redis before this change do not fill it.
        with suppress(StoreUnavailable):
            await self._shared.bury([(user.realm or name, identity.subject)], provisioned.version)
        self._local.forget_identities([(identity.issuer, identity.subject)])
        return result

    def _refused(self, user: NewUser) -> ProvisioningResult | None:
        refusal = self._refusals.get(user)
        return refusal.result if refusal is not None and self._clock() < refusal.until else None
