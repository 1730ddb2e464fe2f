"""`gateway redis`: which database the data in Redis belongs to, and how to change that."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json
from gateway.cli.stores import Stores, with_stores
from gateway.cli.terminal import output
from gateway.core.model import JSON

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from gateway.stores.system_of_record import SystemOfRecord

redis_app: Final = typer.Typer(
    no_args_is_help=True, help="The data in Redis, and the database that it belongs to."
)


@redis_app.command()
def claim(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Claim Redis, with all keys below the prefix, for the configured database.

    Data of another database is deleted: cached users, and revocations that are rows of that database.
    Revocations that other programs have set stay. From then on, gateways of the other database no longer use
    this Redis, and ask their Postgres for everything.
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
        output.out.print("Redis now belongs to this database.", style="green")
    else:
        output.out.print("Redis already belongs to this database.")


async def _owner(stores: Stores) -> "SystemOfRecord | None":
    """Return the other system of record if Redis belongs to one."""
    await stores.postgres.identify()
    return await stores.redis.ownership.other()


async def _claim(stores: Stores) -> tuple[bool, int]:
    """Claim Redis. Return whether it was another's or free, and how many cached users were deleted."""
    from gateway.identity.revocations.blacklist_sync import BlacklistSync
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
    # A fill removes the blacklist entries whose rows this database does not have.
    issuers = {issuer.name: issuer.issuer for issuer in stores.settings.issuers}
    await BlacklistSync(stores.postgres, stores.redis, issuers).load()
    return True, deleted
