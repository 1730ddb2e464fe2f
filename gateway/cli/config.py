"""`gateway check` and `gateway schema`; and how each command loads its settings."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeAlias

import typer

from gateway.cli.terminal import output

if TYPE_CHECKING:  # pydantic takes a quarter of a second to import; `gateway --help` needs none of it
    from gateway.settings import Problem, Settings

DEFAULT_CONFIG: Final = Path("config/gateway.yaml")
ConfigFile: TypeAlias = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="GATEWAY_CONFIG", metavar="FILE", help="The configuration file."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, for programs.")]


def settings_or_exit(config: Path) -> "Settings":
    """Load the settings. If they have mistakes, print each one and exit with `USAGE`."""
    from gateway.settings import ConfigurationError, load

    keep_events_out_of_the_output()
    try:
        return load(config)
    except ConfigurationError as error:
        _refuse(error.problems)


def keep_events_out_of_the_output() -> None:
    """Send errors to standard error, and drop other events: one would spoil what --json prints."""
    from gateway.telemetry import logs

    logs.configure("error")


def check(
    *,
    config: ConfigFile = DEFAULT_CONFIG,
    live: Annotated[
        bool,
        typer.Option("--live", help="Also try each dependency: stores, issuers' keys, upstreams."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail with 1 when there is a warning, as in a pipeline.")
    ] = False,
    explain_preset: Annotated[
        str | None,
        typer.Option(
            "--explain-preset",
            metavar="NAME",
            help="Instead, show what `preset: NAME` of an issuer stands for; `all` shows all presets.",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", hidden=True, help="Write docs/providers.md.")
    ] = False,
    json: Json = False,
) -> None:
    """Validate the configuration: report each mistake with its line, and warn of probable mistakes.

    With --live, the exit code is 3 when a dependency cannot be reached, and 1 when a dependency fails a
    check. Warnings leave it 0, unless --strict is given.
    """
    if explain_preset is not None:
        from gateway.cli.check import presets

        presets.explain(explain_preset, markdown=markdown, json=json)
        return
    from gateway.settings import ConfigurationError
    from gateway.settings.advice import advice
    from gateway.settings.reading.loading import load_with_source

    keep_events_out_of_the_output()
    try:
        settings, source = load_with_source(config)
    except ConfigurationError as error:
        if json:
            output.emit_json({"valid": False, "problems": [*map(asdict, error.problems)], "warnings": []})
            raise typer.Exit(output.USAGE) from None
        _refuse(error.problems)
    warnings = advice(settings, source)
    answer: dict[str, object] = {"valid": True, "problems": [], "warnings": [*map(asdict, warnings)]}
    if not json:
        _summarise(settings)
        for warning in warnings:
            output.warn(str(warning))
        output.out.print(f"{config} is valid.", style="green", markup=False, soft_wrap=True)
    code, warned = output.OK, bool(warnings)
    if live:
        from gateway.cli.check.live import exit_code, show, try_all

        found = try_all(settings) if json else try_all(settings, show)
        answer["live"] = [each.document() for each in found]
        code, warned = exit_code(found), warned or any(each.outcome == "warn" for each in found)
    if json:
        output.emit_json(answer)
    if strict and code == output.OK and warned:
        code = output.DENIED
    raise typer.Exit(code)


def schema(
    *,
    markdown: Annotated[
        bool, typer.Option("--markdown", hidden=True, help="Write the reference in docs/configuration.md.")
    ] = False,
) -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from json import dumps

    from gateway.settings import reference
    from gateway.settings.reading import shape

    typer.echo(reference.markdown() if markdown else dumps(shape.schema(), indent=2, ensure_ascii=False))


def _refuse(problems: "tuple[Problem, ...]") -> NoReturn:
    for problem in problems:
        # The format of compilers, so that editors jump to the line.
        output.err.print(str(problem), markup=False, soft_wrap=True)
    raise typer.Exit(output.USAGE)


def _summarise(settings: "Settings") -> None:
    from rich import box
    from rich.table import Table

    issuers = Table("issuer", "iss", "audiences", "keys", box=box.SIMPLE_HEAD)
    for issuer in settings.issuers:
        keys = ", ".join(name for keys in issuer.keys for name in keys.model_dump(exclude_defaults=True))
        if issuer.introspection is not None:
            keys = "introspection"
        issuers.add_row(issuer.name, issuer.issuer, ", ".join(issuer.audiences or ("any",)), keys)
    upstreams = Table("upstream", "urls", box=box.SIMPLE_HEAD)
    for name, upstream in settings.upstreams.items():
        upstreams.add_row(name, ", ".join(upstream.urls))
    routes = Table("route", "path", "methods", "hosts", "auth", "requires", "upstream", box=box.SIMPLE_HEAD)
    for route in settings.routes:
        require = route.require
        asked = [*(f"scope {scope}" for scope in require.scopes), *(f"role {role}" for role in require.roles)]
        asked += [f"token role {role}" for role in require.token_roles]
        if require.tenant is not None:
            asked.append(f"tenant {require.tenant}")
        if require.condition is not None:
            asked.append("condition")
        methods, hosts = ", ".join(route.match.methods) or "any", ", ".join(route.match.hosts) or "any"
        to = route.upstream or "decision only"
        routes.add_row(route.name, route.match.path, methods, hosts, route.auth, ", ".join(asked), to)
    for table in (issuers, upstreams, routes):
        output.out.print(table, markup=False)
