"""The limits that a request would be counted by, and what they have left. It spends nothing of them."""

from typing import Final

from gateway.core.admission import Admission, Decision, Forwarding
from gateway.core.headers import Fields
from gateway.core.model import Claims, Request, Resolution, Route, StoreUnavailable
from gateway.core.reasons import Denial
from gateway.explain.answer import Cause, Fix, Outcome
from gateway.explain.trail import Trail
from gateway.explain.wording import listed
from gateway.limits.limiter import REASONS
from gateway.limits.operators import Budgets, BudgetState
from gateway.limits.rules import Limit
from gateway.limits.subjects import subject_of

_EXPECTED: Final = "something left of each limit"


async def check(
    trail: Trail, claims: Claims, route: Route, resolution: Resolution, budgets: Budgets, request: Request
) -> Denial | None:
    """Take the step, unless no limit is for the route. Return the denial of a limit with nothing left.

    There is no client, so limits of clients are only named: also those of failed requests.
    """
    limits = [limit for limit in budgets.limits if limit.is_for(route.name)]
    unknown = [limit.name for limit in limits if _is_of_client(limit)]
    forwarding = Forwarding(route, request.method, b"", b"", b"", None, None, Fields(b"", [], [], []))
    admission = Admission(forwarding, b"", claims, Decision(route, resolution, b""))
    told: list[tuple[Limit, BudgetState]] = []
    try:
        for limit in limits:
            subject = None if _is_of_client(limit) else subject_of(limit)(request, admission)
            if subject is not None:
                told.append((limit, await budgets.state_of(limit, subject)))
    except StoreUnavailable as error:
        trail.step("limits", "warn", _EXPECTED, None, error.detail)
        return None
    notes = []
    if unknown:
        notes.append(f"not known here, because the client is not: {listed(unknown)}")
    if not told:
        if notes:
            trail.step("limits", "skipped", _EXPECTED, None, notes[0])
        return None
    empty = [(limit, state) for limit, state in told if state.left < 1]
    enforced = [each for each in empty if not (each[0].shadow or route.shadow)]
    refusing = [limit for limit, state in enforced if limit.kind == "concurrency" or not state.held]
    if empty and not enforced:
        notes.append("what has nothing left is in shadow")
    outcome: Outcome = "fail" if refusing else "warn" if empty else "pass"
    found = ", ".join(f"{limit.name}: {state.left} of {limit.capacity}" for limit, state in told)
    trail.step("limits", outcome, _EXPECTED, found, "; ".join(notes) or None)
    if refusing:
        return _refused(trail, refusing[0])
    if enforced:
        limit, state = enforced[0]
        summary = (
            f"Of the limit {limit.name}, nothing is left but what workers hold in advance"
            f" ({state.held}): a worker without it answers 429"
        )
        trail.blame(None, _CAUSES[limit.kind], summary, Fix(_ADVICE[limit.kind]))
    return None


def _is_of_client(limit: Limit) -> bool:
    return limit.per == "client" or limit.counts == "failed"


def _refused(trail: Trail, limit: Limit) -> Denial:
    denial = Denial(REASONS[limit.kind], f"the limit {limit.name} has nothing left for this {limit.per}")
    summary = f"Of the limit {limit.name}, nothing is left for this {limit.per}: the next request gets 429"
    trail.blame(denial, _CAUSES[limit.kind], summary, Fix(_ADVICE[limit.kind]))
    return denial


_CAUSES: Final = {
    "rate": Cause.RATE_LIMITED,
    "quota": Cause.QUOTA_EXCEEDED,
    "concurrency": Cause.CONCURRENCY_EXCEEDED,
}
_RESET: Final = (
    " `POST /v1/limits/reset` gives one subject its budget anew. Another limit is a decision about all that"
    " it counts (`limits`)."
)
_ADVICE: Final = {
    "rate": f"Let the client wait as long as `Retry-After` says, and send fewer requests.{_RESET}",
    "quota": f"Wait until the period ends, as `Retry-After` says.{_RESET}",
    "concurrency": (
        "Let the client wait until some of its requests have ended: look for ones that never end, such as"
        f" forgotten streams.{_RESET}"
    ),
}
