"""The keys of an issuer with several sources, as one set."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from gateway.core.tokens.jws import KeySet
from gateway.issuer_keys.issuer import IssuerKeys, KeyStatus
from gateway.issuer_keys.sources import KeySource, Restricted


class KeyGroup:
    """Several `IssuerKeys`, each with its own schedule: one that fails does not hold up the others."""

    def __init__(self, source: KeySource, members: Sequence[IssuerKeys]) -> None:
        self.source: Final = source
        self.members: Final = tuple(members)
        self._merged: KeySet | None = None
        self._of: tuple[int | None, ...] | None = None
        """The serials of the sets that are merged."""

    def current(self) -> KeySet | None:
        """Return all keys to trust now; None if there are none."""
        sets = [member.current() for member in self.members]
        serials = tuple(None if each is None else each.serial for each in sets)
        if serials != self._of:
            known = [each for each in sets if each is not None]
            self._merged = KeySet.joined(known) if known else None
            self._of = serials
        return self._merged

    async def find(self, kid: str | None, algorithm: str) -> bool:
        """See `KeyRing.refresh`: ask all sources that may have the key, until one has it under this name."""
        pending = {
            asyncio.ensure_future(member.find(kid, algorithm))
            for member in self.members
            if not isinstance(member.source, Restricted) or algorithm in member.source.algorithms
        }
        heard = True
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                heard = heard and all(task.result() for task in done)
                keys = self.current()
                if keys is not None and keys.has(kid, algorithm):
                    return True
        finally:
            # The fetches go on for other requests.
            for task in pending:
                task.cancel()
        return heard

    def status(self) -> KeyStatus:
        return together([member.status() for member in self.members], ready=any)


def together(parts: Sequence[KeyStatus], ready: Callable[[list[bool]], bool]) -> KeyStatus:
    """Return the status of several sources or tenants as one. `ready` combines theirs."""
    ages = [part.age for part in parts]
    known = [age for age in ages if age is not None]
    return KeyStatus(
        ready=ready([part.ready for part in parts]),
        keys=sum(part.keys for part in parts),
        age=max(known) if known and len(known) == len(ages) else None,
        last_error=next((part.last_error for part in parts if part.last_error is not None), None),
        skipped=tuple(why for part in parts for why in part.skipped),
        left_out=sum(part.left_out for part in parts),
        withdrawn={kid: ago for part in parts for kid, ago in part.withdrawn.items()},
        left_out_kids=frozenset().union(*(part.left_out_kids for part in parts)),
    )
