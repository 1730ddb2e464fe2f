"""The header fields about limits: draft-ietf-httpapi-ratelimit-headers-11 and Retry-After (RFC 9110 §10.2.3).

`RateLimit-Policy` and `RateLimit` are Lists of Strings with parameters (RFC 9651): `q` the quota, `w` its
window in seconds, `qu` its unit, `r` what remains, `t` the seconds until it is complete again.
"""

import math
from collections.abc import Callable
from typing import Final

from gateway.limits.bucket import Bucket
from gateway.limits.rules import Limit

_WINDOWS: Final = {"day": 86_400, "month": 30 * 86_400}
"""Seconds. The field is to stay the same, so a month has 30 days in it."""


def policy(limit: Limit) -> str:
    """Return an item of RateLimit-Policy."""
    if limit.kind == "concurrency":
        return f'"{limit.name}";q={limit.amount};qu="concurrent-requests"'
    if limit.kind == "quota":
        return f'"{limit.name}";q={limit.amount};w={_WINDOWS[limit.unit]}'
    return f'"{limit.name}";q={limit.amount};w={max(1, round(limit.period))}'


def head(limit: Limit) -> bytes:
    """Return the two fields of a response that one limit counted, up to the number of what remains."""
    return f'RateLimit-Policy: {policy(limit)}\r\nRateLimit: "{limit.name}";r='.encode("ascii")


def complete(head: bytes, limit: Limit, bucket: Bucket, clock: Callable[[], float]) -> bytes:
    """Return these two fields. `clock` is that of `bucket.ends`."""
    # As `Bucket.remaining`, to save a call: most responses have these fields.
    left = bucket.tokens
    if bucket.left > 0:
        left += bucket.left
    if left > limit.capacity:
        left = limit.capacity
    if limit.kind == "rate":
        # Rounded up.
        return b"%b%d;t=%d\r\n" % (head, left, -((left - limit.burst) * limit.interval // 1))
    if limit.kind == "quota":
        return b"%b%d;t=%d\r\n" % (head, left, max(0, math.ceil(bucket.ends - clock())))
    return b"%b%d\r\n" % (head, left)


def state(limit: Limit, bucket: Bucket, now: float) -> str:
    """Return an item of RateLimit."""
    left = bucket.remaining(limit)
    if limit.kind == "concurrency":
        return f'"{limit.name}";r={left}'
    if limit.kind == "quota":
        return f'"{limit.name}";r={left};t={max(0, math.ceil(bucket.ends - now))}'
    return f'"{limit.name}";r={left};t={math.ceil((limit.burst - left) * limit.interval)}'


def retry_after(limit: Limit, bucket: Bucket, now: float) -> int:
    """Return the seconds until another try makes sense."""
    return 1 if limit.kind == "concurrency" else max(1, math.ceil(bucket.retry_at - now))


def refused(limit: Limit, wait: int) -> str:
    """Return the item of RateLimit for a limit that has nothing left."""
    return f'"{limit.name}";r=0' if limit.kind == "concurrency" else f'"{limit.name}";r=0;t={wait}'
