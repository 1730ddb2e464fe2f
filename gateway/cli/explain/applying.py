"""`gateway explain --apply`: shows the exact change, asks, makes it, and explains the request again."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click
import typer

from gateway.cli.explain.showing import exit_code, show, show_verdict
from gateway.cli.terminal import output

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.explain import Explanation, Fix
    from gateway.explain.changes import Change
    from gateway.settings.sections.model import Admin

_TERMINAL: Final = Path("/dev/tty")


@dataclass(frozen=True, slots=True)
class Offer:
    """How a fix may be applied."""

    config: Path
    yes: bool
    """Do not ask."""
    json: bool
    stdin_is_read: bool
    """The token came from stdin, so that no answer can."""


def apply_fix(before: "Explanation", offer: Offer, explained: "Callable[[], Explanation]") -> NoReturn:
    """Apply the fix of an explanation, and exit with what the request is then."""
    fix = _fix_of(before, offer)
    if fix.change is not None:
        _show_change(fix.change, offer)
        _ask(fix.change.question, before, offer)
        _make(fix.change, offer.config)
    elif fix.config is not None and fix.command is None:
        _edit(fix.config, before, offer)
    else:
        _refuse(fix, before, offer)
    after = explained()
    _tell(before, after, fix, offer)
    raise typer.Exit(exit_code(after))


def apply_fix_of_denied(before: "Explanation", offer: Offer, admin: "Admin", request_id: str) -> NoReturn:
    """Let the running gateway apply the fix for a denied request, and exit."""
    from gateway.cli.explain.denied import apply_to_denied

    fix = _fix_of(before, offer)
    if fix.change is None:
        _refuse(fix, before, offer)
    _show_change(fix.change, offer)
    _ask(fix.change.question, before, offer)
    after = asyncio.run(apply_to_denied(admin, request_id, fix.change, offer.config))
    _tell(before, after, fix, offer)
    # The request was denied, and stays it: that the change is made is the answer.
    raise typer.Exit(output.OK)


def _fix_of(before: "Explanation", offer: Offer) -> "Fix":
    """Show the explanation, and return its fix; exit if it has none."""
    if not offer.json:
        show(before)
        output.out.print()
    if before.fix is None:
        if offer.json:
            output.emit_json({**before.to_json(), "applied": None})
        else:
            output.out.print("There is nothing to apply.")
        raise typer.Exit(exit_code(before))
    return before.fix


def _refuse(fix: "Fix", before: "Explanation", offer: Offer) -> NoReturn:
    """Say why nothing is applied, and exit."""
    if offer.json:
        output.emit_json({**before.to_json(), "applied": None})
    if fix.config is not None:
        why, advice = "the fix has two parts, of which the command is for you", "edit the file, and run it"
    elif fix.command is not None:
        why = "the fix is a command for the owner of the database, the server or the tables"
        advice = "read the command above, and paste it"
    else:
        why = "the fix is no change of the gateway's data, but for people, the client or the issuer"
        advice = "do what the fix says"
    output.fail(f"nothing was applied: {why}", advice, exit_code(before))


def _show_change(change: "Change", offer: Offer) -> None:
    from rich.text import Text

    console = output.err if offer.json else output.out
    console.print(Text(output.plain(f"The change of {change.target}:"), "bold"), soft_wrap=True)
    for edit in change.edits:
        for sign, value, style in (("-", edit.before, "red"), ("+", edit.after, "green")):
            if value is not None:
                console.print(Text(output.plain(f"    {sign} {edit.what}: {value}"), style), soft_wrap=True)


def _ask(question: str | None, before: "Explanation", offer: Offer) -> None:
    """Exit unless the change is to be made."""
    if offer.yes:
        return
    text = "Make this change?" if question is None else f"{question} Make this change?"
    try:
        agreed = _asked_at_terminal(text) if offer.stdin_is_read else typer.confirm(text, err=True)
    except click.Abort:
        agreed = False
    if not agreed:
        output.fail("nothing was changed", code=exit_code(before) or output.DENIED)


def _asked_at_terminal(text: str) -> bool:
    """Ask at the terminal, because stdin had the token."""
    try:
        with _TERMINAL.open("w") as shown, _TERMINAL.open() as typed:
            shown.write(f"{output.plain(text)} [y/N]: ")
            shown.flush()
            return typed.readline().strip().lower() in {"y", "yes"}
    except OSError:
        output.fail(
            "nothing was changed: there is no terminal to ask at",
            "repeat with --yes, if the answer is yes",
            output.USAGE,
        )


def _make(change: "Change", config: Path) -> None:
    """Make a change, as an operator by this command."""
    from gateway.admin.api.write_through import WriteThrough
    from gateway.cli.stores import Stores, with_stores
    from gateway.explain.fixes.applying import Applier, NothingToLift
    from gateway.identity.local_cache import LocalCache
    from gateway.stores.postgres.directory.audit import AuditLog
    from gateway.stores.postgres.directory.user_rows import (
        ChangeRefused,
        IdentityMissing,
        IdentityTaken,
        StatusRefused,
        UserChanged,
        UserNotFound,
    )

    async def work(stores: Stores) -> None:
        names = stores.issuer_names
        nothing = LocalCache(ttl=0.0, max_users=1, max_tokens=1, clock=time.monotonic)
        caches = WriteThrough(nothing, stores.redis, names.by_iss)
        applier = Applier(stores.directory, stores.revocations, AuditLog(stores.postgres), caches, names)
        await applier.apply(change, stores.author)

    try:
        with_stores(config, work)
    except (IdentityMissing, IdentityTaken, StatusRefused, UserChanged, UserNotFound, NothingToLift) as error:
        output.fail(f"nothing was changed: {error}", "explain again: the state is another one now")
    except ChangeRefused as error:
        output.fail(f"nothing was changed: {error}")


def _edit(line: str, before: "Explanation", offer: Offer) -> None:
    """Edit the configuration file, if that is safe; else show what to change, and exit."""
    from gateway.cli.explain.config_edit import NotEditable, edited, patch, write

    console = output.err if offer.json else output.out
    try:
        text = edited(offer.config, line)
    except NotEditable as error:
        if offer.json:
            output.emit_json({**before.to_json(), "applied": None})
        if error.text is not None:
            console.print(patch(offer.config, error.text), markup=False, soft_wrap=True)
        output.fail(f"{offer.config} was not changed: {error}", f"edit it by hand: {line}", exit_code(before))
    console.print(patch(offer.config, text), markup=False, soft_wrap=True)
    _ask(None, before, offer)
    write(offer.config, text)


def _tell(before: "Explanation", after: "Explanation", fix: "Fix", offer: Offer) -> None:
    if offer.json:
        applied = fix.config if fix.change is None else fix.change.to_json()
        output.emit_json({**after.to_json(), "applied": applied, "before": before.to_json()})
        return
    done = "The change has been made."
    if fix.change is None:
        done = (
            f"{offer.config} has been changed. The gateway decides as before until it reloads it (SIGHUP, or"
            " `server.reload: watch`). With it:"
        )
    output.out.print(done, style="green", soft_wrap=True)
    show_verdict(after)
