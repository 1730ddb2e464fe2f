"""What a check of `gateway check --live` is, and what it says."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found."""

    name: str
    outcome: Literal["pass", "warn", "fail"]
    """`warn`: requests are answered, and yet an operator should know."""
    found: str
    """What was found, where, in words; no secrets."""
    fix: str | None = None
    """What to do about it."""
    unreachable: bool = False
    """Whether the dependency did not answer at all: the command then exits with 3."""

    def document(self) -> dict[str, str | None]:
        """Return what `--json` says of it."""
        return {"name": self.name, "outcome": self.outcome, "found": self.found, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to try, under the name that results have."""

    name: str
    run: Callable[[], Awaitable[CheckResult]]
