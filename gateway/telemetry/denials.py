"""The latest denials, for operators: bounded, and redacted like the logs."""

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from gateway.core.requests.token_marks import TokenMarks
from gateway.core.routes import path_of

SIZE: Final = 1000
"""The number of denials that one process keeps."""
MAX_PATH: Final = 500
MAX_DETAIL: Final = 1000
"""Characters. The client chooses the path, and part of a detail."""


@dataclass(slots=True)
class DenialRecord:
    """One denied request, without token and query. The subject appears as in the logs. It is never changed.

    It is not frozen, because one is made for each denial of a flood.
    """

    id: str
    """Later ids are greater, in all processes of a gateway."""
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
    user_id: str | None = None
    """The user who was found behind the token."""
    shadow: bool = False
    """Whether it was only counted, and the request passed."""
    token: TokenMarks | None = None


@dataclass(frozen=True, slots=True)
class DenialFilter:
    """The denials that a reader wants. None: any."""

    limit: int
    reason: str | None = None
    issuer: str | None = None
    route: str | None = None
    older_than: str | None = None
    """The id of a denial: only earlier denials are wanted."""
    newer_than: Mapping[str, str] = field(default_factory=dict)
    """The last known id by the name of a ring. The empty name stands for all other rings."""
    request_id: str | None = None
    subjects: Sequence[str] | None = None
    """The hash of a subject, in each reading of what a person asked for."""
    user_id: str | None = None
    client: str | None = None
    since: float | None = None
    """Unix seconds: only denials from then on are wanted."""
    shadow: bool | None = False
    """Whether those are wanted that were only counted; None: all."""

    def admits(self, denial: DenialRecord) -> bool:
        """Return whether a denial matches, apart from its position."""
        return (
            self.reason in {None, denial.reason}
            and self.issuer in {None, denial.issuer}
            and self.route in {None, denial.route}
            and self.request_id in {None, denial.request_id}
            and (self.subjects is None or denial.subject_hash in self.subjects)
            and self.user_id in {None, denial.user_id}
            and self.shadow in {None, denial.shadow}
            and self.client in {None, denial.client}
            and (self.since is None or denial.at >= self.since)
            and (self.older_than is None or denial.id < self.older_than)
        )


class DenialRing:
    """The latest denials of one process. `clock` returns Unix seconds."""

    def __init__(self, size: int = SIZE, clock: Callable[[], float] = time.time) -> None:
        self.name = secrets.token_hex(4)
        """The name of this ring, which ends the ids of its denials. Each process has another."""
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
        user_id: str | None = None,
        token: TokenMarks | None = None,
        shadow: bool = False,
    ) -> None:
        """Keep a denial, in place of the oldest. `target` is the request's; its query is left out."""
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
                path=path_of(target)[:MAX_PATH],
                client=client,
                request_id=request_id,
                detail=None if detail is None else detail[:MAX_DETAIL],
                tier=tier,
                user_id=user_id,
                shadow=shadow,
                token=token,
            )
        )
        for listener in self._listeners:
            listener()

    def latest(self, wanted: DenialFilter) -> list[DenialRecord]:
        """Return the wanted denials, newest first."""
        bound = wanted.newer_than.get(self.name, wanted.newer_than.get("", ""))
        return list(islice(filter(wanted.admits, self._newer(bound)), wanted.limit))

    def _newer(self, bound: str) -> Iterator[DenialRecord]:
        for denial in reversed(self._denials):
            if denial.id <= bound:
                return
            yield denial

    @property
    def present(self) -> str:
        """A value between all earlier ids and all later ids."""
        # Ids are hexadecimal, so a letter beyond `f` in the place of the ring is greater.
        return f"{max(self._last, _microseconds(self._clock())):014x}g"

    @contextmanager
    def heard_by(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` after each denial, during the context."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)


def ring_of(denial_id: str) -> str:
    """Return the name of a denial's ring."""
    return denial_id[14:]


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
