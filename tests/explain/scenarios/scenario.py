"""One scenario, and how it is played on the stage."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.core.model import JSON
from gateway.explain import Explanation
from tests import tokens
from tests.explain.scenarios import never
from tests.explain.scenarios.stage import Stage

SUBJECT: Final = "{}"
"""Stands for a text that no other scenario has."""


@dataclass(frozen=True)
class Scenario:
    """A request that is refused, and what must be said about it."""

    name: str
    reason: str | None
    """The code of the denial."""
    cause: str | None
    claims: Mapping[str, JSON] = field(default_factory=dict)
    """Of the token; None removes one. `{}` in a text is this scenario's own text."""
    held: tuple[Mapping[str, Any], ...] = ()
    """The users that there are: `subject`, `iss`, and columns."""
    url: str | None = None
    method: str | None = None
    changes: Mapping[str, JSON] = field(default_factory=dict)
    """Of the configuration."""
    says: tuple[str, ...] = ()
    """What stands in the summary or the fix."""
    command: bool | None = None
    """Whether there is a command; None: either."""
    config: bool = False
    """Whether there is a line for the configuration."""
    applied: bool = True
    """Whether the request passes after the command or the line."""
    person: bool = False
    """Whether the person behind the token has an account, so that another would split it."""
    sign: Callable[[dict[str, JSON]], bytes] = lambda claims: tokens.sign(claims, tokens.rsa_key("main"))
    paste: str | None = None
    """What is pasted; None: the token."""


def _own(value: Any, mark: str) -> Any:  # noqa: ANN401 -- claims and columns
    if isinstance(value, str):
        return value.replace(SUBJECT, mark)
    if isinstance(value, list):
        return [_own(each, mark) for each in value]
    if isinstance(value, dict):
        return {_own(name, mark): _own(each, mark) for name, each in value.items()}
    return value


async def play(stage: Stage, scenario: Scenario) -> Explanation:
    """See a request refused and explained, and pass after what the fix says."""
    mark = uuid.uuid4().hex[:12]
    stage.reset(scenario.changes)
    for each in scenario.held:
        columns = _own(dict(each), mark)
        await stage.add(columns.pop("subject"), iss=columns.pop("iss", tokens.ISSUER), **columns)
    given = {**tokens.claims(mark), **_own(dict(scenario.claims), mark)}
    raw = scenario.sign({name: value for name, value in given.items() if value is not None})
    pasted = raw if scenario.paste is None else scenario.paste.encode()
    headers = ((b"Authorization", b"Bearer " + (raw if scenario.paste is None else pasted)),)
    method, url = scenario.method or "GET", scenario.url
    assert await stage.verdict(headers, method=method, url=url) == scenario.reason
    explanation = await stage.told(pasted, method=None if url is None else method, url=url)
    assert (explanation.reason, explanation.cause) == (scenario.reason, scenario.cause), explanation.summary
    assert never.broken(explanation, person=scenario.person) == []
    fix = explanation.fix
    told = explanation.summary + ("" if fix is None else f" {fix.text} {fix.command} {fix.config}")
    for words in scenario.says:
        assert _own(words, mark) in told, told
    command, config = (None, None) if fix is None else (fix.command, fix.config)
    assert scenario.command in (None, command is not None), command
    assert scenario.config == (config is not None), config
    if scenario.applied and (command is not None or config is not None):
        await stage.apply(fix)
        assert await stage.verdict(headers, method=method, url=url) is None
    return explanation
