"""`gateway migrate`: creates or upgrades the tables."""

import asyncio

from gateway.cli import output
from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json, settings_or_exit
from gateway.cli.stores import refuse
from gateway.core.model import StoreUnavailable


def migrate(*, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Create or upgrade the tables in Postgres. Safe to run concurrently: one run works, the others wait."""
    settings = settings_or_exit(config)

    from gateway.stores.postgres import migrate as migrations

    dsn, schema = settings.postgres.dsn.get_secret_value(), settings.postgres.schema_name
    try:
        applied = asyncio.run(migrations.migrate(dsn, schema, tls_strict=settings.postgres.tls.strict))
    except StoreUnavailable as error:
        refuse(error)
    except migrations.MigrationError as error:
        output.fail(str(error))
    if json:
        output.emit_json({"applied": applied})
        return
    for name in applied:
        output.out.print(f"applied {name}", markup=False)
    output.out.print("The tables are up to date.", style="green")
