"""The days and months of quotas, in a time zone. An instant is in Unix seconds."""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.limits.rules import Unit


class Period(NamedTuple):
    """One day or month."""

    name: str
    """`2026-11-30` or `2026-11`."""
    begins: float
    ends: float


@lru_cache(maxsize=64)
def zone(name: str) -> tzinfo:
    """Return a time zone of the IANA database. Raises ValueError, which says what is missing."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError) as error:
        raise ValueError(f"there is no time zone {name!r} on this machine") from error


def period_at(instant: float, unit: Unit, time_zone: str) -> Period:
    """Return the day or month of an instant. A day with a change of the clocks has 23 or 25 hours."""
    where = zone(time_zone)
    local = datetime.fromtimestamp(instant, where)
    first = datetime(local.year, local.month, local.day if unit == "day" else 1, tzinfo=where)
    if unit == "day":
        following = (first.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=where)
        name = f"{first:%Y-%m-%d}"
    else:
        following = datetime(first.year + first.month // 12, first.month % 12 + 1, 1, tzinfo=where)
        name = f"{first:%Y-%m}"
    return Period(name, first.timestamp(), following.timestamp())
