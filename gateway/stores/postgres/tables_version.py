"""Whether the tables are of the version of this program: the newest migration there, and the newest one here.

A difference of one version is no failure: a migration leaves the version before it working, so that
gateways are upgraded one after the other, and can go back (docs/upgrading.md). But an operator should know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from gateway.stores.postgres.migrate import migrations

if TYPE_CHECKING:
    from gateway.stores.postgres.pool import Connection

_TOLD_SINCE: Final = 14
"""The migration with the function that tells the version."""

_ASKABLE: Final = """
SELECT to_regclass('gateway_migrations') IS NOT NULL AS migrated,
    to_regprocedure('gateway_tables_version()') IS NOT NULL AS tells,
    coalesce(has_function_privilege(to_regprocedure('gateway_tables_version()'), 'EXECUTE'), false) AS may_ask
"""


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """Program and tables are of different versions."""

    kind: Literal["older", "newer"]
    """What the tables are."""
    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.found}; {self.fix}"


@cache
def newest_known() -> int:
    """Return the number of this program's newest migration."""
    return migrations()[-1].version


def difference(tables: int | None, program: int) -> VersionDifference | None:
    """Compare the newest migrations. `tables` None: the tables are too old to report their version."""
    if tables is None or tables < program:
        has = f"before {_TOLD_SINCE:04}" if tables is None else f"{tables:04}"
        return VersionDifference(
            "older",
            f"the tables are older than this version of the gateway: their newest migration is {has}, and"
            f" this version has {program:04}",
            "run `gateway migrate` of this version",
        )
    if tables > program:
        return VersionDifference(
            "newer",
            f"the tables are newer than this version of the gateway: their newest migration is {tables:04},"
            f" and this version knows {program:04}",
            "run the newer version; this one serves meanwhile, if it is the one before (docs/upgrading.md)",
        )
    return None


async def read_difference(
    connection: "Connection", program: int, heard: Callable[[], None] = lambda: None
) -> VersionDifference | None:
    """Return how the tables differ from a program; None also when there are none, or the role may not ask.

    `heard` is called after each answer. Raises the driver's exceptions.
    """
    row = await connection.fetchrow(_ASKABLE)
    heard()
    if row is None or not row["migrated"] or (row["tells"] and not row["may_ask"]):
        return None
    tables = await connection.fetchval("SELECT gateway_tables_version()") if row["tells"] else None
    return difference(tables, program)
