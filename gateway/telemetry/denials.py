"""The latest denials, for operators who ask why a request was refused: bounded, and redacted as the logs."""

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

SIZE: Final = 1000
"""Denials that one process keeps."""
MAX_PATH: Final = 500
MAX_DETAIL: Final = 1000
"""Characters; a client chooses the path, and some of a detail."""


@dataclass(frozen=True, slots=True)
class DenialRecord:
    """One refused request. No token, no query, and of the subject only what stands for it in logs."""

    id: str
    """Later ones are greater, whichever process of a gateway they are of."""
    at: float
    """Unix seconds."""
    reason: str
    status: int
    route: str
    issuer: str
    subject_hash: str | None
    method: str
    path: str
    client: str
    request_id: str
    detail: str | None
    tier: str | None


@dataclass(frozen=True, slots=True)
class DenialFilter:
    """Which denials a reader asks for; None asks for all."""

    limit: int
    reason: str | None = None
    issuer: str | None = None
    route: str | None = None
    older_than: str | None = None
    """The id of a denial; those before it."""
    newer_than: Mapping[str, str] = field(default_factory=dict)
    """By the name of a ring, the id of the last one that is known of it; the empty name: of any other."""

    def admits(self, denial: DenialRecord) -> bool:
        """Tell whether a denial is one of those, wherever it stands among the others."""
        return (
            self.reason in {None, denial.reason}
            and self.issuer in {None, denial.issuer}
            and self.route in {None, denial.route}
            and (self.older_than is None or denial.id < self.older_than)
        )


class DenialRing:
    """The latest denials of one process. `clock` gives Unix seconds."""

    def __init__(self, size: int = SIZE, clock: Callable[[], float] = time.time) -> None:
        self.name = secrets.token_hex(4)
        """Tells the rings of several processes apart; the end of its denials' ids."""
        self._denials: deque[DenialRecord] = deque(maxlen=size)
        self._clock = clock
        self._last = 0
        self._listeners: list[Callable[[], None]] = []

    def add(
        self,
        *,
        reason: str,
        status: int,
        route: str,
        issuer: str,
        subject_hash: str | None,
        method: str,
        target: str,
        client: str,
        request_id: str,
        detail: str | None,
        tier: str | None,
    ) -> None:
        """Keep a denial, instead of the oldest. `target` is the request's; its query is left out."""
        now = self._clock()
        self._last = max(self._last + 1, _microseconds(now))
        self._denials.append(
            DenialRecord(
                id=f"{self._last:014x}{self.name}",
                at=now,
                reason=reason,
                status=status,
                route=route,
                issuer=issuer,
                subject_hash=subject_hash,
                method=method,
                path=target.partition("?")[0][:MAX_PATH],
                client=client,
                request_id=request_id,
                detail=None if detail is None else detail[:MAX_DETAIL],
                tier=tier,
            )
        )
        for listener in self._listeners:
            listener()

    def latest(self, wanted: DenialFilter) -> list[DenialRecord]:
        """Return those that are wanted, the newest first."""
        bound = wanted.newer_than.get(self.name, wanted.newer_than.get("", ""))
        return list(islice(filter(wanted.admits, self._newer(bound)), wanted.limit))

    def _newer(self, bound: str) -> Iterator[DenialRecord]:
        for denial in reversed(self._denials):
            if denial.id <= bound:
                return
            yield denial

    @property
    def present(self) -> str:
        """What every later id is greater than, and no earlier one."""
        # Ids are hexadecimal, and so less than what has a letter beyond these in the ring's place.
        return f"{max(self._last, _microseconds(self._clock())):014x}g"

    @contextmanager
    def heard_by(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` after each denial, for as long as the context lasts."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)


def ring_of(denial_id: str) -> str:
    """Return the name of the ring that a denial is of."""
    return denial_id[14:]


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
