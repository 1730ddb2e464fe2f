"""Why a running gateway denied a request, and the application of the fix: both by its admin API."""

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.admin_api import admin_api, other_version
from gateway.cli.stores import operator
from gateway.cli.terminal import output
from gateway.core.model import JSON
from gateway.telemetry.denials import SIZE

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.explain.answer import Explanation, Fix, Step
    from gateway.explain.changes import Change, Edit
    from gateway.settings.sections.model import Admin


async def explain_denied(admin: "Admin", request_id: str, config: Path) -> "Explanation":
    """Return the explanation of a denied request; exit if the gateway does not keep the denial.

    The command of its fix names `config`, as those do that this program makes.
    """
    query = {"request_id": request_id}
    async with admin_api(admin, f"search its log for {request_id}") as api:
        listed = await api.get("/denials", {**query, "limit": "1"})
        if not isinstance(listed, dict) or not isinstance(listed.get("items"), list):
            other_version()
        if not listed["items"]:
            output.fail(
                f"the gateway keeps no denial of the request {request_id}",
                f"each worker keeps its latest {SIZE:,} denials until it ends; the log has them all",
            )
        answer = await api.get("/denials/explanation", query)
    try:
        return _explanation(answer, config)
    except ValueError:
        other_version()


async def apply_to_denied(admin: "Admin", request_id: str, change: "Change", config: Path) -> "Explanation":
    """Let the gateway make the change that was shown; return the explanation after it. Exit if it refuses."""
    body: JSON = {"request_id": request_id, "change": change.to_json(), "operator": operator()}
    async with admin_api(admin) as api:
        answer = await api.post("/explain/apply", body)
    try:
        return _explanation(answer, config)
    except ValueError:
        other_version()


def _explanation(found: JSON, config: Path) -> "Explanation":
    from gateway.explain.answer import Explanation

    match found:
        case {
            "explanation": {
                "reason": str(reason),
                "cause": str() | None as cause,
                "summary": str(summary),
                "fix": fix,
                "steps": list(steps),
            }
        }:
            taken = tuple(_step(each) for each in steps)
            made = None if fix is None else _fix(fix, config)
            return Explanation("deny", reason, cause, summary, made, taken)
    raise ValueError(found)


def _fix(found: JSON, config: Path) -> "Fix":
    from gateway.explain.answer import Fix
    from gateway.explain.wording import with_config

    match found:
        case {
            "text": str(text),
            "command": str() | None as command,
            "config": str() | None as line,
            "change": change,
        }:
            command = None if command is None else with_config(command, str(config))
            return Fix(text, command, line, None if change is None else _change(change))
    raise ValueError(found)


def _change(found: JSON) -> "Change":
    from gateway.explain.changes import Change

    match found:
        case {
            "action": str(action),
            "target": str(target),
            "edits": list(edits),
            "question": str() | None as question,
        }:
            return Change(action, target, tuple(map(_edit, edits)), question)
    raise ValueError(found)


def _edit(found: JSON) -> "Edit":
    from gateway.explain.changes import Edit

    match found:
        case {"what": str(what), "before": str() | None as before, "after": str() | None as after}:
            return Edit(what, before, after)
    raise ValueError(found)


def _step(found: JSON) -> "Step":
    from gateway.explain.answer import Step

    match found:
        case {
            "name": str(name),
            "outcome": "pass" | "fail" | "warn" | "skipped" as outcome,
            "expected": str() | None as expected,
            "found": str() | None as what,
            "detail": str() | None as detail,
        }:
            return Step(name, outcome, expected, what, detail)
    raise ValueError(found)
