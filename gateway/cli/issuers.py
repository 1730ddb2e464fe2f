"""`gateway issuers`: the issuers of a running gateway, their keys, and what their tokens have had."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli.admin_api import admin_api, other_version
from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json, settings_or_exit
from gateway.cli.terminal import output
from gateway.core.model import JSON

issuers_app: Final = typer.Typer(no_args_is_help=True, help="The issuers of a running gateway.")


@issuers_app.callback()
def issuers() -> None:
    """Keep `show` a command of its own, though there is no other."""


@issuers_app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="The configured name. Default: all issuers.")] = None,
    *,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Show issuers: their keys, refused keys, and paths of `claims` at which no token has had anything.

    It asks the running gateway by its admin API. Exit code 1: an issuer has no keys.
    """
    found = asyncio.run(_ask(config))
    names = [str(each.get("name")) for each in found]
    if name is not None and name not in names:
        output.fail(f"no issuer `{name}` is configured", f"configured issuers: {', '.join(names)}")
    wanted = [each for each in found if name in (None, each.get("name"))]
    if json:
        output.emit_json(wanted if name is None else wanted[0])
    else:
        for place, issuer in enumerate(wanted):
            if place:
                output.out.print()
            for line in _described(issuer):
                output.out.print(output.plain(line), markup=False, soft_wrap=True)
    if not all(each.get("ready") for each in wanted):
        raise typer.Exit(output.DENIED)


async def _ask(config: Path) -> list[Mapping[str, JSON]]:
    async with admin_api(settings_or_exit(config).admin) as api:
        document = await api.get("/issuers")
    entries = document if isinstance(document, list) else []
    found = [each for each in entries if isinstance(each, dict)]
    if not found or not all(isinstance(each.get("paths"), list) for each in found):
        other_version()
    return [*found]


def _described(issuer: Mapping[str, JSON]) -> Iterator[str]:
    """Yield the lines that describe an issuer."""
    yield f"{issuer['name']}: {issuer.get('issuer')}"
    tenants = issuer.get("tenants")
    if tenants is not None:
        yield f"  tenants      {_joined(tenants)}"
    yield f"  audiences    {'any' if issuer.get('audiences') is None else _joined(issuer.get('audiences'))}"
    yield f"  algorithms   {_joined(issuer.get('algorithms'))}"
    age = issuer.get("age_seconds")
    loaded = f"loaded {age:.0f} s ago" if isinstance(age, int | float) else "never loaded"
    keys = issuer.get("keys")
    yield f"  keys         {loaded}"
    for key in keys if isinstance(keys, list) else []:
        if isinstance(key, dict):
            yield f"    {key.get('kid') or 'without kid'} ({_joined(key.get('algorithms'))})"
    for why in _list(issuer.get("skipped")):
        yield f"    refused: {why}"
    if issuer.get("last_error"):
        yield f"  last error   {issuer['last_error']}"
    for path in _list(issuer.get("paths")):
        if isinstance(path, dict):
            yield f"  {path.get('setting')}: {path.get('path')}  {_FOUND[_truth(path.get('found'))]}"


_FOUND: Final = {
    True: "found in tokens",
    False: "in no token yet: correct the path, or let the issuer add the claim",
    None: "no token yet",
}


def _truth(value: JSON) -> bool | None:
    return value if isinstance(value, bool) else None


def _list(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []


def _joined(value: JSON) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
