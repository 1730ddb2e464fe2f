"""The requests and responses of the admin API about explanations, and the fixes that are applied."""

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from gateway.admin.api import reports
from gateway.admin.api.models import CLEAN, Model, RequestId
from gateway.explain.changes import Change as FoundChange

METHOD: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
Line: TypeAlias = Annotated[str, Field(max_length=2000)]


class Question(Model):
    """The token and the request to explain."""

    token: Annotated[str, Field(max_length=32_768, repr=False)]
    method: Annotated[str | None, Field(pattern=METHOD, max_length=32)] = None
    url: Annotated[str | None, Field(pattern=CLEAN, max_length=8192)] = None
    """A path or a complete URL of the gateway. With it, the route and its requirements are checked, too."""


class Edit(Model):
    """One value that changes."""

    what: Line
    before: Line | None
    """Null: there is none."""
    after: Line | None


class Change(Model):
    """The exact change of users, identities, revocations or caches that a fix is."""

    action: Line
    """As the audit log names it."""
    target: Line
    edits: Annotated[list[Edit], Field(max_length=10)]
    question: Line | None
    """What only a person can know, and the change depends on."""

    @classmethod
    def of(cls, change: FoundChange) -> "Change":
        return cls.model_validate(change.to_json())


class Fix(Model):
    text: str
    command: str | None
    config: str | None
    change: Change | None
    """What `POST /explain/apply` would do; null: the fix is no change of the gateway's own data."""


class Application(Model):
    """The fix to apply, as the explanation of a token or of a denied request has it."""

    token: Annotated[str | None, Field(max_length=32_768, repr=False)] = None
    """As in `POST /explain`, with `method` and `url`; or else `request_id`."""
    method: Annotated[str | None, Field(pattern=METHOD, max_length=32)] = None
    url: Annotated[str | None, Field(pattern=CLEAN, max_length=8192)] = None
    request_id: RequestId | None = None
    change: Change
    """`fix.change` of the explanation, as a person has seen it. Nothing else is done."""
    operator: Annotated[str | None, Field(pattern=CLEAN, max_length=64)] = None
    """The name of the person who decides, for the audit log."""


class Applied(Model):
    """A fix that has been applied, and the explanation as it is now."""

    change: Change
    actor: str
    """The author, as in the audit log."""
    explanation: "Explanation"


class Step(Model):
    name: str
    outcome: Literal["pass", "fail", "warn", "skipped"]
    expected: str | None
    found: str | None
    detail: str | None


class DenialExplanation(Model):
    """Why a request was denied, as far as what was kept of it tells."""

    denial: reports.Denial
    explanation: "Explanation"


class Explanation(Model):
    """The decision on a token, its cause, and the fix."""

    decision: Literal["allow", "deny"]
    reason: str | None
    """The code with which the request is denied."""
    cause: str | None
    """The root cause."""
    summary: str
    fix: Fix | None
    steps: list[Step]
