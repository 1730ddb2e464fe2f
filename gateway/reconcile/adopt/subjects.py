"""The subjects to look for: a sample of any number of them, in bounded memory.

The sample has the subjects whose hashes are the smallest. So it is as good as random, the same in each run,
and a subject that comes often is in it once.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import orjson

from gateway.core.text.json_text import TooDeep, check_depth
from gateway.core.tokens.claims import MAX_SUBJECT_CHARACTERS, is_clean
from gateway.core.tokens.jws import decode_segment

SAMPLE: Final = 10_000


@dataclass(slots=True)
class SubjectSample:
    """Collects subjects. `size` is how many different ones it keeps at most."""

    size: int = SAMPLE
    lines: int = 0
    """The lines that were not empty."""
    unusable: int = 0
    """The lines without a subject that a token may have."""
    _kept: list[tuple[int, str]] = field(default_factory=list)
    """A heap with the largest hash at its top, which is negative."""
    _known: set[str] = field(default_factory=set)
    _issuers: set[bytes] = field(default_factory=set)
    dropped: bool = False
    """Whether there were more different subjects than the sample has."""

    @property
    def subjects(self) -> list[str]:
        """The sample, in an order that says nothing."""
        return [subject for _, subject in sorted(self._kept)]

    @property
    def issuers(self) -> int:
        """How many different `iss` the tokens had; 0 for subjects without tokens."""
        return len(self._issuers)

    def add_subjects(self, lines: Iterable[str]) -> None:
        """Add subjects, one in each line."""
        for line in lines:
            subject = line.strip("\r\n")
            if subject:
                self._add(subject)

    def add_tokens(self, lines: Iterable[str]) -> None:
        """Add the `sub` of tokens, one in each line. No signature is checked: nothing is admitted by it.

        `Bearer` may stand before a token.
        """
        for line in lines:
            words = line.split()
            if words:
                self._add(self._subject_of(words[-1]))

    def _subject_of(self, token: str) -> object:
        parts = token.encode("utf-8", "replace").split(b".")
        payload = decode_segment(parts[1]) if len(parts) == 3 else None
        if payload is None:
            return None
        try:
            check_depth(payload)
            claims = orjson.loads(payload)
        except (orjson.JSONDecodeError, TooDeep):
            return None
        if not isinstance(claims, dict):
            return None
        if isinstance(issuer := claims.get("iss"), str) and len(self._issuers) < self.size:
            self._issuers.add(_digest(issuer))
        return claims.get("sub")

    def _add(self, subject: object) -> None:
        self.lines += 1
        if not isinstance(subject, str) or not is_clean(subject) or len(subject) > MAX_SUBJECT_CHARACTERS:
            self.unusable += 1
            return
        if subject in self._known:
            return
        entry = (-int.from_bytes(_digest(subject)), subject)
        if len(self._kept) < self.size:
            heapq.heappush(self._kept, entry)
            self._known.add(subject)
            return
        self.dropped = True
        if entry > self._kept[0]:
            self._known.remove(heapq.heapreplace(self._kept, entry)[1])
            self._known.add(subject)


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
