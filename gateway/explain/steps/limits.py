"""The limits that a request would be counted by, and what they have left. It spends nothing of them."""

from gateway.core.admission import Admission, Decision, Forwarding
from gateway.core.headers import Fields
from gateway.core.model import Claims, Request, Resolution, Route, StoreUnavailable
from gateway.explain.answer import Fix, Outcome
from gateway.explain.trail import Trail
from gateway.limits.operators import Budgets
from gateway.limits.subjects import subject_of


async def check(
    trail: Trail, claims: Claims, route: Route, resolution: Resolution, budgets: Budgets, request: Request
) -> None:
    """Take the step, unless no limit is for the route. A limit of clients is left out: there is no client."""
    limits = [
        limit
        for limit in budgets.limits
        if limit.is_for(route.name) and limit.counts != "failed" and limit.per != "client"
    ]
    forwarding = Forwarding(route, request.method, b"", b"", b"", None, None, Fields(b"", [], [], []))
    admission = Admission(forwarding, b"", claims, Decision(route, resolution, b""))
    told, empty = [], []
    try:
        for limit in limits:
            subject = subject_of(limit)(request, admission)
            if subject is None:
                continue
            left = (await budgets.standing(limit, subject)).left
            told.append(f"{limit.name}: {left} of {limit.capacity}")
            if left < 1:
                empty.append(limit)
    except StoreUnavailable as error:
        trail.step("limits", "warn", "something left of each limit", None, error.detail)
        return
    if not told:
        return
    enforced = [limit.name for limit in empty if not (limit.shadow or route.shadow)]
    shadow = "what has nothing left is in shadow" if empty and not enforced else None
    outcome: Outcome = "warn" if empty else "pass"
    trail.step("limits", outcome, "something left of each limit", ", ".join(told), shadow)
    if enforced:
        summary = f"Of the limit {enforced[0]}, nothing is left: the next request gets 429"
        trail.blame(None, None, summary, Fix(_ADVICE))


_ADVICE = (
    "Wait, as `Retry-After` says, or raise the limit in `limits`. `POST /v1/limits/reset` gives a subject its"
    " budget anew."
)
