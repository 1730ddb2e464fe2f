"""Heads of requests that were read before, and are known again by their bytes.

What a head says depends on its bytes alone, and a token is the one thing in most that differs from caller
to caller. So a head is known without its bearer token: one that comes with another is the same, if that
token is remembered as verified, for then its text is known to be a token's, and can end no field.
"""

from collections.abc import Container
from hashlib import sha256
from typing import Final, TypeAlias

from gateway.core.caches import FIFO
from gateway.core.model import Credential
from gateway.proxy.downstream.incoming import RecurringRequest

LONGEST: Final = 4 * 1024
"""Bytes of a head that is kept."""
MOST_FIELDS: Final = 32
"""Fields of a head that is kept; a head of 4 KiB with a hundred takes 60 of memory."""
# As most clients write it, and as most that speak HTTP/2 do.
_BEGINNINGS: Final = (b"\r\nAuthorization: Bearer ", b"\r\nauthorization: Bearer ")

Known: TypeAlias = tuple[RecurringRequest, Credential | None]
"""A request as it was read before, and the bearer token that it brings this time."""


class HeadCache:
    """At most `capacity` heads, of which those are forgotten first that came first."""

    def __init__(
        self,
        verified: Container[bytes],
        admitted: Container[object],
        capacity: int,
        longest: int = LONGEST,
    ) -> None:
        """Know nothing yet.

        `verified`: the SHA-256 of the tokens that have been verified. `admitted`: requests with one
        Authorization field at most, of which it is remembered what they say. `longest`: how long a head may
        be that is within the limits whatever is in it.
        """
        self._verified = verified
        self._admitted = admitted
        self._longest = min(longest, LONGEST)
        self._heads: FIFO[bytes, RecurringRequest] = FIFO(capacity)

    def recall(self, data: bytes) -> Known | None:
        """Return the request that these bytes are, and nothing but it, if its head is known."""
        if len(data) > self._longest:
            return None
        head, token = _apart(data)
        request = self._heads.get(head)
        if request is None:
            return None
        if token is None:
            return request, None
        # No token is not the token of another, and of a head that was refused there is nothing to have.
        if not token or request not in self._admitted:
            return None
        digest = sha256(token).digest()
        return (request, Credential(token, digest)) if digest in self._verified else None

    def keep(self, data: bytes, request: RecurringRequest) -> None:
        """Know a request again, whose head is all there is in these bytes."""
        if len(data) > self._longest or len(request.headers) > MOST_FIELDS:
            return
        head, token = _apart(data)
        # One with an empty token looks like those that lost theirs.
        if token != b"":
            self._heads.put(head, request)

    def __len__(self) -> int:
        return len(self._heads)


def _apart(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a head without its first bearer token, and that token; None when there is none."""
    before, beginning, rest = data.partition(_BEGINNINGS[0])
    if not beginning:
        before, beginning, rest = data.partition(_BEGINNINGS[1])
        if not beginning:
            return data, None
    token, _, after = rest.partition(b"\r")
    return before + beginning + after, token
