"""`gateway init`: asks for what a gateway needs, tries it, and writes a configuration."""

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json
from gateway.cli.terminal import arguments, output

if TYPE_CHECKING:  # `gateway --help` needs none of it
    from gateway.cli.init.interview import Given, Interview
    from gateway.settings import Settings

_ENV_MODE: Final = 0o600
_CONFIG_MODE: Final = 0o644
"""It has no secret, and the gateway's own user reads it."""


def init(
    *,
    issuer: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The issuer: the `iss` of its tokens.", show_default=False),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Instead of --issuer, a file with a sample token, `-` for stdin. It is not sent anywhere.",
            show_default=False,
        ),
    ] = None,
    audience: Annotated[
        list[str] | None, typer.Option(help="The `aud` of the issuer's tokens; may be repeated.")
    ] = None,
    client_id: Annotated[
        list[str] | None, typer.Option(help="A client whose tokens are accepted; may be repeated.")
    ] = None,
    name: Annotated[str, typer.Option(help="The issuer's name in metrics and commands.")] = "main",
    upstream: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The service behind the gateway.", show_default=False),
    ] = None,
    postgres: Annotated[
        str | None,
        typer.Option(
            metavar="DSN",
            help="Postgres. With a password, put it into the variable POSTGRES_DSN instead.",
            show_default=False,
        ),
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Redis. With a password, put it into the variable REDIS_URL instead. "
            "Default: redis://127.0.0.1:6379/0.",
            show_default=False,
        ),
    ] = None,
    listen: Annotated[str, typer.Option(help="Where clients connect.")] = "0.0.0.0:8080",
    admin_listen: Annotated[str, typer.Option(help="The admin port.")] = "127.0.0.1:9901",
    env_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file for the secrets. Default: beside --config, named `.env`.",
            show_default=False,
        ),
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Also create the tables, as `gateway migrate` does.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Try nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take options and defaults.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Write a configuration: ask for issuer, upstream, Postgres and Redis, and try each.

    It writes two files: the configuration, and the secrets that it refers to. Without a terminal, with --yes
    or --json it asks nothing. Then, if something fails, it writes nothing.
    """
    _require_new(config, force=force)
    from gateway.cli.config import keep_events_out_of_the_output
    from gateway.cli.init.interview import Given

    keep_events_out_of_the_output()
    given = Given(
        issuer=issuer,
        token=_token(token),
        audiences=tuple(audience or ()),
        client_ids=tuple(client_id or ()),
        name=name,
        upstream=upstream,
        postgres=_store(postgres, "--postgres", "POSTGRES_DSN", "GATEWAY_POSTGRES__DSN"),
        redis=_store(redis, "--redis", "REDIS_URL", "GATEWAY_REDIS__URL"),
        token_secret=os.environ.get("TOKEN_SECRET"),
        listen=listen,
        admin_listen=admin_listen,
    )
    asks = not (yes or json) and sys.stdin.isatty()
    files = _Files(config, env_file or config.with_suffix(".env"), force)
    if files.environment.resolve() == config.resolve():
        output.fail(f"{config} cannot have the configuration and the secrets", "name two files", output.USAGE)
    _carry_out(given, files, asks=asks, tries=not offline, migrates=migrate, json=json)


@dataclass(frozen=True, slots=True)
class _Files:
    config: Path
    environment: Path
    force: bool


class _Terminal:
    """The person at the terminal."""

    def text(self, question: str, default: str | None = None) -> str:
        return str(typer.prompt(question, default=default, show_default=bool(default)))

    def secret(self, question: str) -> str:
        return str(typer.prompt(question, default="", show_default=False, hide_input=True))

    def yes(self, question: str, *, default: bool) -> bool:
        return typer.confirm(question, default=default)


def _carry_out(given: "Given", files: _Files, *, asks: bool, tries: bool, migrates: bool, json: bool) -> None:
    from gateway.cli.check import live
    from gateway.cli.init.document import ADMIN_TOKEN, variables
    from gateway.cli.init.interview import Interview, judged

    prompts = _Terminal() if asks else None
    try:
        there = variables(_present(files.environment))
    except ValueError:
        output.fail(
            f"{files.environment} has a quotation mark that is not closed", "correct it", output.USAGE
        )
    # The token of an earlier run stays.
    chosen = {ADMIN_TOKEN: there.get(ADMIN_TOKEN) or secrets.token_urlsafe(24)}
    tell = (lambda _: None) if json else live.show
    interview = Interview(given, files.environment, chosen, prompts, tries, tell)
    interview.hold()
    code = judged(interview.results)
    if code != output.OK and prompts is None:
        if json:
            output.emit_json({"written": False, "tried": [each.document() for each in interview.results]})
            raise typer.Exit(code)
        output.fail("nothing was written", "correct what failed, or write it as it is with --offline", code)
    for caution in interview.found.cautions if not json else ():
        output.warn(output.plain(caution))
    settings = interview.settings
    _write(interview, files)
    if prompts is not None and code == output.OK and not migrates:
        migrates = prompts.yes("Create the tables now, as `gateway migrate` does?", default=True)
    applied = _migrate(settings) if migrates else None
    if json:
        output.emit_json(
            {
                "written": True,
                "config": str(files.config),
                "env_file": str(files.environment),
                "variables": sorted(interview.secrets),
                "tried": [each.document() for each in interview.results],
                "migrated": applied,
            }
        )
    else:
        _tell_what_is_next(interview, files, migrated=applied is not None)


def _require_new(config: Path, *, force: bool) -> None:
    if config.is_dir():
        output.fail(f"{config} is a folder", f"name a file in it: {config / 'gateway.yaml'}", output.USAGE)
    if config.exists() and not force:
        output.fail(
            f"{config} exists", "--force overwrites it, --config FILE writes another file", output.USAGE
        )


def _token(source: str | None) -> str | None:
    """Read the sample token, which must not be an argument: every user of the machine sees those."""
    if source is None:
        return None
    with arguments.opened(source) as file:
        return file.read().decode("utf-8", "replace")


def _store(option: str | None, name: str, *variables: str) -> str | None:
    """Return the URL of a store, from its option or from the first variable that is set."""
    if option is None:
        return next((os.environ[each] for each in variables if os.environ.get(each)), None)
    if _has_password(option):
        output.warn(
            f"the password in {name} is an argument, which every user of this machine can see",
            f"put it into the variable {variables[0]}, and leave {name} out",
        )
    return option


def _has_password(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        return urlsplit(url).password is not None
    except ValueError:
        return False  # no URL, which is told when it is tried


def _write(interview: "Interview", files: _Files) -> None:
    from gateway.cli.init.document import WouldOverwrite, environment
    from gateway.cli.terminal.files import write

    place = files.environment
    try:
        write(place, environment(_present(place), interview.secrets, force=files.force), _ENV_MODE)
        write(files.config, interview.content, _CONFIG_MODE)
    except WouldOverwrite as error:
        output.fail(
            f"{place} {error}", "--force overwrites it, --env-file FILE writes another file", output.USAGE
        )
    except OSError as error:
        output.fail(
            f"{error.filename} cannot be written: {error.strerror}", "choose other files", output.USAGE
        )
    if place.stat().st_mode & 0o004:
        output.warn(f"all users of this machine can read {place}", f"chmod 640 {place}")


def _present(place: Path) -> str:
    """Return what is in the file of variables, if there is one."""
    try:
        return place.read_text(encoding="utf-8") if place.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        output.fail(f"{place} cannot be read: {why}", "--env-file FILE writes another file", output.USAGE)


def _migrate(settings: "Settings") -> list[str]:
    import asyncio

    from gateway.cli.stores import refuse
    from gateway.core.model import StoreUnavailable
    from gateway.stores.postgres import migrate

    postgres = settings.postgres
    try:
        return asyncio.run(
            migrate.migrate(
                postgres.dsn.get_secret_value(), postgres.schema_name, tls_strict=postgres.tls.strict
            )
        )
    except StoreUnavailable as error:
        refuse(error)
    except migrate.MigrationError as error:
        output.fail(str(error))


def _tell_what_is_next(interview: "Interview", files: _Files, *, migrated: bool) -> None:
    from shlex import quote

    config = "" if files.config == DEFAULT_CONFIG else f" --config {quote(str(files.config))}"
    subject = interview.found.subject
    entry = interview.found.entry
    commands = [
        f"set -a; . {quote(_sourced(files.environment))}; set +a",
        *([] if migrated else [f"gateway migrate{config}"]),
        f"gateway check --live{config}",
        f"gateway users add --issuer {quote(str(entry['name']))}"
        f" --subject {'SUBJECT' if subject is None else quote(subject)}{config}",
        f"gateway run{config}",
    ]
    told = "Wrote {} and, with the secrets, {}."
    output.out.print(
        told.format(files.config, files.environment), style="green", markup=False, soft_wrap=True
    )
    if migrated:
        output.out.print("The tables are up to date.", style="green")
    output.out.print("\nNext:")
    for command in commands:
        output.out.print(f"  {command}", markup=False, soft_wrap=True)


def _sourced(path: Path) -> str:
    """Return a path that `.` does not search for in PATH."""
    return str(path) if "/" in str(path) else f"./{path}"
