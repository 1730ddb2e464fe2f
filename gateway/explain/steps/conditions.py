"""The step about the condition of a route: what it says, the values that it read, and whose they are."""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.core import policy
from gateway.core.conditions import Condition, Missing, Reading
from gateway.core.model import Claims, Route, User
from gateway.core.reasons import CONDITION_FAILED, CONDITION_NOT_MET, Denial
from gateway.core.requests.asked import asked
from gateway.core.tokens.claim_paths import at_path
from gateway.explain.answer import Cause, Fix
from gateway.explain.fixes import claim_places
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, shown

CAUSES: Final = {CONDITION_NOT_MET: Cause.CONDITION_NOT_MET, CONDITION_FAILED: Cause.CONDITION_FAILED}


def check(trail: Trail, claims: Claims, user: User | None, route: Route) -> None:
    """Take the step, if the route has a condition. Without a user, its fields are missing."""
    condition = route.require.condition
    if condition is None:
        return
    expected = f"`{condition.text}` is true"
    request = trail.request
    if request is None:
        trail.step("condition", "skipped", expected, None, "give a method and a URL to evaluate it")
        return
    readings = condition.readings(claims, user, asked(request, route))
    found = "; ".join(f"{each.path} {_value(each)}" for each in readings)
    try:
        policy.check_once(condition, request, route, claims, user)
    except Denial as denial:
        trail.step("condition", "fail", expected, found, denial.detail)
        _blame(trail, claims, user, route, condition, readings, denial)
    else:
        trail.step("condition", "pass", expected, found, _assumed(readings))


def _value(reading: Reading) -> str:
    return "is missing" if isinstance(reading.value, Missing) else f"= {shown(reading.value)}"


def _assumed(readings: Sequence[Reading]) -> str | None:
    """Return what the explanation cannot know of the request."""
    paths = [each.path for each in readings if each.path.startswith(("client.", "request.headers"))]
    return f"{listed(paths)}: as far as it is known here" if paths else None


def _blame(
    trail: Trail,
    claims: Claims,
    user: User | None,
    route: Route,
    condition: Condition,
    readings: Sequence[Reading],
    denial: Denial,
) -> None:
    absent = [each for each in readings if isinstance(each.value, Missing)]
    values = "; ".join(f"{each.path} {_value(each)}" for each in readings)
    says = "is false" if denial.reason is CONDITION_NOT_MET else "has no value"
    summary = f"Route {route.name} requires `{condition.text}`, which {says} here: {values}"
    fixes = [
        _FIXES[root].format(listed(each.path for each in each_of))
        for root in _FIXES
        if (each_of := [each for each in absent or readings if each.root == root])
    ]
    fixes = [*_elsewhere(claims, user, absent), *fixes]
    trail.blame(denial, CAUSES[denial.reason], summary, Fix(" ".join(fixes) or _AS_INTENDED))


def _elsewhere(claims: Claims, user: User | None, absent: Sequence[Reading]) -> Iterator[str]:
    """Yield where the token has the claims that a condition misses, and the user the attributes."""
    for each in absent:
        if each.path.startswith(_ATTRIBUTES) and user is not None:
            name = each.path.removeprefix(_ATTRIBUTES)
            spelt = next((other for other in user.attributes if other.lower() == name.lower()), None)
            if spelt is not None:
                yield (
                    f"The user has the attribute {shown(spelt)}: names are compared exactly, so use one"
                    " spelling."
                )
        elif each.root == "claims":
            other = claim_places.of_claim(claims.payload, each.path.removeprefix("claims."))
            if other is not None:
                yield (
                    f"The token has {shown(at_path(claims.payload, other))} at `{other}`: if the issuer alone"
                    f" writes that, the condition may look in the wrong place with {shown(each.path)}."
                )


_ATTRIBUTES: Final = "user.attributes."
_AS_INTENDED: Final = (
    "Compare the values with what the condition asks for, and correct the one that is wrong."
)
_FIXES: Final = {
    "user": "Decide whether the user should be admitted; if so, correct {} where users are kept.",
    "claims": "Let the client get a token with the right {}: the issuer decides who gets one.",
    "request": "Send the request as the condition asks for it: {}.",
    "client": "Send the request from an address that the condition allows. The address is the last one in"
    " X-Forwarded-For that no trusted proxy has: {} is wrong if `server.trusted_proxies` is.",
    "now": "Send the request again at a time that the condition allows: {} passes.",
}
"""By root: what to do about its fields. The condition stays as it is."""
