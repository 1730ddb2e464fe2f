"""`POST /v1/explain`: why a token is, or would be, refused."""

from aiohttp import web

from gateway.admin.api import models, reports
from gateway.admin.api.operations import Answer, Operation, json, takes
from gateway.explain import Explainer


class Explain:
    """Asks the same engine as the command line."""

    def __init__(self, explainer: Explainer) -> None:
        self._explainer = explainer

    def operations(self) -> list[Operation]:
        return [
            takes("POST", "/explain", self.explain_token, models.NoParams, reports.Question,
                  "Explain the decision on a token; changes nothing",
                  Answer(model=reports.Explanation)),
        ]  # fmt: skip

    async def explain_token(
        self, _: web.Request, __: models.NoParams, question: reports.Question
    ) -> web.Response:
        explanation = await self._explainer.explain(question.token, method=question.method, url=question.url)
        return json(reports.Explanation.model_validate(explanation.to_json()))
