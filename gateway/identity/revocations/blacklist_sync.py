"""The blacklist in Redis, filled from Postgres and kept complete."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from gateway.core.model import RevocationKind, StoreUnavailable
from gateway.core.revocations import Revocation, Revoked, strongest
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.identity.gaps import Gaps
from gateway.stores.postgres.database import Postgres
from gateway.stores.redis.ownership import ForeignRedis
from gateway.stores.redis.shared_tier import RedisTier

INTERVAL: Final = 30.0
"""Seconds between two fillings, after which a row that no change reported is on the blacklist, too."""
_RETRY: Final = 2.0
"""The shortest time in seconds between two fillings that requests cause."""
_DEAF_INTERVAL: Final = 3.0
"""Seconds between two fillings while no change is received; until then, a lifted row still counts."""
_DEAF_SHARE: Final = 0.05
"""The largest share of the time that these fillings of all processes take, however many rows there are."""
_WATCH: Final = 1.0
"""Seconds between two probes of Redis, which notice an outage even if there are no requests."""
PRUNING: Final = 3600.0
"""Seconds between two removals of expired rows by each process, plus or minus a half."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def under_configured_names(revocations: Iterable[Revocation], issuers: Mapping[str, str]) -> list[Revocation]:
    """Replace the `iss` of an issuer in rows with its configured name; `issuers` maps names to `iss`."""
    known = issuers if isinstance(issuers, IssuerNames) else IssuerNames(issuers)
    placed = []
    for revocation in revocations:
        issuer = revocation.issuer
        names = dict.fromkeys([*([issuer] if issuer in known else []), *known.names_of(issuer)])
        placed += [replace(revocation, issuer=name) for name in names or [issuer]]
    return placed


