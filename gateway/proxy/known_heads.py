"""Heads of requests that were read before, and are known again by their bytes.

What a head says depends on its bytes alone, and a token is the one thing in most that differs from caller
to caller. So each is kept twice: to the last byte, and without its bearer token. One that comes with
another token is the same head, if that token is remembered as verified: then its text is known to be a
token's, and can end no field. That one is read, and kept to the last byte as well, only when its token comes
again soon: of more tokens than there is room for, none would stay until it comes again.
"""

from collections.abc import Container
from hashlib import sha256
from typing import Final

from gateway.core.lru import LRU
from gateway.core.model import Credential
from gateway.proxy.incoming import Incoming

LONGEST: Final = 4 * 1024
"""Bytes of a head that is kept."""
MOST_FIELDS: Final = 32
"""Fields of a head that is kept; a head of 4 KiB with a hundred takes 60 of memory."""
WATCH_EVERY: Final = 64
"""Of so many heads that come with another token, one is watched for: it is read when it comes again soon."""
# As most clients write it, and as most that speak HTTP/2 do.
_BEGINNINGS: Final = (b"\r\nAuthorization: Bearer ", b"\r\nauthorization: Bearer ")


class KnownHeads:
    """At most `capacity` heads of either kind, of which the least recently used are forgotten first."""

    def __init__(self, remembered: Container[bytes], capacity: int, longest: int = LONGEST) -> None:
        """`remembered`: the SHA-256 of the tokens that have been verified.

        `longest`: how long a head may be that is within the limits whatever is in it.
        """
        self._remembered = remembered
        self._longest = min(longest, LONGEST)
        self._whole: LRU[bytes, Incoming] = LRU(capacity)
        self._without_token: LRU[bytes, Incoming] = LRU(capacity)
        self._recalled = 0
        self._watched: dict[bytes, None] = {}
        self._most_watched = max(1, capacity // WATCH_EVERY)

    def recall(self, data: bytes) -> Incoming | None:
        """Return the request that these bytes are, and nothing but it, if its head is known."""
        if len(data) > self._longest:
            return None
        incoming = self._whole.get(data)
        if incoming is not None:
            return incoming
        without, token = _apart(data)
        if not token:
            return None
        incoming = self._without_token.get(without)
        # Of one that was refused for what else it says there is nothing that another could have.
        if incoming is None or incoming.recurring is None or incoming.recurring.kept is None:
            return None
        digest = sha256(token).digest()
        if digest not in self._remembered:
            return None
        if digest in self._watched:
            # It is read, and kept whole.
            del self._watched[digest]
            return None
        self._recalled += 1
        if not self._recalled % WATCH_EVERY:
            self._watch(digest)
        return incoming.bringing(Credential(token, digest))

    def _watch(self, digest: bytes) -> None:
        """Watch for a token, for as long as a whole head would be kept in which it came now."""
        self._watched[digest] = None
        if len(self._watched) > self._most_watched:
            del self._watched[next(iter(self._watched))]

    def keep(self, data: bytes, incoming: Incoming) -> None:
        """Know a head again, which is all there is in these bytes."""
        if len(data) > self._longest or len(incoming.headers) > MOST_FIELDS:
            return
        self._whole.put(data, incoming)
        without, token = _apart(data)
        if token:
            self._without_token.put(without, incoming)

    def __len__(self) -> int:
        return len(self._whole)


def _apart(data: bytes) -> tuple[bytes, bytes]:
    """Return a head without its first bearer token, and that token; empty when there is none."""
    before, beginning, rest = data.partition(_BEGINNINGS[0])
    if not beginning:
        before, beginning, rest = data.partition(_BEGINNINGS[1])
    token, _, after = rest.partition(b"\r")
    return before + beginning + after, token
