"""The `gateway` command: one sub-command for each task of an operator."""

import platform
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli.adopt.command import adopt
from gateway.cli.assertion import assertion_app
from gateway.cli.config import check, schema
from gateway.cli.demo.command import register as register_demo
from gateway.cli.explain.command import explain
from gateway.cli.init.command import init
from gateway.cli.issuers import issuers_app
from gateway.cli.migrate import migrate
from gateway.cli.orphans.command import orphans
from gateway.cli.policy.command import policy_app
from gateway.cli.redis import redis_app
from gateway.cli.reference.commands import commands
from gateway.cli.reference.reasons import reasons
from gateway.cli.replay import replay, replay_pasted
from gateway.cli.revocations.lift import lift_app
from gateway.cli.revocations.revoke import revocations_app, revoke_app
from gateway.cli.routes.command import routes_app
from gateway.cli.run import run
from gateway.cli.token import token_app
from gateway.cli.users.command import users_app
from gateway.cli.users.importing import import_users

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 the answer is no, 2 usage or configuration, 3 dependency unreachable.",
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 -- the signature that typer calls
    if wanted:
        typer.echo(f"gateway {__version__} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback(help="A reverse-proxy authentication gateway that knows who `sub` is.")
def gateway(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of the gateway and of Python, and exit.",
        ),
    ] = False,
) -> None:
    """Take the options that stand before any command."""


app.command()(init)
app.command()(run)
register_demo(app)
app.command()(check)
app.command()(schema)
app.command()(reasons)
app.command(hidden=True)(commands)
app.command()(adopt)
app.command()(migrate)
users_app.command("import")(import_users)
app.add_typer(users_app, name="users")
app.command()(explain)
app.add_typer(policy_app, name="policy")
app.command()(replay)
app.command(hidden=True)(replay_pasted)
app.add_typer(routes_app, name="routes")
app.add_typer(token_app, name="token")
app.add_typer(issuers_app, name="issuers")
app.command()(orphans)
app.add_typer(revoke_app, name="revoke")
revocations_app.add_typer(lift_app, name="lift")
app.add_typer(revocations_app, name="revocations")
app.add_typer(redis_app, name="redis")
app.add_typer(assertion_app, name="assertion")
