"""The keys of the tenants of a pattern: each tenant's its own, and a bounded number of them.

Listed tenants are like issuers of their own. Where any tenant is accepted, the `iss` of a token that is not
verified yet says which one to ask for, and clients can invent tenants. So the fetches for unknown tenants are
bounded, only tenants that the issuer has are kept, and the pattern alone says which host is asked.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from gateway.core.caches import LRU
from gateway.core.tokens.issuer_patterns import MAX_TENANTS
from gateway.core.tokens.jws import KeySet
from gateway.issuer_keys.demand import MAX_ABSENT, FetchAllowance
from gateway.issuer_keys.group import KeyGroup, together
from gateway.issuer_keys.issuer import PATIENCE, IssuerKeys, KeyStatus

BURST: Final = 20
REFILL_SECONDS: Final = 0.5
"""Fetches for unknown tenants of one issuer: a burst, and the seconds per further one."""
ABSENT_SECONDS: Final = 30.0
"""Seconds for which a tenant counts as unknown to its issuer."""


class Host(Protocol):
    """The ring that the tenants are part of."""

    def make(self, tenant: str) -> IssuerKeys | KeyGroup:
        """Return the keys of a tenant, not loaded yet."""

    def keep(self, tenant: str, keys: IssuerKeys | KeyGroup) -> None:
        """Keep the keys of a tenant fresh from now on."""

    def drop(self, tenant: str) -> None:
        """Forget a tenant, and what its keys have verified."""


class TenantKeys:
    """The tenants of one pattern. `listed`: no others are admitted."""

    def __init__(self, host: Host, listed: tuple[str, ...] | None, clock: Callable[[], float]) -> None:
        self.known: OrderedDict[str, IssuerKeys | KeyGroup] = OrderedDict()
        """Their keys, by tenant, the oldest first."""
        self._host = host
        self._listed = listed
        self._clock = clock
        self._allowance = FetchAllowance(BURST, REFILL_SECONDS, 0.0)
        self._absent: LRU[str, float] = LRU(MAX_ABSENT)
        """Tenants that the issuer did not have, until when."""
        self._asked: dict[str, asyncio.Task[bool]] = {}

    def current(self) -> KeySet | None:
        """Return the keys of all tenants, to show them: no token is verified with this set."""
        sets = [keys.current() for keys in self.known.values()]
        unique = {key.thumbprint: key for each in sets if each is not None for key in each.keys}
        return KeySet(unique.values()) if unique else None

    def status(self) -> KeyStatus:
        # Where any tenant is accepted, the first token of each brings its keys.
        ready = any if self._listed is not None else (lambda each: not each or any(each))
        return together([keys.status() for keys in self.known.values()], ready=ready)

    async def admit(self, tenant: str) -> bool:
        """Load the keys of a tenant that is not known; return whether the issuer has said which it has.

        Waits for `PATIENCE` at most. A caller that is cancelled leaves the fetch to the others.
        """
        if self._listed is not None:
            return True
        now = self._clock()
        if (self._absent.get(tenant) or now) > now:
            return True
        task = self._asked.get(tenant)
        if task is None:
            if not self._allowance.take(now):
                return False
            task = self._asked[tenant] = asyncio.create_task(self._ask(tenant))
            task.add_done_callback(lambda _: self._asked.pop(tenant, None))
        await asyncio.wait((task,), timeout=PATIENCE)
        return task.done() and not task.cancelled() and task.exception() is None and task.result()

    async def close(self) -> None:
        tasks = [*self._asked.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, tenant: str) -> bool:
        """Load a tenant's keys once; return whether the issuer was heard."""
        keys = self._host.make(tenant)
        attempts = [member.load() for member in keys.members]
        try:
            await asyncio.wait([attempt.task for attempt in attempts])
        finally:
            for attempt in attempts:
                attempt.task.cancel()
        if keys.current() is not None:
            self._host.keep(tenant, keys)
            self.known[tenant] = keys
            if len(self.known) > MAX_TENANTS:
                oldest, _ = self.known.popitem(last=False)
                self._host.drop(oldest)
            return True
        if not any(member.unknown for member in keys.members):
            return False
        self._absent.put(tenant, self._clock() + ABSENT_SECONDS)
        return True
