"""What is done with each change that is heard of, and when memory may be trusted.

Postgres tells of changes in one order, the same to all who listen. Each worker drops what it holds,
then sees to it that Redis drops it too. Redis's documents count only under the current epoch, which
workers keep alive: a worker does so with a heartbeat that it has received back from Postgres, and only
when everything that it heard before is done in Redis. When no worker did for a while the epoch
lapses, and every document with it. A worker that begins to listen joins an epoch only when it has
received the heartbeat that last kept it: what came earlier is done in Redis, what came later it
has heard of itself.

The local tier is open while Postgres is listened to, an epoch is joined, and Redis tells of the keys
that others touch.

========= ================================== ========= =====================================================
State     Event                              Next      What follows
========= ================================== ========= =====================================================
deaf      Postgres is listened to            listening memory is dropped; the blacklist may have a gap
listening our heartbeat came back, and       listening the blacklist is copied from Postgres
          the blacklist may have a gap
listening our heartbeat came back, and no    joined    an epoch begins
          worker keeps an epoch
listening our heartbeat came back, and the   joined    memory may answer
          epoch's last heartbeat was heard
joined    our heartbeat came back            joined    the epoch is kept alive
joined    the epoch is another's, or void;   listening memory answers no longer
          Redis is another database's
any       the connection to Postgres is lost deaf      memory answers no longer
========= ================================== ========= =====================================================

Before each of these steps Redis is told of every change that was heard of.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import structlog

from gateway.core.model import StoreUnavailable
from gateway.core.revocations import Revoked, Target
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.identity import outages
from gateway.identity.gaps import Gaps
from gateway.identity.heard_changes import Joined, Listening, Pending
from gateway.identity.local_cache import LocalCache
from gateway.identity.revocations.blacklist_sync import under_configured_names
from gateway.identity.revocations.remembered_revocations import Hearing
from gateway.identity.touched_keys import Observer, TouchedKeys
from gateway.stores.postgres.change_stream.listener import Changed, Everything
from gateway.stores.redis.answers import Epoch
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.ownership import ForeignRedis

_PENDING: Final = 10_000
"""Changes that may wait for Redis; beyond that, everything is given up there."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class SharedTier(Protocol):
    """Redis, as far as changes go. Every method raises `StoreUnavailable`."""

    async def bury(self, identities: Sequence[tuple[str, str]], version: int) -> None:
        """Drop documents, by issuer name and subject, and refuse what was read before `version`."""

    async def epoch(self) -> Epoch | None:
        """Return the current epoch, if a worker keeps one."""

    async def begin_epoch(self, heartbeat: str, version: int = 0) -> Epoch:
        """Begin an epoch unless there is one; returns the current one.

        Nothing that was read before `version` may be stored in it.
        """

    async def keep_epoch(self, name: str, heartbeat: str) -> bool:
        """Keep an epoch alive; False when it is not the current one."""

    async def end_epoch(self, version: int) -> None:
        """Void every document that was stored before `version`."""


class Blacklist(Protocol):
    """The revocations in Redis. Every method raises `StoreUnavailable`."""

    async def apply(self, changes: Sequence[Revoked]) -> None:
        """Write and lift revocations."""

    async def load(self) -> None:
        """Copy all revocations from Postgres."""

    def doubt(self) -> None:
        """Have Postgres asked until all revocations have been copied."""


class LearntRevocations(Protocol):
    """What is remembered of revocations that Redis alone knows."""

    def touched(self, target: Target) -> None:
        """Take note of a key that was set, deleted or has expired."""

    def lifted_unnamed(self) -> None:
        """Take note that any revocation may have been lifted in Postgres."""

    def lifted(self, target: Target) -> None:
        """Take note that a revocation was lifted in Postgres."""


