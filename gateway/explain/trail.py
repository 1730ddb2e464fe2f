"""The trail of an explanation: its steps and findings so far."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from gateway.core.model import Issuer, Request
from gateway.core.reasons import TOKEN_EXPIRED, Denial, Group
from gateway.explain.answer import Cause, Finding, Fix, Outcome, Step
from gateway.explain.evidence.issuer_clocks import IssuerClocks
from gateway.explain.fixes.remedies import Remedies
from gateway.explain.setup import Setup
from gateway.explain.wording import Commands
from gateway.stores.postgres.source.definition import UserSource

_ORDER: Final = (
    "route", "pasted", "shape", "header", "issuer", "introspection",
    "key", "signature", "times", "audience", "claims", "revocation",
    "identity.local", "identity.redis", "identity.postgres", "identity.primary", "user", "tenant", "policy",
    "condition", "limits",
)  # fmt: skip

_OPTIONAL: Final = ("route", "pasted", "introspection", "condition", "limits")
"""Steps that are there only if there is something to say."""
_MISLEADING: Final = (Cause.REPLICA_LAG, Cause.CACHE_STALE, Cause.NEGATIVE_CACHE_ENTRY)
"""The causes for which the pipeline receives something else than the truth. Caches repeat a replica's
answer."""


class Trail:
    """Collects steps and findings."""

    def __init__(
        self,
        setup: Setup,
        now: float,
        never_found: Callable[[str], Sequence[str]] = lambda _: (),
        source: UserSource | None = None,
        clocks: IssuerClocks | None = None,
    ) -> None:
        """`source`: the tables of another system that has the users. `clocks`: what tokens showed of them."""
        self.clocks = clocks
        self.setup = setup
        self.never_found = never_found
        """Returns the paths of an issuer's `claims` at which none of its tokens had a claim."""
        self.now = now
        """Unix seconds, the same for all steps."""
        self.commands = Commands(setup.config, setup.schema)
        self.remedies = Remedies(self.commands, source)
        self.request: Request | None = None
        """The request; None if there is only a token."""
        self.findings: list[Finding] = []
        self._steps: dict[str, Step] = {}

    def step(
        self,
        name: str,
        outcome: Outcome,
        expected: str | None = None,
        found: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Record a step."""
        self._steps[name] = Step(name, outcome, expected, found, detail)

    def knows(self, name: str) -> bool:
        """Return whether a step is recorded."""
        return name in self._steps

    def skip_rest(self, why: str) -> None:
        """Record the remaining steps as skipped, and why."""
        for name in _ORDER:
            if name not in self._steps and name not in _OPTIONAL:
                self._steps[name] = Step(name, "skipped", detail=why)

    def steps(self) -> tuple[Step, ...]:
        """Return the steps in the order of the pipeline."""
        return tuple(self._steps[name] for name in _ORDER if name in self._steps)

    def blame(self, denial: Denial | None, cause: Cause | None, summary: str, fix: Fix | None = None) -> None:
        """Record a finding. `denial` is None if the request is still admitted."""
        self.findings.append(Finding(cause, summary, fix, None if denial is None else denial.reason))

    def amend(self, cause: Cause, advice: str, command: str | None) -> None:
        """Add advice and a command to the fix of the findings with this cause."""
        self.findings = [
            replace(found, fix=Fix(f"{found.fix.text} {advice}", command, found.fix.config))
            if found.cause is cause and found.fix is not None
            else found
            for found in self.findings
        ]

    def root(self, denial: Denial | None) -> Finding | None:
        """Return the finding that best accounts for the pipeline's decision.

        Any token expires during the investigation. So a finding that would also refuse a fresh token is the
        better answer.
        """
        if denial is None:
            return next((finding for finding in self.findings if finding.reason is None), None)
        if denial.reason is TOKEN_EXPIRED:
            for finding in self.findings:
                if finding.reason not in (None, TOKEN_EXPIRED) and finding.reason.group is not Group.OURS:
                    return finding
        exact = next((finding for finding in self.findings if finding.reason is denial.reason), None)
        if exact is not None or denial.reason.group not in (Group.USER, Group.POLICY):
            return exact
        # The truth does not give this reason, so the pipeline received something else.
        misleading = [finding for finding in self.findings if finding.cause in _MISLEADING]
        return min(misleading, key=lambda finding: _MISLEADING.index(finding.cause), default=None)

    def field(self, issuer: Issuer, name: str) -> str:
        """Return the path of an issuer's field in the configuration."""
        place = next(i for i, each in enumerate(self.setup.issuers) if each.name == issuer.name)
        return f"issuers[{place}].{name}"
