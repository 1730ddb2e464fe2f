"""The reference of all commands, from the commands themselves: docs/commands.md."""

import re
from collections.abc import Iterator
from typing import Final, TypeAlias

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.main import get_command

Command: TypeAlias = TyperCommand | TyperGroup

_HEAD: Final = """\
# Commands

Every command has `--help`. `--json` writes JSON to stdout, for programs; errors go to stderr. The
configuration is `--config FILE`, else `$GATEWAY_CONFIG`, else `config/gateway.yaml`.

| exit code | means |
|---|---|
| 0 | success |
| 1 | the answer is no: denied, not found, invalid |
| 2 | the command line or the configuration is wrong |
| 3 | a dependency cannot be reached |
| 70 | a bug of the gateway |

[install.md](install.md) uses the first ones in their order. The [admin API](admin-api.md) and the
[console](console.md) do much of the same.

`gateway commands` generates this page.
"""
_KINDS: Final = {
    "str": "TEXT",
    "list[str]": "TEXT",
    "int range": "N",
    "int": "N",
    "float range": "N",
    "float": "N",
}


def commands() -> None:
    """Write docs/commands.md."""
    typer.echo(page(root()), nl=False)


def root() -> TyperGroup:
    """Return the `gateway` command."""
    from gateway.cli.main import app

    command = get_command(app)
    if not isinstance(command, TyperGroup):
        raise TypeError("the command line has no commands")
    return command


def page(top: Command) -> str:
    """Return docs/commands.md."""
    return "\n".join([_HEAD, *(_section(path, command, context) for path, command, context in walk(top))])


def walk(
    top: Command, path: str = "gateway", parent: typer.Context | None = None
) -> Iterator[tuple[str, Command, typer.Context]]:
    """Yield each command that is not hidden, with its full name, in the order of the help."""
    context = typer.Context(top, info_name=path.rpartition(" ")[2], parent=parent)
    if not isinstance(top, TyperGroup):
        yield path, top, context
        return
    for name, command in top.commands.items():
        if not command.hidden and isinstance(command, TyperCommand | TyperGroup):
            yield from walk(command, f"{path} {name}", context)


def _section(path: str, command: Command, context: typer.Context) -> str:
    """Return the heading, the help and the parameters of a command."""
    names, rows = [], []
    for parameter in command.params:
        shown = None if getattr(parameter, "hidden", False) else parameter.get_help_record(context)
        if shown is None:
            continue
        name = re.sub(r"<([^<>]*)>$", lambda kind: _kind(kind[1]), shown[0])
        if isinstance(parameter, TyperArgument):
            name = name.split(" ")[0].upper()
            name = name if parameter.required or name.startswith("[") else f"[{name}]"
            names.append(name)
        meaning = " ".join(shown[1].split()).replace("|", "\\|")
        rows.append(f"| `{name.replace('|', chr(92) + '|')}` | {meaning} |")
    lines = [f"## `{path}`", "", (command.help or "").strip(), ""]
    if names:
        lines += [f"`{path} [OPTIONS] {' '.join(names)}`", ""]
    if rows:
        lines += ["| parameter | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _kind(name: str) -> str:
    """Return how the reference calls a kind of value. Choices stay as they are."""
    return _KINDS.get(name, name if "|" in name else name.upper())