class Invalidation:
    """Implements `listener.ChangeListener`; `touched_keys` implements `change_stream.KeysListener`.

    `issuers` maps the configured names to their `iss`; changes of any other `iss` concern no user here.
    `keys` are those in Redis, `retry` the seconds until it is told again what it could not be.
    `latest` asks for the latest transaction, where users are read from a replica: one that lags behind the
    beginning of an epoch must not fill it. It may raise `StoreUnavailable`.
    """

    def __init__(
        self,
        local: LocalCache,
        shared: SharedTier,
        blacklist: Blacklist,
        issuers: Mapping[str, str],
        *,
        keys: Keys,
        observer: Observer,
        latest: Callable[[], Awaitable[int]] | None = None,
        retry: float = 0.2,
        learnt_revocations: LearntRevocations | None = None,
    ) -> None:
        issuers = IssuerNames(issuers)
        self._latest = latest
        self._learnt = learnt_revocations
        self.touched_keys = TouchedKeys(
            self,
            local,
            issuers,
            keys,
            observer,
            *(() if learnt_revocations is None else (learnt_revocations.touched,)),
        )
        self._local = local
        self._shared = shared
        self._blacklist = blacklist
        self._issuers = issuers
        self._observer = observer
        self._retry = retry
        self._subscribers: list[Callable[[], None]] = []
        self._listening: Listening | None = None
        self._joined: Joined | None = None
        self._condemned: str | None = None
        """An epoch that must lapse: it had a change that could not be read."""
        self._gaps = Gaps()
        """When revocations may have gone unheard, which only a filling of the blacklist mends."""
        self._pending = Pending()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._closed = False
        self._outages = outages.of_stream("postgres")
        self._told_trusted = False

    @property
    def trusted(self) -> bool:
        """Whether memory answers."""
        return self._local.is_open

    @property
    def hearing(self) -> Hearing | None:
        """The time since Postgres is listened to without a break; None if it is not."""
        return self._listening

    def believes(self, epoch: str) -> bool:
        """Tell whether every change in an epoch is heard of here, and so whether its documents count."""
        return self._joined is not None and epoch == self._joined.epoch

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called after anything was dropped; returns what ends that.

        What it asks the tiers in reply may still be old, for as long as Redis takes to hear of the
        change; then it is called again.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def start(self) -> None:
        """Begin to work in the background, until `close`."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Trust memory no longer, and stop; an epoch that no other worker keeps lapses."""
        self._closed = True
        self._leave()
        tasks = [task for task in (self._worker, self._loading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What Postgres tells -----------------------------------------------------------------------------

    def listening(self) -> None:
        self._listening = Listening()
        self._gaps.notice()
        # What came unheard until here may have changed anything; what comes from here on will be heard.
        self._local.flush()
        self.tell()

    def lost(self, detail: str) -> None:
        self._outages.failed(detail)
        self._listening = None
        self._leave()

    def heard(self, heartbeat: str, own: bool) -> None:  # noqa: FBT001 -- the Protocol's
        if self._listening is None:
            return
        self._listening.heard(heartbeat)
        if own:
            self._outages.proven()
            self._listening.own = heartbeat
            self._listening.proofs += 1
            self._local.prove()
            self._wake.set()

    def changed(self, change: Changed | Revoked | Everything) -> None:
        self._observer.invalidated("postgres")
        match change:
            case Changed():
                self._local.forget_identities(change.identities)
                self._local.forget_users(change.users)
                names = [
                    (name, sub) for iss, sub in change.identities for name in self._issuers.names_of(iss)
                ]
                self._pending.add(Pending(dict.fromkeys(names), change.version))
            case Revoked():
                self._revoked(change)
            case Everything():
                self._local.forget_everything()
                self._everything(change.version)
        if len(self._pending.identities) + len(self._pending.revoked) > _PENDING:
            self._everything(change.version)
        self._wake.set()
        self.tell()

    def _revoked(self, change: Revoked) -> None:
        for revocation in under_configured_names([change.revocation], self._issuers):
            match revocation.kind:
                case "jti":
                    self._local.forget_tokens([(revocation.issuer, revocation.value)])
                case "user":
                    self._local.forget_users([revocation.value])
                case "issuer":
                    self._local.forget_issuers([revocation.issuer])
            if change.lifted and self._learnt is not None:
                self._learnt.lifted(revocation.target)
            # Rows with the two spellings of one issuer are not changed one after the other.
            order = change.order if revocation.issuer == change.revocation.issuer else 0
            placed = replace(change, revocation=revocation, order=order)
            # The last change is to come last also among those that wait already.
            self._pending.revoked.pop(revocation.target, None)
            self._pending.revoked[revocation.target] = placed

    def _everything(self, version: int) -> None:
        """Give up all that is in Redis: what changed is too much to be named."""
        self._gaps.notice()
        if self._learnt is not None:
            self._learnt.lifted_unnamed()
        self._blacklist.doubt()
        if version > 0:
            # Ids are in no order of commits: what waits, and is told in no other way, may have a higher one.
            version = max(version, self._pending.version)
        self._pending = Pending(everything=max(version, self._pending.everything or 0))

    # Trust -------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Open or close the local tier, as what it rests on is there or not."""
        trusted = self._joined is not None and self.touched_keys.up
        if trusted and not self._local.is_open:
            self._local.open()
            # Once: what closes it later, a stream or Redis that is away, tells of its own coming and going.
            if not self._told_trusted:
                self._told_trusted = True
                log.info("local_tier_trusted")
            # What came unheard until here may have changed anything.
            self.tell()
        elif not trusted and self._local.is_open:
            self._local.close()
            self.tell()

    def _leave(self) -> None:
        self._joined = None
        self.judge()

    def tell(self) -> None:
        for callback in tuple(self._subscribers):
            callback()

    # What Redis is told ------------------------------------------------------------------------------

    async def _work(self) -> None:
        # A cancellation may be lost in a client that is being timed out at that moment.
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            # What was heard before this heartbeat is pending, or done.
            beat = None if self._listening is None else self._listening.own
            try:
                await self._carry()
                await self._guard(beat)
                continue
            except ForeignRedis:
                # What it tells of keys is of another's, too.
                self._leave()
            except StoreUnavailable as error:
                log.debug("redis_not_told_of_changes", error=str(error))
            except Exception:
                # No caller awaits this task; the epoch lapses if it goes on.
                log.exception("redis_not_told_of_changes")
            await asyncio.sleep(self._retry)
            self._wake.set()

    async def _carry(self) -> None:
        """Do in Redis what has been heard of so far; what fails stays to be done."""
        pending, self._pending = self._pending, Pending()
        try:
            try:
                if pending.identities:
                    await self._shared.bury(list(pending.identities), pending.version)
            finally:
                # The blacklist is doubted where it cannot be told, whatever else could not.
                if pending.revoked:
                    await self._blacklist.apply(list(pending.revoked.values()))
            if pending.everything is not None:
                if pending.everything > 0:
                    await self._shared.end_epoch(pending.everything)
                else:
                    epoch = await self._shared.epoch()
                    self._condemned = None if epoch is None else epoch.name
                # What was read from Redis until this moment may be older than the change.
                self._local.flush()
                self._leave()
        except BaseException:
            pending.add(self._pending)
            self._pending = pending
            raise

    async def _guard(self, beat: str | None) -> None:
        """Keep the epoch alive, or join one, or begin one, on the strength of a heartbeat that came back."""
        listening, joined = self._listening, self._joined
        if listening is None or beat is None or beat not in listening.heartbeats:
            return
        if joined is not None and beat == joined.kept:
            return
        if self._gaps.open:
            if self._loading is None:
                self._loading = asyncio.create_task(self._load())
            return
        if joined is not None:
            if await self._shared.keep_epoch(joined.epoch, beat):
                joined.kept = beat
                return
            self._leave()
        epoch = await self._shared.epoch()
        if epoch is None:
            version = 0 if self._latest is None else await self._latest()
            epoch = await self._shared.begin_epoch(beat, version)
        if epoch.name == self._condemned:
            return
        if self._listening is listening and epoch.heartbeat in listening.heartbeats:
            self._joined = Joined(epoch.name, beat)
            self.judge()

    async def _load(self) -> None:
        gaps = self._gaps.before_copy()
        try:
            await self._blacklist.load()
            self._gaps.close(gaps)
            self._wake.set()
        except ForeignRedis:
            pass  # told of once, as a dependency that is down
        except StoreUnavailable as error:
            # The blacklist logs its outages; the next heartbeat is the next attempt.
            log.debug("revocations_not_loaded", error=str(error))
        except Exception:
            log.exception("revocations_not_loaded")
        finally:
            self._loading = None
