"""`gateway explain`: why a token is refused or admitted, and the application of the fix."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json, settings_or_exit
from gateway.cli.explain.showing import exit_code, show
from gateway.cli.terminal import arguments, output

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.explain import Explanation


def explain(
    token: arguments.PastedToken = None,
    *,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-X",
            metavar="METHOD",
            help="The request's method; GET by default.",
            callback=arguments.method,
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The request's URL or path: may this token call it?")
    ] = None,
    denied: Annotated[
        str | None,
        typer.Option(
            "--request",
            metavar="ID",
            help="Without a token: explain a denied request by its id, as far as the running gateway knows.",
            callback=arguments.clean,
        ),
    ] = None,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply",
            help="Make the change that the fix is: the command shows it exactly, asks, and explains again.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --apply: do not ask.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Explain how the gateway decides on a token: the decision, the root cause, the fix, and each step.

    With --apply, a fix that changes users, identities, revocations or caches is made, and a mistake in the
    configuration file corrected. Any other fix is only shown.
    """
    if yes and not apply:
        output.fail("--yes needs --apply", "without it, nothing is changed", output.USAGE)
    if denied is not None:
        if token is not None or method is not None or url is not None:
            output.fail(
                "--request needs nothing else", "the gateway knows the request by its id", output.USAGE
            )
        _explain_denied(denied, config, apply=apply, yes=yes, json=json)
    if method is not None and url is None:
        output.fail("--method needs --url", "both select the route", output.USAGE)
    text = arguments.token_text(token, "explain")

    def explained() -> "Explanation":
        from gateway.cli.explain import opening

        return asyncio.run(opening.explained(settings_or_exit(config), config, text, method, url))

    explanation = explained()
    if apply:
        from gateway.cli.explain.applying import Offer, apply_fix

        offer = Offer(config, yes=yes, json=json, stdin_is_read=arguments.is_stdin(token))
        apply_fix(explanation, offer, explained)
    _end(explanation, json=json)


def _explain_denied(request_id: str, config: Path, *, apply: bool, yes: bool, json: bool) -> NoReturn:
    """Show what the running gateway knows of a denied request, and exit."""
    from gateway.cli.explain.denied import explain_denied

    settings = settings_or_exit(config)
    explanation = asyncio.run(explain_denied(settings.admin, request_id, config))
    if apply:
        from gateway.cli.explain.applying import Offer, apply_fix_of_denied

        offer = Offer(config, yes=yes, json=json, stdin_is_read=False)
        apply_fix_of_denied(explanation, offer, settings.admin, request_id)
    _end(explanation, json=json)


def _end(explanation: "Explanation", *, json: bool) -> NoReturn:
    if json:
        output.emit_json(explanation.to_json())
    else:
        show(explanation)
    raise typer.Exit(exit_code(explanation))
