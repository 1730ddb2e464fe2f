"""`gateway demo`: a gateway and all that it needs, on loopback; and the parts for docker compose."""

import asyncio
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json, settings_or_exit
from gateway.cli.terminal import output

_LOOPBACK: Final = "127.0.0.1"
_ISSUER_PORT: Final = 9000

_Host = Annotated[str, typer.Option(help="The address to listen on.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 picks a free one.")]

_BANNER: Final = """\
The gateway is running on loopback. Ctrl-C stops everything{forgets}.

  gateway   {gateway}
  admin     {admin}    bearer token: {admin_token}
  issuer    {issuer}
  upstream  {upstream}
  postgres  {postgres}
  redis     {redis}
  config    {config}

Paste into another terminal:

  # A user is admitted, and the upstream receives the user's identity.
  curl -si -H "Authorization: Bearer $(curl -s {issuer}/token/member)" {gateway}/echo/hello
  curl -si -H "Authorization: Bearer $(curl -s {issuer}/token/admin)" {gateway}/admin/reports
  curl -si -H "Authorization: Bearer $(curl -s '{issuer}/token/member?scope=orders:read')" {gateway}/orders/1

  # Good signatures, but a suspended user and a subject without a user. The log and the metrics have the
  # reason.
  curl -si -H "Authorization: Bearer $(curl -s {issuer}/token/suspended)" {gateway}/echo/hello
  curl -si -H "Authorization: Bearer $(curl -s {issuer}/token/ghost)" {gateway}/echo/hello
  curl -s {admin}/metrics | grep gateway_denials_total

  # Why a token is refused, and the fix: the subject Member has no user, but member has one.
  curl -s {issuer}/token/Member | {command} explain - --config {config}

  # A bad signature, and a token that expired a minute ago.
  curl -si -H "Authorization: Bearer $(curl -s '{issuer}/token/member?signed_by=stranger')" {gateway}/echo/
  curl -si -H "Authorization: Bearer $(curl -s '{issuer}/token/member?expires_in=-60')" {gateway}/echo/hello

  # A revoked token.
  TOKEN=$(curl -s {issuer}/token/member)
  curl -si -H "Authorization: Bearer $TOKEN" {gateway}/echo/hello
  echo "$TOKEN" | {command} revoke token - --config {config}
  curl -si -H "Authorization: Bearer $TOKEN" {gateway}/echo/hello

{suspension}

  # This route needs no token. The gateway removes identity headers that a client sends.
  curl -si -H "X_User_Id: somebody-else" {gateway}/public/hello

  # An endless event stream. The token is in the query, where a page in a browser can put it. /ws has a
  # WebSocket.
  curl -sN "{gateway}/events?access_token=$(curl -s {issuer}/token/member)"
"""

_SUSPENSION: Final = """\
  # A user who is suspended, then activated.
  {command} users suspend demo:member --config {config}
  {command} users activate demo:member --config {config}"""

_SUSPENSION_IN_DJANGO: Final = """\
  # The users are in tables like Django's: see `users.source` in the configuration. There a user is suspended,
  # a role is withdrawn, and a lock begins that ends by itself after ten seconds. Send the requests from above
  # again after each.
  {psql} "{postgres}" -c "UPDATE auth_user SET is_active = false WHERE username = 'member'"
  {psql} "{postgres}" -c "UPDATE auth_user SET is_active = true WHERE username = 'member'"
  {psql} "{postgres}" -c "DELETE FROM auth_user_groups"
  {psql} "{postgres}" -c "UPDATE accounts_profile SET locked_until = now() + interval '10 seconds' \
WHERE user_id = (SELECT id FROM auth_user WHERE username = 'member')"

  # What was installed in those tables, and what would be.
  {command} migrate --print-sql --config {config}"""


class Users(StrEnum):
    """Where the demo's users are."""

    OWN = "own"
    DJANGO_LIKE = "django-like"


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(demo)
    app.command(hidden=True)(demo_issuer)
    app.command(hidden=True)(demo_upstream)
    app.command(hidden=True)(demo_seed)


