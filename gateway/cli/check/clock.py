"""How far other machines' clocks are from this one's: tokens are judged by both.

An issuer's clock is read from the `Date` of its answers (RFC 9110 §6.6.1). A cache on the way says by `Age`
how old its answer is (RFC 9111 §5.1).
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.cli.check.result import CheckResult

NOTEWORTHY: Final = 5.0
"""Seconds. A `Date` has whole seconds, and answers take time; synchronised clocks differ by less."""
FIX: Final = "set the clock of this machine, for example by NTP (timedatectl status), or that of the other"


class IssuerClock:
    """The clock of an issuer, as its last answer showed it."""

    def __init__(self) -> None:
        self.ahead: float | None = None
        """Seconds by which it is ahead of this machine's clock; None if no answer had a `Date`."""
        self._cached = False

    def heard(self, headers: Mapping[str, str], began: float) -> None:
        """Take the header of an answer. `began`: when the request was sent, in Unix seconds."""
        try:
            date = parsedate_to_datetime(headers.get("Date", "")).replace(tzinfo=UTC).timestamp()
            age = float(headers.get("Age", "0"))
        except (ValueError, TypeError):
            return
        self._cached = "Age" in headers
        now = time.time()
        # The answer was written at some moment between, and `Date` leaves out the part of a second.
        early, late = date + age - now, date + age + 1 - began
        self.ahead = 0.0 if early <= 0 <= late else early if early > 0 else late

    def judged(self, result: CheckResult, leeway: float) -> CheckResult:
        """Return a result that also says what is wrong with the clock.

        `leeway` is the issuer's, in seconds.
        """
        if self.ahead is None or abs(self.ahead) <= NOTEWORTHY or result.outcome == "fail":
            return result
        told = f"{result.found}; its clock is {_difference(self.ahead)} (`Date` of its answer)"
        if abs(self.ahead) > leeway and not self._cached:
            refused = (
                f"{told}, more than `leeway` ({leeway:g} s): new tokens may be refused, or old ones accepted"
            )
            return replace(result, outcome="fail", found=refused, fix=FIX)
        return replace(result, outcome="warn", found=told, fix=result.fix or FIX)


def difference_noted(ahead: float) -> str | None:
    """Return what to say of a clock that is so many seconds ahead of this machine's; None: nothing."""
    if abs(ahead) <= NOTEWORTHY:
        return None
    return (
        f"its clock is {_difference(ahead)}: revocations up to an instant compare it with the issuers' clocks"
    )


def _difference(ahead: float) -> str:
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
