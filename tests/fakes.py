"""Fakes of the project's own Protocols, shared by the rooms' tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from gateway.admin.health import Readiness
from gateway.core.model import (
    Claims,
    Identity,
    Request,
    Resolution,
    RevocationKind,
    Route,
    StoreUnavailable,
    Tier,
    User,
    UserStatus,
    Validity,
)
from gateway.core.reasons import ACCOUNT_NOT_LINKED, Denial
from gateway.core.revocations import Revocation, Revocations, Revoked
from gateway.core.tokens.jws import KeySet
from gateway.limits.holdings import Holdings
from gateway.stores.redis.answers import Epoch, SharedAnswer
from gateway.stores.redis.user_documents import CachedUser
from gateway.telemetry.denials import DenialFilter, DenialRecord, DenialRing
from gateway.telemetry.history import History, Span
from gateway.telemetry.series import Snapshot, add_up


@dataclass
class Clock:
    """A clock that a test sets, in seconds."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class RecordingKeyObserver:
    """Remembers what the key ring tells its metrics."""

    def __init__(self) -> None:
        self.refreshes: list[tuple[str, str]] = []

    def jwks_refreshed(self, issuer: str, result: Literal["success", "failure"]) -> None:
        self.refreshes.append((issuer, result))


class FakeKeys:
    """`gateway.verifier.Keys`: the key sets are what a test puts there."""

    def __init__(self, **sets: KeySet | None) -> None:
        self.sets: dict[str, KeySet | None] = sets
        self.refreshed: list[str] = []
        """Names of the issuers whose keys were asked for once more, in order."""
        self.on_refresh: Callable[[], None] = lambda: None
        self.heard = True
        """Whether the issuer answers when it is asked once more."""

    def current(self, issuer_name: str) -> KeySet | None:
        return self.sets.get(issuer_name)

    async def refresh(self, issuer_name: str, kid: str | None, algorithm: str) -> bool:  # noqa: ARG002 -- the Protocol's
        self.refreshed.append(issuer_name)
        self.on_refresh()
        return self.heard


class FakeDirectory:
    """`gateway.memo.Directory` and `gateway.pipeline.Directory`: knows the users that a test puts there."""

    def __init__(self, users: dict[Identity, User] | None = None) -> None:
        self.users: dict[Identity, User] = users or {}
        self.asked: list[Claims] = []
        self.revoked: RevocationKind | None = None
        self.stale = False
        self.failure: Denial | None = None
        """Raised in place of every answer."""
        self.remembered: dict[Identity, Resolution] = {}
        self.on_resolve: Callable[[Claims], object] = lambda _: None
        """Called with whom it is asked about, before it answers."""
        self.validities: list[Validity] = []
        """Those that were given and still stand."""

    def validity(self, claims: Claims) -> Validity | None:
        remembered = self.remembered.get(claims.identity)
        if remembered is None:
            return None
        self.validities.append(Validity(claims, remembered, 0.0, 0))
        return self.validities[-1]

    def is_valid(self, validity: Validity) -> bool:
        return any(validity is each for each in self.validities)

    def recall(self, claims: Claims) -> Resolution | None:
        return self.remembered.get(claims.identity)

    async def find(self, claims: Claims) -> Resolution:
        return self.recall(claims) or await self.resolve(claims)

    async def resolve(self, claims: Claims) -> Resolution:
        self.asked.append(claims)
        self.on_resolve(claims)
        if self.failure is not None:
            raise self.failure
        user = self.users.get(claims.identity)
        return Resolution(user, Tier.POSTGRES, self.revoked, Tier.REDIS, self.stale)


class FakeProvisioner:
    """`gateway.pipeline.Provisioner`: adds to a directory whom it is asked for, except `taken`."""

    def __init__(self, directory: FakeDirectory) -> None:
        self.directory = directory
        self.asked: list[tuple[str, str, str]] = []
        """Route, subject and request id, in order."""

    async def provision(self, route: Route, claims: Claims, request: Request) -> Resolution:
        self.asked.append((route.name, claims.subject, request.id))
        if claims.subject == "taken":
            raise Denial(ACCOUNT_NOT_LINKED, tier=Tier.POSTGRES)
        user = User(f"id-{claims.subject}", UserStatus.ACTIVE)
        self.directory.users[claims.identity] = user
        return await self.directory.resolve(claims)


class FakeWorkers:
    """`gateway.admin.health.Workers`: other workers that say what a test puts there."""

    def __init__(self) -> None:
        self.others: list[Sequence[Snapshot]] = []
        self.ready: list[Readiness] = []
        self.rings: list[DenialRing] = []
        self.refreshed: list[str] = []
        self.past = History()
        self.holdings: list[Holdings] = []
        self.pardoned: list[tuple[str, str]] = []

    async def totals(self, own: Sequence[Snapshot]) -> Sequence[Snapshot]:
        return add_up([own, *self.others])

    async def readiness(self) -> Sequence[Readiness]:
        return self.ready

    async def denials(self, wanted: DenialFilter) -> Sequence[DenialRecord]:
        return [denial for ring in self.rings for denial in ring.latest(wanted)]

    async def refresh_keys(self, issuer: str) -> None:
        self.refreshed.append(issuer)

    async def history(self, minutes: int) -> Sequence[Span]:
        return self.past.latest(minutes)

    async def limits(self) -> Sequence[Holdings]:
        return self.holdings

    async def pardon(self, limit: str, subject: str) -> None:
        self.pardoned.append((limit, subject))


