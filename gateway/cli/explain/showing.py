"""How `gateway explain` shows an explanation to people, and its exit code."""

from textwrap import wrap
from typing import TYPE_CHECKING, Final

from gateway.cli.terminal import output
from gateway.core.reasons import CATALOGUE, Group

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.explain import Explanation, Step

_MARGIN: Final = 28
"""Columns for the outcome and the name of a step."""
_STYLES: Final = {"pass": "green", "fail": "bold red", "warn": "yellow", "skipped": "dim"}


def exit_code(explanation: "Explanation") -> int:
    """Return the exit code that an explanation stands for."""
    if explanation.decision == "allow":
        return output.OK
    reason = CATALOGUE[explanation.reason or ""]
    return output.UNREACHABLE if reason.group is Group.OURS else output.DENIED


def show(explanation: "Explanation") -> None:
    """Write the steps, then the decision, and the fix last, so that it stays visible."""
    for step in explanation.steps:
        _show_step(step)
    show_verdict(explanation)


def show_verdict(explanation: "Explanation") -> None:
    """Write the decision and the fix."""
    from rich.text import Text

    allowed = explanation.decision == "allow"
    heading = Text(
        "ALLOW" if allowed else f"DENY  {explanation.reason}", "bold green" if allowed else "bold red"
    )
    if explanation.cause is not None:
        heading.append(f"  cause: {explanation.cause}", "bold yellow" if allowed else "bold red")
    output.out.print()
    output.out.print(heading)
    output.out.print(Text(output.plain(explanation.summary)))
    fix = explanation.fix
    if fix is None:
        return
    output.out.print(Text.assemble(("\nFix: ", "bold"), output.plain(fix.text)))
    # Unchanged and in one line each, for pasting; they have no control characters.
    for line in (fix.command, fix.config):
        if line is not None:
            output.out.print(Text(f"    {line}", "bold cyan"), soft_wrap=True)


def _show_step(step: "Step") -> None:
    """Write a step in one line; add what was expected if the step did not pass."""
    from rich.text import Text

    found, detail = step.found, step.detail
    if step.outcome in {"fail", "warn"}:
        said = [found, None if step.expected is None else f"expected: {step.expected}", detail]
    else:
        said = ["; ".join(text for text in (found, detail) if text)]
    lines = [
        line
        for text in said
        if text
        for line in wrap(output.plain(text), max(20, output.out.width - _MARGIN), replace_whitespace=False)
    ]
    for place, line in enumerate(lines or [""]):
        head = f"{step.outcome:<9}", f"{step.name:<{_MARGIN - 9}}"
        outcome, name = head if place == 0 else (" " * 9, " " * (_MARGIN - 9))
        output.out.print(Text.assemble((outcome, _STYLES[step.outcome]), name, line), soft_wrap=True)