def demo(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The gateway's port; 0 picks a free one.")
    ] = 8080,
    admin_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The admin port; 0 picks a free one.")
    ] = 9901,
    issuer_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="The issuer's port; 0 picks a free one. By default 9000, or a free one when that is taken.",
            show_default=False,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Where the demo keeps its data. By default it deletes the data when it ends.",
        ),
    ] = None,
    users: Annotated[
        Users,
        typer.Option(help="Where the users are: in the gateway's own tables, or in some like Django's."),
    ] = Users.OWN,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Instead, let the stores fail while a small load runs, and watch.")
    ] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --chaos, only this fault; may be repeated."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="With --chaos, the time for all faults together.")
    ] = 60,
    json: Json = False,
) -> None:
    """Run everything on loopback: Postgres, Redis, an issuer, an upstream and the gateway.

    With --chaos, it shows what is answered each second while one store after the other fails, and compares
    that with what the gateway promises. Exit code 1: a promise was broken.
    """
    if chaos:
        from gateway.cli.demo.chaos import run_chaos

        run_chaos(fault or (), seconds, json=json)  # ends the command
    from gateway.demo.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedRedis
    from gateway.stores.postgres.migrate import MigrationError

    _require_free(port, "--port")
    _require_free(admin_port, "--admin-port")
    _require_free(issuer_port or 0, "--issuer-port")
    # While the stores start, there is no event loop that could handle the signal.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            _folder(data_dir) as folder,
            EmbeddedPostgres(folder / "postgres") as postgres,
            EmbeddedRedis() as redis,
        ):
            stage = _demo(
                port=port,
                admin_port=admin_port,
                issuer_port=_issuer_port(issuer_port, port),
                config=folder / "gateway.yaml",
                postgres=postgres.dsn,
                redis=redis.url,
                users=users,
                psql="psql" if shutil.which("psql") else str(postgres.program("psql")),
                forgets=data_dir is None,
                json=json,
            )
            _run(stage)
    except EmbeddedError as error:
        output.fail(str(error), code=output.UNREACHABLE)
    except MigrationError as error:
        output.fail(str(error), "or choose another folder with --data-dir")
    except OSError as error:
        output.fail(f"the demo cannot run: {error}", code=output.USAGE)
    except KeyboardInterrupt:
        raise typer.Exit(output.OK) from None


async def _demo(
    *,
    port: int,
    admin_port: int,
    issuer_port: int,
    config: Path,
    postgres: str,
    redis: str,
    users: Users,
    psql: str,
    forgets: bool,
    json: bool,
) -> None:
    stop = _stop_event()

    from gateway import translation
    from gateway.app import serve
    from gateway.demo import upstream
    from gateway.demo.configuration import configuration, write
    from gateway.demo.django_like import SOURCE, seed_django_like
    from gateway.demo.issuer import DemoIssuer
    from gateway.demo.listening import bind, listening
    from gateway.demo.seed import seed
    from gateway.settings import load
    from gateway.stores.postgres.migrate import migrate
    from gateway.stores.postgres.source.install import install

    issuer_socket, issuer_url = bind(_LOOPBACK, issuer_port)
    upstream_socket, upstream_url = bind(_LOOPBACK, 0)
    admin_token = secrets.token_urlsafe(24)
    await migrate(postgres)
    if users is Users.OWN:
        await seed(postgres, issuer_url)
    else:
        await seed_django_like(postgres)

    def write_configuration(listen: str, admin_listen: str) -> None:
        content = configuration(
            listen=listen,
            admin_listen=admin_listen,
            admin_token=admin_token,
            issuer=issuer_url,
            upstream=upstream_url,
            postgres=postgres,
            redis=redis,
            users=SOURCE if users is Users.DJANGO_LIKE else None,
        )
        write(config, content)

    write_configuration(f"{_LOOPBACK}:{port}", f"{_LOOPBACK}:{admin_port}")
    # The caller's GATEWAY_* variables configure another gateway.
    settings = load(config, env={})
    source = translation.user_source(settings)
    if source is not None:
        await install(postgres, source, {issuer.name: issuer.issuer for issuer in settings.issuers})
    async with (
        listening(DemoIssuer(issuer_url).application(), issuer_socket),
        listening(upstream.application(), upstream_socket),
        serve(settings) as running,
    ):
        # Replace port 0 with the ports that were bound, so that the file describes the running gateway.
        write_configuration(running.url.removeprefix("http://"), running.admin_url.removeprefix("http://"))
        places = {
            "gateway": running.url,
            "admin": running.admin_url,
            "admin_token": admin_token,
            "issuer": issuer_url,
            "upstream": upstream_url,
            "postgres": postgres,
            "redis": redis,
        }
        if json:
            output.emit_json(places)
        else:
            goes = " and deletes its data" if forgets else ""
            named = {**places, "config": config, "command": _command(), "psql": psql}
            suspension = _SUSPENSION if users is Users.OWN else _SUSPENSION_IN_DJANGO
            typer.echo(_BANNER.format(**named, suspension=suspension.format(**named), forgets=goes))
        sys.stdout.flush()
        await stop.wait()


