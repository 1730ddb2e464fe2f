"""Whether an upstream may have answered before it read the request's body to its end.

Such an upstream reads the rest, or closes the connection (RFC 9112 §9.3), and the next request would be lost.
The gateway knows how many bytes the upstream's kernel has not acknowledged: the upstream cannot have read
those. It cannot know how many bytes wait in that kernel.
"""

import asyncio
import fcntl
import sys
import termios
from typing import Final

MOST_UNREAD: Final = 64 * 1024
"""The largest rest of a body that a server is expected to read when its application did not (gunicorn's)."""
QUICK_SECONDS: Final = 1.0
"""After a longer body, an answer within this time does not prove that the body was read."""


def may_be_early(wire: asyncio.Transport | None, written: int, seconds: float) -> bool:
    """Return whether a final head may be early.

    It came `seconds` after the last of `written` bytes of a body went out over the transport `wire`.
    """
    return unacknowledged(wire) > 0 or (seconds < QUICK_SECONDS and written > MOST_UNREAD)


def unacknowledged(wire: asyncio.Transport | None) -> int:
    """Return how many written bytes have not arrived at the upstream's kernel (tcp(7), SIOCOUTQ)."""
    if wire is None:
        return 0
    queued = wire.get_write_buffer_size()
    if queued == 0:
        try:
            answer = fcntl.ioctl(wire.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            # Some systems do not support it, and no closed socket does.
            return 0
        queued = int.from_bytes(answer, sys.byteorder)
    return queued