class FakeSharedTier:
    """The `SharedTier` of `gateway.identity.invalidation` and of `.identity`: a Redis of dictionaries.

    Whoever writes to it as another program would calls `touch` with the key.
    """

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], CachedUser] = {}
        self.tombstones: dict[tuple[str, str], int] = {}
        self.revoked: dict[str, float] = {}
        """`jti:<name>:<jti>`, `user:<id>` or `issuer:<name>` → the instant."""
        self.complete = True
        self.current: Epoch | None = None
        self.ended = -1
        self.down = False
        self.touch: Callable[[str], None] = lambda _: None
        self._names = count(1)

    def _answers(self) -> None:
        if self.down:
            raise StoreUnavailable(Tier.REDIS, "pulled")

    # Changes -------------------------------------------------------------------------------------

    async def bury(self, identities: Sequence[tuple[str, str]], version: int) -> None:
        self._answers()
        for name, subject in identities:
            if self.tombstones.get((name, subject), -1) < version:
                self.documents.pop((name, subject), None)
                self.tombstones[name, subject] = version
            self.touch(f"tombstone:{name}:{subject}")

    async def buried(self, claims: Claims) -> bool:
        self._answers()
        return (claims.issuer_name, claims.subject) in self.tombstones

    async def epoch(self) -> Epoch | None:
        self._answers()
        return self.current

    async def begin_epoch(self, heartbeat: str, version: int = 0) -> Epoch:
        self._answers()
        if self.current is None:
            self.current = Epoch(f"epoch-{next(self._names)}", heartbeat)
            self.ended = max(self.ended, version)
        return self.current

    async def keep_epoch(self, name: str, heartbeat: str) -> bool:
        self._answers()
        if self.current is None or self.current.name != name:
            return False
        self.current = Epoch(name, heartbeat)
        return True

    async def end_epoch(self, version: int) -> None:
        self._answers()
        if self.ended < version:
            self.ended = version
            if self.current is not None:
                self.current = Epoch(f"epoch-{next(self._names)}", self.current.heartbeat)

    def lapse(self) -> None:
        """Let the epoch's lifetime pass."""
        self.current = None

    # Requests ------------------------------------------------------------------------------------

    async def read(self, claims: Claims, user_id: str | None) -> SharedAnswer:
        self._answers()
        name = claims.issuer_name
        document = self.documents.get((name, claims.subject))
        if document is not None and document.user is not None:
            user_id = document.user.id
        return SharedAnswer(
            document,
            Revocations(
                token=f"jti:{name}:{claims.jti}" in self.revoked,
                user_at=None if user_id is None else self.revoked.get(f"user:{user_id}"),
                issuer_at=self.revoked.get(f"issuer:{name}"),
            ),
            self.complete,
            None if self.current is None else self.current.name,
            user_id=user_id,
        )

    async def user_revoked_at(self, user_id: str) -> float | None:
        self._answers()
        return self.revoked.get(f"user:{user_id}")

    async def store_user(self, claims: Claims, cached: CachedUser, ttl: float, *, horizon: int) -> bool:  # noqa: ARG002 -- the Protocol's
        self._answers()
        key = (claims.issuer_name, claims.subject)
        if cached.epoch != ("" if self.current is None else self.current.name):
            return False
        if max(self.ended, self.tombstones.get(key, -1)) >= horizon:
            return False
        self.documents[key] = cached
        return cached.epoch != ""

    # Revocations ---------------------------------------------------------------------------------

    def apply(self, change: Revoked) -> None:
        self._answers()
        key = _revocation_key(change.revocation)
        if change.lifted:
            self.revoked.pop(key, None)
        else:
            self.revoked[key] = change.revocation.revoked_at
        self.touch(f"revoked:{key}")


class FakeBlacklist:
    """The `Blacklist` of `gateway.identity.invalidation` and of `.identity`: writes to a shared tier."""

    def __init__(self, shared: FakeSharedTier) -> None:
        self._shared = shared
        self.rows: Callable[[], Sequence[Revocation]] = list
        """All that count in Postgres; may raise `StoreUnavailable`."""
        self.loads = 0
        self.doubts = 0
        self.requests = 0

    @property
    def trusted(self) -> bool:
        return self.doubts == 0

    def doubt(self) -> None:
        self.doubts += 1

    def request(self) -> None:
        self.requests += 1

    async def apply(self, changes: Sequence[Revoked]) -> None:
        for change in changes:
            self._shared.apply(change)

    async def load(self) -> None:
        doubts = self.doubts
        for row in self.rows():
            self._shared.apply(Revoked(row, lifted=False, version=0))
        self._shared.complete = True
        self.loads += 1
        self.doubts -= doubts


def _revocation_key(revocation: Revocation) -> str:
    match revocation.kind:
        case "jti":
            return f"jti:{revocation.issuer}:{revocation.value}"
        case "user":
            return f"user:{revocation.value}"
        case "issuer":
            return f"issuer:{revocation.issuer}"


class RecordingInvalidations:
    """`gateway.identity.invalidation.Observer`: remembers who told of changes."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    def invalidated(self, source: Literal["postgres", "redis"]) -> None:
        self.sources.append(source)
