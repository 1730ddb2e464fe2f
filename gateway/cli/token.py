"""`gateway token inspect`: what is in a token, without verifying it or sending it anywhere."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from gateway.cli.config import Json
from gateway.cli.terminal import arguments, output

if TYPE_CHECKING:
    from gateway.providers.inspection import Inspection
    from gateway.providers.marks import Lifetime
    from gateway.providers.suggestion import Suggestion

_MARGIN: Final = 12
_WORDS: Final = {
    "scopes": ("scope", "scp", "permissions", "org_permissions"),
    "roles": ("roles", "groups", "role", "realm_access.roles", "cognito:groups", "o.rol", "org_role"),
}
"""Where providers keep these."""
Row: TypeAlias = tuple[str, str]

token_app = typer.Typer(no_args_is_help=True, help="Look at tokens.")


@token_app.callback()
def token() -> None:
    """Group the commands."""


@token_app.command()
def inspect(
    token: arguments.PastedToken = None,
    *,
    as_config: Annotated[
        bool,
        typer.Option(
            "--as-config", help="Print an entry of `issuers` for such tokens: check it, then paste it."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Tell what is in a token: whose it is, what it is for, how long it lives, and what is unusual.

    The token is not verified, and not sent anywhere. With --as-config, the exit code is 1 when no
    configuration should accept such tokens.
    """
    from gateway.explain import pasted
    from gateway.providers.inspection import inspect as inspected
    from gateway.providers.suggestion import suggest

    now = time.time()
    text = pasted.read(arguments.token_text(token, "token inspect")).token.decode("utf-8", "replace")
    inspection = inspected(text, now)
    suggestion = suggest(inspection)
    refused = as_config and suggestion.entry is None
    if json:
        output.emit_json(_document(inspection, suggestion))
    elif as_config:
        _print_config(suggestion)
    else:
        _show(inspection, now)
    raise typer.Exit(output.DENIED if refused else output.OK)


def _document(inspection: "Inspection", suggestion: "Suggestion") -> dict[str, object]:
    """Return all of it for programs."""
    from gateway.providers.inspection import harmless

    token, lifetime = inspection.token, inspection.lifetime
    return {
        "verified": False,
        "kind": inspection.kind.value,
        "what": inspection.what,
        "provider": None if inspection.provider is None else inspection.provider.name,
        "issuer": None if token is None else token.text("iss"),
        "subject": inspection.subject,
        "client": inspection.client,
        "audiences": [] if token is None else token.audiences,
        "lifetime": None
        if lifetime is None
        else {
            "state": lifetime.state,
            "issued_at": lifetime.issued_at,
            "not_before": lifetime.not_before,
            "expires_at": lifetime.expires_at,
        },
        "header": None if token is None else harmless(dict(token.header)),
        "claims": None if token is None else harmless(dict(token.payload)),
        "sha256": inspection.fingerprint,
        "characters": inspection.characters,
        "notes": list(inspection.notes),
        "config": None if suggestion.entry is None else {"issuers": [suggestion.entry]},
        "cautions": list(suggestion.cautions),
    }


def _show(inspection: "Inspection", now: float) -> None:
    from rich.text import Text

    whose = "" if inspection.provider is None else f"{inspection.provider.title}: "
    heading = f"{whose}{inspection.what}"
    output.out.print(Text.assemble((output.plain(heading[:1].upper() + heading[1:]), "bold")))
    output.out.print(Text("Nothing below has been verified, and the token was not sent anywhere.\n", "dim"))
    for name, value in _rows(inspection, now):
        output.out.print(Text.assemble((f"{name:<{_MARGIN}}", "bold"), output.plain(value)), soft_wrap=True)
    if inspection.notes:
        output.out.print()
    for note in inspection.notes:
        output.out.print(Text.assemble(("- ", "yellow"), output.plain(note)), soft_wrap=True)


def _rows(inspection: "Inspection", now: float) -> Iterator[Row]:
    from gateway.core.tokens.claim_paths import at_path
    from gateway.explain.wording import listed, shown
    from gateway.providers.inspection import harmless

    token, lifetime = inspection.token, inspection.lifetime
    if token is None:
        if inspection.beginning:
            yield "begins with", f"{inspection.beginning}…"
        yield "length", f"{inspection.characters} characters"
        yield "SHA-256", inspection.fingerprint
        return
    names = (name for name in ("alg", "enc", "typ", "kid") if name in token.header)
    yield "header", ", ".join(f"{name} {shown(harmless(token.header[name]))}" for name in names) or "empty"
    for name, claim in (("issuer", "iss"), ("audience", "aud")):
        if claim in token.payload:
            yield name, shown(harmless(token.payload[claim]))
    if inspection.subject is not None:
        yield "subject", f"{shown(inspection.subject)}  ({inspection.subject_claim})"
    if inspection.client is not None:
        yield "client", f"{shown(inspection.client)}  ({inspection.client_claim})"
    for name, paths in _WORDS.items():
        found = [
            shown(harmless(value)) for path in paths if (value := at_path(token.payload, path)) is not None
        ]
        if found:
            yield name, ", ".join(found)
    if lifetime is not None:
        yield from _dates(lifetime, now)
    if token.payload:
        yield "claims", listed(token.payload)
    yield "SHA-256", inspection.fingerprint


def _dates(lifetime: "Lifetime", now: float) -> Iterator[Row]:
    from gateway.explain.wording import ago, moment, span

    dates = (
        ("issued", lifetime.issued_at),
        ("not before", lifetime.not_before),
        ("expires", lifetime.expires_at),
    )
    for name, date in dates:
        if date is not None:
            yield name, f"{moment(date)}  ({ago(date, now)})"
    if lifetime.issued_at is not None and lifetime.expires_at is not None:
        yield "lives", span(lifetime.expires_at - lifetime.issued_at)
    yield (
        "now",
        {"valid": "within its lifetime", "expired": "expired", "not_yet_valid": "not yet valid"}.get(
            lifetime.state, "its lifetime is not known"
        ),
    )


def _print_config(suggestion: "Suggestion") -> None:
    from gateway.cli.terminal.yaml import entry

    if suggestion.entry is None:
        output.fail(suggestion.cautions[0], " ".join(suggestion.cautions[1:]) or None)
    lines = [f"# {output.plain(caution)}" for caution in suggestion.cautions]
    typer.echo("\n".join([*lines, "issuers:", *entry(suggestion.entry)]))
