"""A refused request, its cause, and a check that the fix works."""

from gateway.explain import Explanation
from tests.explain.world import World


async def denied(
    world: World,
    token: bytes,
    reason: str,
    cause: str | None,
    *,
    method: str = "GET",
    url: str | None = None,
    fixed: bool = True,
) -> Explanation:
    """Have a request refused and explained; `fixed`: do what the fix says, and see the same one pass."""
    assert await world.decide(token, method=method, url=url) == reason
    explanation = await world.explain(token, method=method, url=url)
    assert (explanation.decision, explanation.reason, explanation.cause) == ("deny", reason, cause)
    assert explanation.fix is not None
    if fixed:
        await world.apply(explanation.fix)
        assert await world.decide(token, method=method, url=url) is None
        assert (await world.explain(token, method=method, url=url)).decision == "allow"
    return explanation


def outcomes(explanation: Explanation) -> dict[str, str]:
    """Return the outcome of each step."""
    return {step.name: step.outcome for step in explanation.steps}


def failed(explanation: Explanation) -> list[str]:
    """Return the steps that failed."""
    return [step.name for step in explanation.steps if step.outcome == "fail"]