def demo_issuer(
    *,
    url: Annotated[
        str, typer.Option(help="The `iss` of its tokens, and the URL at which the gateway reaches it.")
    ],
    host: _Host = _LOOPBACK,
    port: _Port = 9000,
) -> None:
    """Run only the demo's issuer. It signs tokens for any client: never expose it."""
    from gateway.demo.issuer import DemoIssuer

    application = DemoIssuer(url.rstrip("/")).application()

    async def serve() -> None:
        from gateway.demo.listening import bind, listening

        stop = _stop_event()
        async with listening(application, bind(host, port)[0]):
            await stop.wait()

    _run_or_fail(serve(), host, port)


def demo_upstream(*, host: _Host = _LOOPBACK, port: _Port = 9100) -> None:
    """Run only the demo's echo upstream."""

    async def serve() -> None:
        from gateway.demo import upstream
        from gateway.demo.listening import bind, listening

        stop = _stop_event()
        async with listening(upstream.application(), bind(host, port)[0]):
            await stop.wait()

    _run_or_fail(serve(), host, port)


def demo_seed(*, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Add the demo's users under the issuer named `demo`. Existing users stay unchanged."""
    import asyncpg

    from gateway.demo.seed import seed

    settings = settings_or_exit(config)
    issuer = next((issuer.issuer for issuer in settings.issuers if issuer.name == "demo"), None)
    if issuer is None:
        output.fail("no issuer is named demo", "the demo's users belong to it", output.USAGE)
    dsn = settings.postgres.dsn.get_secret_value()
    try:
        asyncio.run(seed(dsn, issuer, schema=settings.postgres.schema_name))
    except asyncpg.UndefinedTableError:
        output.fail("the tables are missing", "run `gateway migrate`", output.UNREACHABLE)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        output.fail(f"Postgres cannot be used: {error}", "see `postgres.dsn`", output.UNREACHABLE)


def _issuer_port(wanted: int | None, gateway_port: int) -> int:
    """Return `wanted`; without it the usual port, or 0 if that is taken or the gateway's port is 0."""
    if wanted is not None:
        return wanted
    return _ISSUER_PORT if gateway_port and _why_taken(_ISSUER_PORT) is None else 0


def _why_taken(port: int) -> OSError | None:
    try:
        socket.create_server((_LOOPBACK, port)).close()
    except OSError as error:
        return error
    return None


def _require_free(port: int, flag: str) -> None:
    error = _why_taken(port) if port else None
    if error is not None:
        output.fail(
            f"port {port} cannot be used: {error.strerror}",
            f"choose another with {flag}; 0 picks a free one",
            output.USAGE,
        )


@contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is None:
        with tempfile.TemporaryDirectory(prefix="gateway-demo-") as temporary:
            yield Path(temporary)
    else:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield data_dir.absolute()


def _stop_event() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def _run(main: Coroutine[object, object, None]) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def _run_or_fail(main: Coroutine[object, object, None], host: str, port: int) -> None:
    try:
        _run(main)
    except OSError as error:
        output.fail(f"{host}:{port} cannot be listened on: {error.strerror}", code=output.USAGE)


def _command() -> str:
    """Return how the reader's shell runs this program."""
    beside = Path(sys.executable).with_name("gateway")
    if shutil.which("gateway"):
        return "gateway"
    return str(beside) if beside.exists() else f"{sys.executable} -m gateway"
