"""`POST /v1/explain`: why a token is, or would be, refused; and `/explain/apply`, which applies the fix."""

from dataclasses import replace

from aiohttp import web

from gateway.admin.api import explanations, models
from gateway.admin.api.operations import Answer, Operation, author_of, json, takes
from gateway.admin.api.problems import FieldError, RequestRefused, invalid, not_found
from gateway.admin.endpoints.denials import Denials
from gateway.admin.sign_in.sessions import PERSON
from gateway.explain import Explainer, Explanation
from gateway.explain.changes import Change
from gateway.explain.fixes.applying import Applier, NothingToLift


class Explain:
    """Asks the same engine as the command line. `denials` explains without a token."""

    def __init__(self, explainer: Explainer, denials: Denials, applier: Applier) -> None:
        self._explainer = explainer
        self._denials = denials
        self._applier = applier

    def operations(self) -> list[Operation]:
        return [
            takes("POST", "/explain", self.explain_token, models.NoParams, explanations.Question,
                  "Explain the decision on a token; changes nothing",
                  Answer(model=explanations.Explanation), changes=False),
            takes("POST", "/explain/apply", self.apply_fix, models.NoParams, explanations.Application,
                  "Apply the fix of an explanation, as it was shown, and explain again",
                  Answer(model=explanations.Applied), refusals=(404, 409, 412)),
        ]  # fmt: skip

    async def explain_token(
        self, _: web.Request, __: models.NoParams, question: explanations.Question
    ) -> web.Response:
        explanation = await self._explainer.explain(question.token, method=question.method, url=question.url)
        return json(explanations.Explanation.model_validate(explanation.to_json()))

    async def apply_fix(
        self, request: web.Request, _: models.NoParams, wanted: explanations.Application
    ) -> web.Response:
        change = _offered(await self._explained(wanted), wanted.change)
        author = author_of(request)
        if wanted.operator is not None and PERSON not in request:
            # A name that the caller gives: all callers with the token share it.
            author = replace(author, actor=f"{author.actor} ({wanted.operator})")
        try:
            await self._applier.apply(change, author)
        except NothingToLift as error:
            raise not_found("This revocation does not exist any more") from error
        return json(
            explanations.Applied(
                change=wanted.change,
                actor=author.actor,
                explanation=explanations.Explanation.model_validate(
                    (await self._explained(wanted)).to_json()
                ),
            )
        )

    async def _explained(self, wanted: explanations.Application) -> Explanation:
        if (wanted.token is None) is (wanted.request_id is None):
            raise invalid(FieldError("token", "Send either this, or `request_id`"))
        if wanted.token is not None:
            return await self._explainer.explain(wanted.token, method=wanted.method, url=wanted.url)
        _, explanation = await self._denials.explained(wanted.request_id or "")
        return explanation


def _offered(explanation: Explanation, wanted: explanations.Change) -> Change:
    """Return the change of the fix. Raises `RequestRefused` if it is not the one that was shown."""
    change = None if explanation.fix is None else explanation.fix.change
    if change is None:
        raise RequestRefused(
            409,
            "fix_changed",
            "The fix is no change that the gateway makes: explain again, and read its text",
        )
    if explanations.Change.of(change) != wanted:
        raise RequestRefused(409, "fix_changed", "Explain again, and decide on the change that is shown then")
    return change
