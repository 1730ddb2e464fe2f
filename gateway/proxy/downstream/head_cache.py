"""Heads of requests that were parsed before, recognised by their bytes.

The meaning of a head depends on its bytes alone. Most heads differ from caller to caller only in the bearer
token, so a head is remembered without it. The same head with another token is recognised if that token was
verified before: its text is then known to be a token, so it cannot end the header field.
"""

from collections.abc import Container
from hashlib import sha256
from typing import Final, TypeAlias

from gateway.core.caches import FIFO
from gateway.core.model import Credential
from gateway.proxy.downstream.incoming import RecurringRequest

LONGEST: Final = 4 * 1024
"""The largest head that is remembered, in bytes."""
MOST_FIELDS: Final = 32
"""The largest number of its fields. A head of 4 KiB with a hundred fields takes 60 KiB of memory."""
# The first is the usual spelling; clients that also speak HTTP/2 often use the second.
_BEGINNINGS: Final = (b"\r\nAuthorization: Bearer ", b"\r\nauthorization: Bearer ")

Known: TypeAlias = tuple[RecurringRequest, Credential | None]
"""A request that was parsed before, and the bearer token that it has this time."""


class HeadCache:
    """At most `capacity` heads. The oldest is forgotten first."""

    def __init__(
        self,
        verified: Container[bytes],
        admitted: Container[object],
        capacity: int,
        longest: int = LONGEST,
    ) -> None:
        """Start empty.

        `verified`: the SHA-256 of each verified token. `admitted`: requests with at most one Authorization
        field whose meaning is remembered. `longest`: a head of up to this many bytes cannot exceed a limit.
        """
        self._verified = verified
        self._admitted = admitted
        self._longest = min(longest, LONGEST)
        self._heads: FIFO[bytes, RecurringRequest] = FIFO(capacity)

    def recall(self, data: bytes) -> Known | None:
        """Return the request if these bytes are exactly one request with a known head."""
        if len(data) > self._longest:
            return None
        head, token = _split_token(data)
        request = self._heads.get(head)
        if request is None:
            return None
        if token is None:
            return request, None
        # An empty token is not a token, and for a refused head nothing is remembered.
        if not token or request not in self._admitted:
            return None
        digest = sha256(token).digest()
        return (request, Credential(token, digest)) if digest in self._verified else None

    def keep(self, data: bytes, request: RecurringRequest) -> None:
        """Remember a request. The bytes are its head and nothing else."""
        if len(data) > self._longest or len(request.headers) > MOST_FIELDS:
            return
        head, token = _split_token(data)
        # With an empty token, a head looks like one whose token was removed.
        if token != b"":
            self._heads.put(head, request)

    def __len__(self) -> int:
        return len(self._heads)


def _split_token(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a head without its first bearer token, and that token; None if it has none."""
    before, beginning, rest = data.partition(_BEGINNINGS[0])
    if not beginning:
        before, beginning, rest = data.partition(_BEGINNINGS[1])
        if not beginning:
            return data, None
    token, _, after = rest.partition(b"\r")
    return before + beginning + after, token
