"""`gateway routes import`: routes from an OpenAPI description, or how it differs from the configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.config import Json, settings_or_exit
from gateway.cli.terminal import output

if TYPE_CHECKING:  # YAML takes a while to import
    from gateway.cli.routes.openapi import Description, NewRoute

routes_app = typer.Typer(no_args_is_help=True, help="Routes from the description of an API.")


@routes_app.callback()
def routes() -> None:
    """Make `import` a command, although it is the only one."""


@routes_app.command("import")
def import_routes(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="OpenAPI 3.0 or 3.1, YAML or JSON.")],
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            show_default=False,
            help="A configuration: show how its routes differ, and exit with 1 if they do.",
        ),
    ] = None,
    upstream: Annotated[str, typer.Option(help="The upstream of new routes.")] = "api",
    prefix: Annotated[str, typer.Option(help="What the names of new routes begin with.")] = "",
    host: Annotated[str | None, typer.Option(help="Compare for this host alone.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Print routes for the paths, methods and security of an OpenAPI description: docs/policy.md."""
    from gateway.cli.routes import openapi
    from gateway.cli.routes.difference import compare
    from gateway.cli.routes.document import load
    from gateway.cli.routes.operations import NotOpenApi

    try:
        description = openapi.read(load(file))
    except NotOpenApi as error:
        output.fail(output.plain_lines(f"{file}: {error}"), code=output.USAGE)
    for note in description.notes:
        output.warn(output.plain(note))
    if config is not None:
        from gateway import translation

        found = compare(description.operations, translation.routes(settings_or_exit(config)), host)
        if json:
            output.emit_json(
                [{"kind": e.kind, "what": e.what, "detail": e.detail, "route": e.route} for e in found]
            )
        else:
            for each in found:
                output.out.print(output.plain(str(each)), markup=False, soft_wrap=True)
            if not found:
                output.out.print(f"The routes are those of {file}.", style="green", markup=False)
        raise typer.Exit(output.DENIED if found else output.OK)
    made = [_entry(each, upstream) for each in openapi.routes(description, prefix)]
    if json:
        output.emit_json({"routes": made})
    else:
        typer.echo(_yaml(description, made))


def _entry(route: "NewRoute", upstream: str) -> dict[str, object]:
    security = route.security
    entry: dict[str, object] = {
        "name": route.name,
        "match": {"path": route.path, "methods": list(route.methods)},
        "upstream": upstream,
    }
    if security.auth != "required":
        entry["auth"] = security.auth
    require: dict[str, object] = {}
    if security.scopes:
        require["scopes"] = sorted(security.scopes)
    if security.condition is not None:
        require["condition"] = security.condition
    if require:
        entry["require"] = require
    return entry


def _yaml(description: "Description", made: list[dict[str, object]]) -> str:
    import yaml

    head = "".join(f"# {output.plain(note)}\n" for note in description.notes)
    text: str = yaml.safe_dump(
        {"routes": made}, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )
    return (head + text).rstrip()
