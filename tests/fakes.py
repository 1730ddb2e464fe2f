"""Fakes of the project's own Protocols, shared by the rooms' tests."""

from collections.abc import Callable, Sequence
from typing import Literal

from gateway.admin.health import Readiness
from gateway.core.model import Claims, Identity, Resolution, RevocationKind, Tier, User
from gateway.core.reasons import Denial
from gateway.core.tokens import KeySet
from gateway.telemetry.series import Snapshot, add_up


class RecordingKeyObserver:
    """Remembers what the key ring tells its metrics."""

    def __init__(self) -> None:
        self.refreshes: list[tuple[str, str]] = []

    def jwks_refreshed(self, issuer: str, result: Literal["success", "failure"]) -> None:
        self.refreshes.append((issuer, result))


class FakeKeys:
    """`gateway.pipeline.Keys`: the key sets are what a test puts there."""

    def __init__(self, **sets: KeySet | None) -> None:
        self.sets: dict[str, KeySet | None] = sets
        self.refreshed: list[str] = []
        """Names of the issuers whose keys were asked for once more, in order."""
        self.on_refresh: Callable[[], None] = lambda: None

    def current(self, issuer_name: str) -> KeySet | None:
        return self.sets.get(issuer_name)

    async def refresh(self, issuer_name: str) -> None:
        self.refreshed.append(issuer_name)
        self.on_refresh()


class FakeDirectory:
    """`gateway.pipeline.Directory`: knows the users that a test puts there."""

    def __init__(self, users: dict[Identity, User] | None = None) -> None:
        self.users: dict[Identity, User] = users or {}
        self.asked: list[Claims] = []
        self.revoked: RevocationKind | None = None
        self.stale = False
        self.failure: Denial | None = None
        """Raised in place of every answer."""
        self.remembered: dict[Identity, Resolution] = {}

    def recall(self, claims: Claims) -> Resolution | None:
        return self.remembered.get(claims.identity)

    async def resolve(self, claims: Claims) -> Resolution:
        self.asked.append(claims)
        if self.failure is not None:
            raise self.failure
        user = self.users.get(claims.identity)
        return Resolution(user, Tier.POSTGRES, self.revoked, Tier.REDIS, self.stale)


class FakeCrew:
    """`gateway.admin.health.Crew`: other workers that say what a test puts there."""

    def __init__(self) -> None:
        self.others: list[Sequence[Snapshot]] = []
        self.ready: list[Readiness] = []

    async def totals(self, own: Sequence[Snapshot]) -> Sequence[Snapshot]:
        return add_up([own, *self.others])

    async def readiness(self) -> Sequence[Readiness]:
        return self.ready
