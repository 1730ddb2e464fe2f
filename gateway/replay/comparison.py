"""Recorded requests under another configuration: which verdicts change."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gateway.core.model import Auth, Issuer, MissingUser, Route
from gateway.core.reasons import Denial
from gateway.core.shadow import OF_CONDITIONS, Shadow
from gateway.core.tokens.claim_paths import claims_on
from gateway.replay.decider import Decider, Outcome, RequestClock
from gateway.replay.records import Recorded


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict as clients see it: what is in shadow is allowed."""

    verdict: str
    route: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One request whose verdict changes."""

    before: Verdict
    after: Verdict
    method: str
    path: str
    user: str | None
    at: float
    detail: str | None


@dataclass(slots=True)
class Comparison:
    """All requests, with those whose verdict changes."""

    requests: int = 0
    undecided: int = 0
    """A rule reads what the record does not have."""
    changes: list[Change] = field(default_factory=list)

    def groups(self) -> list[tuple[str, str, str, list[Change]]]:
        """Return route, verdict before, verdict after and the requests, the largest groups first."""
        found: dict[tuple[str, str, str], list[Change]] = {}
        for each in self.changes:
            route = each.after.route or each.before.route or "none"
            found.setdefault((route, each.before.verdict, each.after.verdict), []).append(each)
        return sorted(
            ((*key, requests) for key, requests in found.items()),
            key=lambda group: (-len(group[3]), group[:3]),
        )


class Configuration:
    """One configuration, for recorded requests."""

    def __init__(
        self, routes: Iterable[Route], issuers: Iterable[Issuer], moment: RequestClock, shadow: Shadow | None
    ) -> None:
        routes, issuers = tuple(routes), tuple(issuers)
        self._decider = Decider(routes, issuers, moment)
        self._shadow = shadow
        self._reads = {
            route.name: frozenset(".".join(path) for path in route.require.condition.reads)
            for route in routes
            if route.require.condition is not None
        }
        self._expected = {
            f"claims.{name}" for issuer in issuers for path in _read_of(issuer) for name in claims_on(path)
        }

    def decide(self, recorded: Recorded) -> tuple[Verdict, str | None] | None:
        """Return the verdict and its detail; None if the record does not have what a rule reads."""
        case = recorded.case
        try:
            route = self._decider.route(case)
        except Denial as unmatched:
            name = None if unmatched.route is None else unmatched.route.name
            return Verdict(unmatched.reason.code, name), unmatched.detail
        if self._is_open(recorded, route):
            return None
        outcome = self._decider.decide(case)
        if self._depends_on_more(recorded, route, outcome):
            return None
        denial = outcome.denial
        if denial is None or self._covers(denial, route):
            return Verdict("allow", route.name), None
        return Verdict(denial.reason.code, route.name), denial.detail

    def _is_open(self, recorded: Recorded, route: Route) -> bool:
        """Return whether the verdict depends on a token of which nothing is known."""
        case = recorded.case
        unknown = case.payload is None and case.refusal is None and recorded.credential
        return unknown and route.auth is not Auth.NONE

    def _depends_on_more(self, recorded: Recorded, route: Route, outcome: Outcome) -> bool:
        case, reads = recorded.case, self._reads.get(route.name, frozenset())
        if case.payload is not None and not self._expected.isdisjoint(recorded.redacted):
            return True
        if case.user is None and case.payload is not None and route.missing_user is MissingUser.PROVISION:
            return True  # a store would say
        before_condition = outcome.denial is not None and outcome.denial.reason not in OF_CONDITIONS
        if before_condition or not reads:
            return False
        return not reads.isdisjoint(recorded.redacted) or any(
            path.startswith("request.headers") for path in reads
        )

    def _covers(self, denial: Denial, route: Route) -> bool:
        return self._shadow is not None and self._shadow.covers(denial.reason, route, denial.issuer)


def _read_of(issuer: Issuer) -> Iterator[str]:
    """Yield the paths of the claims whose values count, whatever the route."""
    yield from issuer.expect
    yield from (path for _, path in issuer.claims.by_setting())


def compare(records: Iterable[Recorded], new: Configuration, old: Configuration | None) -> Comparison:
    """Decide records anew; compare with another configuration, or with what was recorded."""
    found = Comparison()
    for recorded in records:
        found.requests += 1
        after = new.decide(recorded)
        before = _recorded(recorded) if old is None else old.decide(recorded)
        if after is None or before is None:
            found.undecided += 1
        elif after[0].verdict != before[0].verdict:
            case = recorded.case
            user = None if case.user is None else case.user.id
            found.changes.append(
                Change(before[0], after[0], case.method, case.target, user, case.at, after[1] or before[1])
            )
    return found


def _recorded(recorded: Recorded) -> tuple[Verdict, str | None]:
    return Verdict(recorded.verdict if recorded.enforced else "allow", recorded.route), None
