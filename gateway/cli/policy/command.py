"""`gateway policy test`: cases that say what the configuration must decide."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json, settings_or_exit
from gateway.cli.terminal import output

policy_app = typer.Typer(no_args_is_help=True, help="Test what the configuration decides.")


@policy_app.callback()
def policy() -> None:
    """Make `test` a command, although it is the only one."""


@policy_app.command("test")
def decide_cases(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files with cases.")],
    *,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Decide each case by the configuration, and compare with what it expects: docs/policy.md.

    No store is asked, and no token is needed: user and claims are part of the case. The exit code is 1 when
    a case fails.
    """
    from gateway import translation
    from gateway.cli.policy.cases import CaseMistake, read
    from gateway.replay.decider import Decider, RequestClock

    settings = settings_or_exit(config)
    failed: list[dict[str, object]] = []
    number = 0
    try:
        written = [(file, read(file, settings)) for file in files]
    except CaseMistake as mistake:
        output.err.print(output.plain(str(mistake)), markup=False, soft_wrap=True)
        raise typer.Exit(output.USAGE) from None
    moment = RequestClock()
    decider = Decider(translation.routes(settings, moment), map(translation.issuer, settings.issuers), moment)
    for file, cases in written:
        for expected in cases:
            number += 1
            outcome = decider.decide(expected.case)
            route = None if outcome.route is None else outcome.route.name
            if expected.is_met_by(outcome.verdict, route):
                continue
            failed.append(
                {
                    "file": str(file), "line": expected.line, "name": expected.name,
                    "expected": expected.verdict, "expected_route": expected.route,
                    "verdict": outcome.verdict, "route": route,
                    "detail": None if outcome.denial is None else outcome.denial.detail,
                }
            )  # fmt: skip
    if json:
        output.emit_json({"cases": number, "passed": number - len(failed), "failed": failed})
    else:
        for each in failed:
            output.err.print(output.plain(_line(each)), markup=False, soft_wrap=True)
        style = "red" if failed else "green"
        output.out.print(f"{number - len(failed)} of {number} cases pass.", style=style)
    raise typer.Exit(output.DENIED if failed else output.OK)


def _line(failure: dict[str, object]) -> str:
    wanted = failure["expected"]
    if failure["expected_route"] is not None:
        wanted = f"{wanted} on route {failure['expected_route']}"
    got = f"{failure['verdict']} on route {failure['route']}" if failure["route"] else failure["verdict"]
    detail = f": {failure['detail']}" if failure["detail"] else ""
    return f"{failure['file']}:{failure['line']}: {failure['name']}: expected {wanted}, got {got}{detail}"
