"""A check of `gateway check --live`, and its result."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    name: str
    outcome: Literal["pass", "warn", "fail"]
    """`warn`: the gateway serves requests, but an operator should know."""
    found: str
    """What was found, and where; without secrets."""
    fix: str | None = None
    """What to do about it."""
    unreachable: bool = False
    """Whether the dependency did not answer at all. Then the command exits with 3."""

    def document(self) -> dict[str, str | None]:
        """Return the result as in `--json`."""
        return {"name": self.name, "outcome": self.outcome, "found": self.found, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to try. `name` is the name of its result."""

    name: str
    run: Callable[[], Awaitable[CheckResult]]