class BlacklistSync:
    """Fills the blacklist at the start, every `INTERVAL`, and whenever it may be incomplete.

    It writes single rows that change to the blacklist at once, and removes expired rows from Postgres.
    """

    def __init__(
        self,
        postgres: Postgres,
        redis: RedisTier,
        issuers: Mapping[str, str],
        *,
        hears: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`hears` tells whether this process receives the changes in Postgres at this moment."""
        self._hears = hears
        self._postgres = postgres
        self._redis = redis
        self._revoked = redis.revoked
        self._issuers = IssuerNames(issuers)
        self._clock = clock
        self._gaps = Gaps()
        """Times in which Redis did not answer, and may have missed revocations."""
        self._attempted_at: float | None = None
        self._filled_at = -math.inf
        self._filling_took = 0.0
        self._load_failed = False
        self._loading: asyncio.Task[None] | None = None
        self._closed = False
        self._running: list[asyncio.Task[None]] = []

    @property
    def trusted(self) -> bool:
        """False: Redis was away, and may lack revocations of that time."""
        return not self._gaps.open

    def doubt(self) -> None:
        """Record that Redis did not answer."""
        self._gaps.notice()

    async def load(self) -> None:
        """Copy every revocation in Postgres that counts to Redis, and remove all other copies from Redis.

        An outage is one line of the log when it begins and one when it ends. Raises `StoreUnavailable`.
        """
        try:
            await self._load()
        except ForeignRedis:
            raise  # logged once, as a dependency that is down
        except StoreUnavailable as error:
            if not self._load_failed:
                self._load_failed = True
                log.warning("revocations_not_loaded", error=str(error))
            raise
        if self._load_failed:
            self._load_failed = False
            log.info("revocations_loaded")

    async def _load(self) -> None:
        gaps, filled, began_at = self._gaps.before_copy(), False, self._clock()
        while not filled:
            filling = await self._revoked.begin_filling()
            rows = under_configured_names(await self._postgres.counting_revocations(), self._issuers)
            filled = await self._revoked.fill(strongest(rows), filling)
        self._gaps.close(gaps)
        self._filled_at = self._clock()
        self._filling_took = self._filled_at - began_at

    async def apply(self, changes: Sequence[Revoked]) -> None:
        """Write or lift rows that have changed; their `issuer` is the configured name.

        Pass at most one change of each row; any number of workers may apply the same one. Raises
        `StoreUnavailable`. If Redis failed, the blacklist is not trusted until it has been filled.
        """
        try:
            still_revoked = await self._still_revoked(
                [change.revocation for change in changes if change.lifted]
            )
        except StoreUnavailable:
            # Only Postgres knows which rows may be lifted; new revocations do not wait for that.
            await self._write([change for change in changes if not change.lifted])
            raise
        await self._write(
            [
                replace(change, revocation=still_revoked[change.revocation.target], lifted=False)
                if change.revocation.target in still_revoked
                else change
                for change in changes
            ]
        )

    async def _write(self, changes: Sequence[Revoked]) -> None:
        try:
            await self._revoked.apply(changes)
        except StoreUnavailable:
            self.doubt()
            raise

    async def _still_revoked(
        self, lifted: Sequence[Revocation]
    ) -> dict[tuple[RevocationKind, str, str], Revocation]:
        """Return the lifted rows that another row, with the other spelling of its issuer, still revokes."""
        if not lifted:
            return {}
        spelt = [
            replace(row, issuer=issuer)
            for row in lifted
            for issuer in {row.issuer, self._issuers.get(row.issuer, row.issuer)}
        ]
        rows = await self._postgres.counting_revocations(spelt)
        return {row.target: row for row in strongest(under_configured_names(rows, self._issuers))}

    def request(self) -> None:
        """Have the blacklist filled in the background, unless an attempt has just been made."""
        now = self._clock()
        if self._loading is not None or (
            self._attempted_at is not None and now - self._attempted_at < _RETRY
        ):
            return
        self._attempted_at = now
        self._loading = asyncio.create_task(self._try())

    async def _try(self) -> None:
        try:
            await self.load()
        except StoreUnavailable:
            pass  # logged when the outage began
        except Exception:
            # No caller awaits this task; the next attempt may do better.
            log.exception("revocations_not_loaded")
        finally:
            self._loading = None

    def start(self, interval: float = INTERVAL, watch: float = _WATCH, pruning: float = PRUNING) -> None:
        """Fill the blacklist, and again every `interval` seconds, until `close`.

        Every `watch` seconds, Redis is probed and Postgres is asked which database it is. About every
        `pruning` seconds, expired rows are removed.
        """
        self._running = [
            asyncio.create_task(self._run(interval)),
            asyncio.create_task(self._watch(watch)),
            asyncio.create_task(self._identify(watch)),
            asyncio.create_task(self._prune(pruning)),
        ]

    async def _run(self, interval: float) -> None:
        while not self._closed:
            self.request()
            await asyncio.sleep(interval)

    async def _watch(self, interval: float) -> None:
        # A client that runs into a timeout at that moment may swallow the cancellation.
        while not self._closed:
            await asyncio.sleep(interval)
            try:
                await self._redis.ping()
            except StoreUnavailable:
                self.doubt()
                continue
            except Exception:
                log.exception("redis_not_watched")
                self.doubt()
                continue
            if not self.trusted or await self._is_ours_to_fill():
                self.request()

    async def _is_ours_to_fill(self) -> bool:
        """Return True if this process must fill: it receives no changes, and no other has just filled."""
        pause = max(_DEAF_INTERVAL, self._filling_took / _DEAF_SHARE)
        if self._hears() or self._clock() - self._filled_at < pause:
            return False
        with suppress(StoreUnavailable):
            # One filling serves all processes.
            return await self._revoked.take_turn(pause)
        return False

    async def _identify(self, interval: float) -> None:
        """Ask regularly which database Postgres is: behind a pooler, it may change without a reconnect."""
        while not self._closed:
            await asyncio.sleep(interval)
            try:
                self._redis.ownership.heard(await self._postgres.identify())
                if self._postgres.availability.up is False:
                    # It answers this question. Does it answer those of requests? A probe finds out.
                    await self._postgres.ping()
            except StoreUnavailable:
                continue  # requests and `/readyz` report that
            except Exception:
                log.exception("database_not_identified")

    async def _prune(self, interval: float) -> None:
        failed = False
        while not self._closed:
            # Processes that started together do not all ask at once.
            await asyncio.sleep(interval * random.uniform(0.5, 1.5))  # noqa: S311 -- spreads load, guards nothing
            try:
                pruned = await self._postgres.prune()
            except StoreUnavailable as error:
                if not failed:
                    log.warning("revocations_not_pruned", error=str(error))
                failed = True
            except Exception:
                log.exception("revocations_not_pruned")
            else:
                failed = False
                log.info("revocations_pruned", rows=pruned)

    async def close(self) -> None:
        """Stop the background work; the blacklist stays as it is."""
        self._closed = True
        tasks = [*self._running, *([] if self._loading is None else [self._loading])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
