"""`gateway redis`: whose data Redis holds, and the handing over of it."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli import output
from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json
from gateway.cli.stores import Stores, with_stores
from gateway.core.model import JSON

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.stores.system_of_record import SystemOfRecord

redis_app: Final = typer.Typer(no_args_is_help=True, help="What Redis holds, and whose it is.")


@redis_app.command()
def claim(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Hand Redis over to the configured database, with all that is below the prefix.

    What another database left there is deleted: cached users, and revocations that are rows of its own.
    Revocations that other programs have set stay. From this moment on, gateways of the other database use
    that Redis no more, and ask their Postgres for everything.
    """
    before = with_stores(config, _owner)
    if before is not None and not yes:
        if not sys.stdin.isatty():
            output.fail(f"Redis belongs to {before}", "repeat with --yes to take it over", output.USAGE)
        typer.confirm(f"Redis belongs to {before}. Take it over?", abort=True, err=True)
    claimed, deleted = with_stores(config, _claim)
    if json:
        document: dict[str, JSON] = {"claimed": claimed, "from": None, "cached_users_deleted": deleted}
        if before is not None:
            document["from"] = asdict(before)
        output.emit_json(document)
    elif claimed:
        output.out.print("Redis belongs to this database from now on.", style="green")
    else:
        output.out.print("Redis belongs to this database already.")


async def _owner(stores: Stores) -> "SystemOfRecord | None":
    """Return the other system of record that Redis belongs to, if it does."""
    await stores.postgres.identify()
    return await stores.redis.ownership.other()


async def _claim(stores: Stores) -> tuple[bool, int]:
    """Take Redis over; tells whether it was another's, or free, and how many cached users went."""
    from gateway.identity.blacklist_sync import BlacklistSync
    from gateway.stores.postgres.directory.audit import AuditLog

    record = await stores.postgres.identify()
    ownership = stores.redis.ownership
    if await ownership.is_own():
        return False, 0
    other = await ownership.other()
    detail: dict[str, JSON] = {
        "from": None if other is None else asdict(other),
        "to": asdict(record),
        "prefix": stores.settings.redis.prefix,
    }
    await AuditLog(stores.postgres).record(stores.author, "redis.claim", "redis", detail)
    await ownership.claim()
    deleted = await stores.redis.forget_all_users()
    # A filling takes off what is there because of rows that this database does not have.
    issuers = {issuer.name: issuer.issuer for issuer in stores.settings.issuers}
    await BlacklistSync(stores.postgres, stores.redis, issuers).load()
    return True, deleted
