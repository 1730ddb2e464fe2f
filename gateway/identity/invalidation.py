"""Invalidation: applies each received change to memory and to Redis, and decides when memory may be trusted.

Postgres sends changes in one order, the same to all listeners. Each worker drops the entries in its memory,
and then deletes the documents in Redis. A document in Redis counts only in the current epoch, which workers
keep alive. To keep it alive, a worker uses a heartbeat of its own that it has received back from Postgres,
after it has applied to Redis every change that came before that heartbeat. If no worker keeps the epoch
alive for a while, it lapses, and no document of it counts any more. A worker that begins to listen joins an
epoch only after it has received the heartbeat that last kept the epoch alive: earlier changes have been
applied to Redis, and later ones it has received itself.

The local tier is open while the worker listens to Postgres, has joined an epoch, and receives from Redis the
keys that others write.

========= ================================== ========= =====================================================
State     Event                              Next      What follows
========= ================================== ========= =====================================================
deaf      the worker listens to Postgres     listening memory is dropped; the blacklist may have a gap
listening our heartbeat came back, and       listening the blacklist is copied from Postgres
          the blacklist may have a gap
listening our heartbeat came back, and no    joined    an epoch begins
          worker keeps an epoch
listening our heartbeat came back, and the   joined    memory may answer
          epoch's last one was received
joined    our heartbeat came back            joined    the epoch is kept alive
joined    the epoch is not the current one;  listening memory no longer answers
          Redis belongs to another database
any       the connection to Postgres is lost deaf      memory no longer answers
========= ================================== ========= =====================================================

Before each of these steps, every change that was received is applied to Redis.
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
"""Changes that may wait for Redis; beyond that, all documents in Redis are voided."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class SharedTier(Protocol):
    """The operations on Redis that changes need. Every method raises `StoreUnavailable`."""

    async def bury(self, identities: Sequence[tuple[str, str]], version: int) -> None:
        """Delete documents, by issuer name and subject, and refuse documents read before `version`."""

    async def epoch(self) -> Epoch | None:
        """Return the current epoch, if a worker keeps one."""

    async def begin_epoch(self, heartbeat: str, version: int = 0) -> Epoch:
        """Begin an epoch unless there is one; returns the current one.

        No document that was read before `version` may be stored in it.
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
        """Let look-ups ask Postgres until all revocations have been copied."""


class LearntRevocations(Protocol):
    """The revocations that exist in Redis only, as far as this worker remembers them."""

    def touched(self, target: Target) -> None:
        """Record that a key was set, deleted or has expired."""

    def lifted_unnamed(self) -> None:
        """Record that any revocation may have been lifted in Postgres."""

    def lifted(self, target: Target) -> None:
        """Record that a revocation was lifted in Postgres."""


class Invalidation:
    """Implements `listener.ChangeListener`; `touched_keys` implements `change_stream.KeysListener`.

    `issuers` maps the configured names to their `iss`; changes of any other `iss` concern no user here.
    `keys` are those in Redis. `retry` is the time in seconds after which failed changes are applied again.
    If users are read from a replica, `latest` returns the latest transaction of the primary: a replica that
    lags behind the beginning of an epoch must not fill it. It may raise `StoreUnavailable`.
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
        """An epoch that must lapse: a change in it could not be read."""
        self._gaps = Gaps()
        """Times in which a revocation may have been missed, until the blacklist is copied again."""
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
        """The time in which the worker listens without interruption; None if it does not listen."""
        return self._listening

    def believes(self, epoch: str) -> bool:
        """Tell whether this worker receives every change in an epoch, and so whether its documents count."""
        return self._joined is not None and epoch == self._joined.epoch

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` each time after entries were dropped; returns what ends the subscription.

        If the callback asks the tiers, Redis may still give an old answer, until the change has been applied
        to it. Then the callback is called again.
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

    # Changes from Postgres ---------------------------------------------------------------------------

    def listening(self) -> None:
        self._listening = Listening()
        self._gaps.notice()
        # Before this moment any change may have been missed; from now on, each one is received.
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
            # Two rows with the two spellings of one issuer have no common order of changes.
            order = change.order if revocation.issuer == change.revocation.issuer else 0
            placed = replace(change, revocation=revocation, order=order)
            # The latest change must also be the last one among those that wait.
            self._pending.revoked.pop(revocation.target, None)
            self._pending.revoked[revocation.target] = placed

    def _everything(self, version: int) -> None:
        """Void all documents in Redis, because too many things changed to be named."""
        self._gaps.notice()
        if self._learnt is not None:
            self._learnt.lifted_unnamed()
        self._blacklist.doubt()
        if version > 0:
            # Ids do not follow the order of commits: a change that waits here, and is dropped now, may have a
            # higher one.
            version = max(version, self._pending.version)
        self._pending = Pending(everything=max(version, self._pending.everything or 0))

    # Trust -------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Open or close the local tier, depending on whether its conditions are met."""
        trusted = self._joined is not None and self.touched_keys.up
        if trusted and not self._local.is_open:
            self._local.open()
            # Logged once: a stream or Redis that closes it later logs its own outage.
            if not self._told_trusted:
                self._told_trusted = True
                log.info("local_tier_trusted")
            # Before this moment any change may have been missed.
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

    # Changes to Redis --------------------------------------------------------------------------------

    async def _work(self) -> None:
        # A client that runs into a timeout at that moment may swallow the cancellation.
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            # Every change that was received before this heartbeat is pending, or has been applied.
            beat = None if self._listening is None else self._listening.own
            try:
                await self._carry()
                await self._guard(beat)
                continue
            except ForeignRedis:
                # Its notifications of keys are about the data of another database, too.
                self._leave()
            except StoreUnavailable as error:
                log.debug("redis_not_told_of_changes", error=str(error))
            except Exception:
                # No caller awaits this task. If the error persists, the epoch lapses.
                log.exception("redis_not_told_of_changes")
            await asyncio.sleep(self._retry)
            self._wake.set()

    async def _carry(self) -> None:
        """Apply to Redis the changes that were received so far; those that fail stay pending."""
        pending, self._pending = self._pending, Pending()
        try:
            try:
                if pending.identities:
                    await self._shared.bury(list(pending.identities), pending.version)
            finally:
                # Also if the deletion failed: `apply` marks the blacklist as incomplete if it fails itself.
                if pending.revoked:
                    await self._blacklist.apply(list(pending.revoked.values()))
            if pending.everything is not None:
                if pending.everything > 0:
                    await self._shared.end_epoch(pending.everything)
                else:
                    epoch = await self._shared.epoch()
                    self._condemned = None if epoch is None else epoch.name
                # Entries that were read from Redis before this moment may be older than the change.
                self._local.flush()
                self._leave()
        except BaseException:
            pending.add(self._pending)
            self._pending = pending
            raise

    async def _guard(self, beat: str | None) -> None:
        """Keep the epoch alive, or join one, or begin one, with a heartbeat that came back."""
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
            pass  # logged once, as a dependency that is down
        except StoreUnavailable as error:
            # The blacklist logs its outages; the next heartbeat is the next attempt.
            log.debug("revocations_not_loaded", error=str(error))
        except Exception:
            log.exception("revocations_not_loaded")
        finally:
            self._loading = None
