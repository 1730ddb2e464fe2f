"""`gateway replay`: recorded requests, decided by another configuration."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json, settings_or_exit
from gateway.cli.terminal import output

if TYPE_CHECKING:  # `gateway --help` needs none of them
    from gateway.replay.comparison import Comparison, Configuration
    from gateway.replay.records import Recorded
    from gateway.settings import Settings

_SHOWN: Final = 5
"""Requests of a group that people are shown."""


def replay(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files of `record`, or directories with them.")
    ],
    *,
    config: ConfigFile = DEFAULT_CONFIG,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD",
            show_default=False,
            help="Compare with this configuration, not with what was recorded.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Decide recorded requests anew, and list every verdict that changes: docs/policy.md.

    The exit code is 1 when one changes.
    """
    from gateway.replay.comparison import compare
    from gateway.replay.records import Unreadable

    new = _configuration(config)
    old = None if against is None else _configuration(against)
    try:
        found = compare(_records(files), new, old)
    except (OSError, Unreadable) as error:
        output.fail(str(error), code=output.USAGE)
    if not found.requests:
        # A script would take it for "nothing changes".
        output.fail("there are no records in " + ", ".join(map(str, files)), code=output.USAGE)
    if json:
        output.emit_json(_document(found))
    else:
        _show(found)
    raise typer.Exit(output.DENIED if found.changes else output.OK)


def replay_pasted(
    directory: Annotated[Path | None, typer.Argument(help="Where the recorded files are.")] = None,
) -> None:
    """Answer the question of `gateway.replay.own_process`, from stdin."""
    import orjson

    from gateway.replay import own_process
    from gateway.replay.records import Unreadable
    from gateway.settings import ConfigurationError, load_pasted

    own_process.bound_this_process()
    question = orjson.loads(sys.stdin.buffer.read())
    answer: dict[str, object] = {}
    try:
        settings, answer["unread"] = load_pasted(question["configuration"])
        answer |= _answered(settings, question["records"], directory)
    except ConfigurationError as error:
        answer["problems"] = [
            {"field": each.field, "message": each.message, "hint": each.hint, "line": each.line}
            for each in error.problems
        ]
    except (OSError, Unreadable) as error:
        answer["unreadable"] = str(error)
    output.emit_json(answer)


def _answered(settings: "Settings", text: str | None, directory: Path | None) -> dict[str, object]:
    from gateway.replay import own_process
    from gateway.replay.comparison import compare

    records = _uploaded(text) if text is not None else _records([directory] if directory else [], newest=True)
    found = compare(islice(records, own_process.AT_MOST), _decides(settings), None)
    document = _document(found, own_process.GROUPS, own_process.SHOWN)
    return {**document, "truncated": next(records, None) is not None}


def _uploaded(text: str) -> "Iterator[Recorded]":
    from gateway.replay.records import Unreadable, decode

    for number, line in enumerate(text.encode("utf-8", "surrogatepass").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield decode(line)
        except Unreadable as error:
            raise Unreadable(f"line {number} {error}") from error


def _configuration(file: Path) -> "Configuration":
    return _decides(settings_or_exit(file))


def _decides(settings: "Settings") -> "Configuration":
    from gateway import translation
    from gateway.replay.comparison import Configuration
    from gateway.replay.decider import RequestClock

    moment = RequestClock()
    issuers = map(translation.issuer, settings.issuers)
    return Configuration(translation.routes(settings, moment), issuers, moment, translation.shadow(settings))


def _records(files: list[Path], *, newest: bool = False) -> "Iterator[Recorded]":
    """Read files, and those of directories, the oldest or the newest first."""
    from gateway.replay.recorder import SUFFIX
    from gateway.replay.records import LONGEST, Unreadable, decode

    for file in files:
        for each in sorted(file.glob(f"*{SUFFIX}"), reverse=newest) if file.is_dir() else [file]:
            with each.open("rb") as lines:
                # No line is longer, so no file takes more memory than that.
                for number, line in enumerate(iter(lambda: lines.readline(LONGEST + 1), b""), start=1):
                    if len(line) > LONGEST:
                        raise Unreadable(f"{each}:{number}: is no record: it is longer than {LONGEST} bytes")
                    if not line.endswith(b"\n"):
                        output.warn(f"{each}:{number}: the line is not complete, and is left out")
                        continue
                    try:
                        yield decode(line)
                    except Unreadable as error:
                        raise Unreadable(f"{each}:{number}: {error}") from error


def _document(found: "Comparison", groups: int | None = None, shown: int | None = None) -> dict[str, object]:
    """Return a comparison as JSON; `groups` and `shown` are the most of them, and of the requests of each."""
    return {
        "requests": found.requests,
        "changed": len(found.changes),
        "undecided": found.undecided,
        "groups": [
            {
                "route": route, "before": before, "after": after, "count": len(requests),
                "requests": [
                    {"method": e.method, "path": e.path, "user": e.user, "at": e.at, "detail": e.detail}
                    for e in requests[:shown]
                ],
            }
            for route, before, after, requests in found.groups()[:groups]
        ],
    }  # fmt: skip


def _show(found: "Comparison") -> None:
    for route, before, after, requests in found.groups():
        output.out.print(f"route {route}: {before} → {after}: {len(requests):,}", markup=False, style="bold")
        for each in requests[:_SHOWN]:
            who = "" if each.user is None else f", user {each.user}"
            detail = "" if each.detail is None else f": {each.detail}"
            output.out.print(
                output.plain(f"  {each.method} {each.path}{who}{detail}"), markup=False, soft_wrap=True
            )
        if len(requests) > _SHOWN:
            output.out.print(f"  and {len(requests) - _SHOWN:,} more: --json lists all")
    undecided = f"; {found.undecided:,} cannot be decided" if found.undecided else ""
    style = "red" if found.changes else "green"
    text = f"{found.requests:,} requests: {len(found.changes):,} verdicts change{undecided}."
    output.out.print(text, style=style)
