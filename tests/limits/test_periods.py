from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.limits.periods import period_at, zone
from gateway.limits.rules import Unit


@pytest.mark.parametrize(
    ("local", "where", "unit", "name", "hours"),
    [
        ("2026-11-30T12:00", "UTC", "day", "2026-11-30", 24),
        ("2026-12-31T23:59", "UTC", "month", "2026-12", 31 * 24),
        ("2028-02-29T00:00", "UTC", "month", "2028-02", 29 * 24),
        ("2026-03-29T12:00", "Europe/Berlin", "day", "2026-03-29", 23),
        ("2026-10-25T12:00", "Europe/Berlin", "day", "2026-10-25", 25),
        ("2026-10-25T02:30", "Europe/Berlin", "month", "2026-10", 31 * 24 + 1),
    ],
)
def test_days_and_months(local: str, where: str, unit: Unit, name: str, hours: int) -> None:
    instant = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(where)).timestamp()
    period = period_at(instant, unit, where)
    assert period.name == name
    assert period.ends - period.begins == hours * 3600
    assert period.begins <= instant < period.ends
    assert period_at(period.ends, unit, where).begins == period.ends


def test_a_zone_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="no time zone 'Mars/Phobos'"):
        zone("Mars/Phobos")
