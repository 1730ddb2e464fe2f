"""`gateway reasons`: the catalogue of denials, for readers of a log line or an alert."""

from difflib import get_close_matches
from typing import Annotated

import typer
from rich.text import Text

from gateway.cli.config import Json
from gateway.cli.terminal import output
from gateway.core.reasons import CATALOGUE, Group, Reason

_TITLES = {
    Group.TOKEN: "Token: the credentials are not valid",
    Group.USER: "User: the token is valid, but its user is refused",
    Group.POLICY: "Policy: the user is valid, but is not allowed to do this",
    Group.OURS: "Gateway: a dependency or the gateway itself fails; the client is not at fault",
    Group.PROXY: "Proxy: the request or its upstream",
}


def reasons(
    *,
    code: Annotated[str | None, typer.Argument(help="Show only this reason.", show_default=False)] = None,
    markdown: Annotated[bool, typer.Option("--markdown", hidden=True, help="Write docs/reasons.md.")] = False,
    json: Json = False,
) -> None:
    """List the reasons why requests are denied: what the client gets, and what to do."""
    chosen = list(CATALOGUE.values()) if code is None else [_find(code)]
    if markdown:
        typer.echo(page(), nl=False)
    elif json:
        output.emit_json([_as_dict(reason) for reason in chosen])
    else:
        for reason in chosen:
            output.out.print(Text.assemble((reason.code, "bold"), f"  {reason.status}"), soft_wrap=True)
            output.out.print(Text(f"  the client is told  {_told(reason)}"), soft_wrap=True)
            output.out.print(Text(f"  what to do          {reason.hint}\n"), soft_wrap=True)


def page() -> str:
    """Return docs/reasons.md."""
    lines = [
        "# Why requests are denied",
        "",
        "Every denial has one of these reasons. It is in the log, in `gateway_denials_total{reason}` and,",
        "as `code`, in the client's problem+json. Reasons that would reveal which users exist reach the",
        "client as `invalid_token` with status 401, unless `errors.detail` is `full`.",
        "",
        "[explain.md](explain.md) goes from a reason to its root cause and the fix.",
        "",
        "`gateway reasons --markdown` generates this page from the catalogue.",
    ]
    for group, title in _TITLES.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| reason | status | client is told | what to do |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| `{reason.code}` | {reason.status} | {_told(reason)} | {reason.hint} |"
            for reason in CATALOGUE.values()
            if reason.group is group
        ]
    return "\n".join([*lines, ""])


def _told(reason: Reason) -> str:
    return f"{reason.title} (`invalid_token` unless `full`)" if reason.concealed else reason.title


def _find(code: str) -> Reason:
    reason = CATALOGUE.get(code)
    if reason is None:
        near = get_close_matches(code, CATALOGUE, n=1)
        output.fail(
            f"there is no reason {code!r}", f"did you mean {near[0]}?" if near else None, output.USAGE
        )
    return reason


def _as_dict(reason: Reason) -> dict[str, object]:
    return {
        "code": reason.code,
        "group": reason.group.value,
        "status": reason.status,
        "title": reason.title,
        "hint": reason.hint,
        "concealed": reason.concealed,
    }
