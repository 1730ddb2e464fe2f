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
"""Seconds after which a row that was written to Postgres alone is on the blacklist too."""
_RETRY: Final = 2.0
"""Seconds between two attempts that requests may cause."""
_DEAF_INTERVAL: Final = 3.0
"""Seconds between two fillings while no change is heard of: a row that was lifted is refused until then."""
_DEAF_SHARE: Final = 0.05
"""The share of the time that these fillings may take, of all processes, however many rows there are."""
_WATCH: Final = 1.0
"""Seconds after which Redis's absence is noticed though no request comes."""
PRUNING: Final = 3600.0
"""Seconds between two removals of expired rows, by each process; give or take a half."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def under_configured_names(revocations: Iterable[Revocation], issuers: Mapping[str, str]) -> list[Revocation]:
    """Put rows whose `issuer` is an `iss` under that issuer's name; `issuers` maps names to `iss`."""
    known = issuers if isinstance(issuers, IssuerNames) else IssuerNames(issuers)
    placed = []
    for revocation in revocations:
        issuer = revocation.issuer
        names = dict.fromkeys([*([issuer] if issuer in known else []), *known.names_of(issuer)])
        placed += [replace(revocation, issuer=name) for name in names or [issuer]]
    return placed


class BlacklistSync:
    """Fills the blacklist at the start, every `INTERVAL`, and whenever it cannot be relied on.

    Single rows that change are written to it at once. Rows that have expired are removed from Postgres.
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
        """`hears` tells whether changes in Postgres are heard of at this moment."""
        self._hears = hears
        self._postgres = postgres
        self._redis = redis
        self._revoked = redis.revoked
        self._issuers = IssuerNames(issuers)
        self._clock = clock
        self._gaps = Gaps()
        """When Redis did not answer, and may have missed revocations."""
        self._attempted_at: float | None = None
        self._filled_at = -math.inf
        self._filling_took = 0.0
        self._load_failed = False
        self._loading: asyncio.Task[None] | None = None
        self._closed = False
        self._running: list[asyncio.Task[None]] = []

    @property
    def trusted(self) -> bool:
        """False: Redis was away, and may have missed what was revoked meanwhile."""
        return not self._gaps.open

    def doubt(self) -> None:
        """Take note that Redis did not answer."""
        self._gaps.notice()

    async def load(self) -> None:
        """Have Redis hold every revocation that counts in Postgres, and no other of its rows.

        An outage is one line of the log when it begins and one when it ends. Raises `StoreUnavailable`.
        """
        try:
            await self._load()
        except ForeignRedis:
            raise  # told of once, as a dependency that is down
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

        At most one change of each row; any number of workers may apply the same. Raises
        `StoreUnavailable`; if it was Redis that could not be told, that is not trusted until the
        blacklist has been filled.
        """
        try:
            still_revoked = await self._still_revoked(
                [change.revocation for change in changes if change.lifted]
            )
        except StoreUnavailable:
            # Only Postgres could tell what may be lifted; new revocations do not wait for that.
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
        """Have the blacklist filled in the background, unless that has just been tried."""
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

        Every `watch` seconds Redis is asked whether it is there, and Postgres which database it is; about
        every `pruning` seconds expired rows are removed.
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
        # A cancellation may be lost in a client that is being timed out at that moment.
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
        """Return True if no change has been heard of for too long, and no other process makes up for it."""
        pause = max(_DEAF_INTERVAL, self._filling_took / _DEAF_SHARE)
        if self._hears() or self._clock() - self._filled_at < pause:
            return False
        with suppress(StoreUnavailable):
            # What one process fills serves all.
            return await self._revoked.take_turn(pause)
        return False

    async def _identify(self, interval: float) -> None:
        """Ask now and then which database Postgres is: behind a pooler, it may become another unseen."""
        while not self._closed:
            await asyncio.sleep(interval)
            try:
                self._redis.ownership.heard(await self._postgres.identify())
                if self._postgres.availability.up is False:
                    # It answers: does it answer requests, though none and no probe has asked?
                    await self._postgres.ping()
            except StoreUnavailable:
                continue  # requests and `/readyz` tell of that
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
