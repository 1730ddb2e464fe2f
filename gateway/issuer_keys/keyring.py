"""The keys of every configured issuer: fetched early, and refreshed in the background.

Each issuer has its own state, its own task and its own back-off, so that one's trouble stays its own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gateway.core.tokens.jws import KeySet
from gateway.issuer_keys.fetch import Fetcher
from gateway.issuer_keys.group import KeyGroup
from gateway.issuer_keys.issuer import Attempt, IssuerKeys, KeyObserver, KeyStatus
from gateway.issuer_keys.sources import KeySource, LoadedKeys, PerTenant, Several
from gateway.issuer_keys.tenants import TenantKeys

START_TIMEOUT: Final = 3.0
"""Seconds that a start waits for issuers; the slower ones arrive in the background."""
MAX_STALE: Final = 86_400.0
"""Seconds for which keys are trusted after their issuer was last heard."""


class KeyRing:
    """The key sets of all issuers, by realm; implements the pipeline's `Keys`.

    `sources` are by configured name, which is the realm of an issuer without a pattern. With one, each
    tenant has a realm of its own (`core.tokens.issuer_patterns`).

    `on_change` is called with a realm and its new set whenever that differs from the one before, with an
    empty set when the old one became too old to trust: what was verified with a key that left must be
    forgotten. `max_stale` is in seconds: keys are loaded again twice in that time at least. `clock` gives
    monotonic seconds; `sleep` is what the background does, `pause` what requests do. The fetcher remains its
    owner's to close.
    """

    def __init__(
        self,
        sources: Mapping[str, KeySource],
        *,
        fetcher: Fetcher,
        observer: KeyObserver,
        on_change: Callable[[str, KeySet], None] | None = None,
        max_stale: float = MAX_STALE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._fetcher = fetcher
        self._observer = observer
        self._on_change = on_change
        self._max_stale = max_stale
        self._clock = clock
        self._sleep = sleep
        self._pause = pause
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._sources = dict(sources)
        self._realms: dict[str, IssuerKeys | KeyGroup | TenantKeys] = {}
        """By realm; and the tenants of each pattern, by its configured name."""
        for name, source in sources.items():
            if isinstance(source, PerTenant):
                self._realms[name] = tenants = TenantKeys(_Tenants(self, name, source), source.tenants, clock)
                for tenant in source.tenants or ():
                    keys = self._make(f"{name}/{tenant}", name, source.source_of(tenant), quiet=False)
                    tenants.known[tenant] = self._realms[f"{name}/{tenant}"] = keys
            else:
                self._realms[name] = self._make(name, name, source, quiet=False)

    def _make(self, realm: str, label: str, source: KeySource, *, quiet: bool) -> IssuerKeys | KeyGroup:
        def keys(source: KeySource, on_change: Callable[[str, KeySet], None] | None) -> IssuerKeys:
            return IssuerKeys(
                realm, source, self._fetcher, self._observer, on_change, self._max_stale, self._clock,
                self._pause, label=label, quiet=quiet,
            )  # fmt: skip

        if not isinstance(source, Several):
            return keys(source, self._on_change)

        def changed(realm: str, _: KeySet) -> None:
            if self._on_change is not None:
                self._on_change(realm, group.current() or KeySet(()))

        group = KeyGroup(source, [keys(each, changed) for each in source.sources])
        return group

    async def start(self, timeout: float = START_TIMEOUT) -> None:  # noqa: ASYNC109 -- does not raise: the wait ends, the work goes on
        """Load the keys of all issuers at once, and keep them fresh from then on.

        Returns when each has been tried, or after `timeout` seconds.
        """
        attempts = []
        for realm, keys in self._realms.items():
            if not isinstance(keys, TenantKeys):
                attempts += self._maintained(realm, keys)
        if attempts:
            await asyncio.wait([attempt.task for attempt in attempts], timeout=timeout)

    def _maintained(self, realm: str, keys: IssuerKeys | KeyGroup) -> list[Attempt]:
        """Keep keys fresh from now on; return the attempts that are under way."""
        attempts = {member: member.load() for member in keys.members}
        self._tasks[realm] = [asyncio.create_task(self._maintain(*pair)) for pair in attempts.items()]
        return [*attempts.values()]

    async def close(self) -> None:
        """Stop the background work; the keys there are remain."""
        tasks = [task for group in self._tasks.values() for task in group]
        for keys in self._realms.values():
            if isinstance(keys, TenantKeys):
                await keys.close()
            else:
                tasks += [each.task for member in keys.members for each in member.attempts]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def current(self, realm: str) -> KeySet | None:
        """Return the keys to trust now; None when there never were any or they are too old."""
        try:
            keys = self._realms[realm]
        except KeyError:
            return None
        return keys.current()

    async def refresh(self, realm: str, kid: str | None, algorithm: str) -> bool:
        """Look for a key that is not in the set: start or join a fetch, if one is allowed now.

        Returns whether the set, as it is then, is what the issuer says: a key that is not in it does not
        exist, and neither does a tenant that has none. False: the issuer cannot be heard, or the key is one
        of those that were left out. Waits for `PATIENCE` at most until a fetch is allowed, and as long for
        the issuer. A caller that is cancelled leaves the fetch to the others.
        """
        # From here on the request is a task; what comes before costs no turn of the event loop.
        await asyncio.sleep(0)
        keys = self._realms.get(realm)
        if keys is None:
            name, _, tenant = realm.partition("/")
            tenants = self._realms[name]
            return isinstance(tenants, TenantKeys) and await tenants.admit(tenant)
        return not isinstance(keys, TenantKeys) and await keys.find(kid, algorithm)

    async def reload(self, name: str) -> None:
        """Load an issuer's keys because an operator asks, however recently they were loaded.

        Joins a fetch that is under way, and waits until it has ended; `status` tells how. With a pattern,
        the keys of all tenants that are known are loaded.
        """
        keys = self._realms[name]
        groups = [*keys.known.values()] if isinstance(keys, TenantKeys) else [keys]
        attempts = [member.load() for group in groups for member in group.members]
        if attempts:
            await asyncio.wait([attempt.task for attempt in attempts])

    async def look(self, realm: str) -> LoadedKeys:
        """Return the keys that an issuer has at its place at this moment, without taking note of them.

        Raises `FetchError`.
        """
        keys = self._realms.get(realm)
        if keys is not None and not isinstance(keys, TenantKeys):
            return await keys.source.load(self._fetcher)
        name, _, tenant = realm.partition("/")
        source = self._sources[name]
        if isinstance(source, PerTenant) and tenant:
            source = source.source_of(tenant)
        return await source.load(self._fetcher)

    def status_of(self, realm: str) -> KeyStatus:
        """Tell how things stand with one realm. Raises KeyError if it is not known."""
        return self._realms[realm].status()

    def status(self) -> dict[str, KeyStatus]:
        """Tell how things stand, by realm; under the configured name of a pattern for all its tenants."""
        return {realm: keys.status() for realm, keys in self._realms.items()}

    async def _maintain(self, issuer: IssuerKeys, attempt: Attempt) -> None:
        while True:
            await asyncio.wait((attempt.task,))
            await issuer.rest(self._sleep)
            attempt = issuer.load()

    # Tenants that the configuration does not list -----------------------------------------------------------

    def _admit(self, realm: str, keys: IssuerKeys | KeyGroup) -> None:
        self._realms[realm] = keys
        self._tasks[realm] = [asyncio.create_task(self._rested(member)) for member in keys.members]

    async def _rested(self, issuer: IssuerKeys) -> None:
        await issuer.rest(self._sleep)
        await self._maintain(issuer, issuer.load())

    def _drop(self, realm: str) -> None:
        keys = self._realms.pop(realm, None)
        tasks = self._tasks.pop(realm, [])
        if isinstance(keys, IssuerKeys | KeyGroup):
            tasks += [each.task for member in keys.members for each in member.attempts]
        for task in tasks:
            task.cancel()
        if self._on_change is not None:
            self._on_change(realm, KeySet(()))


class _Tenants:
    """The `Host` of the tenants of one pattern."""

    def __init__(self, ring: KeyRing, name: str, source: PerTenant) -> None:
        self._ring = ring
        self._name = name
        self._source = source

    def make(self, tenant: str) -> IssuerKeys | KeyGroup:
        source = self._source.source_of(tenant)
        return self._ring._make(f"{self._name}/{tenant}", self._name, source, quiet=True)

    def keep(self, tenant: str, keys: IssuerKeys | KeyGroup) -> None:
        self._ring._admit(f"{self._name}/{tenant}", keys)  # noqa: SLF001 -- a part of the ring

    def drop(self, tenant: str) -> None:
        self._ring._drop(f"{self._name}/{tenant}")  # noqa: SLF001 -- a part of the ring
