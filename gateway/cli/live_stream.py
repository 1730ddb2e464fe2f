"""Check of the stream of changes: a heartbeat goes through `dsn` and is heard through `listen_dsn`."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from gateway.backends.changes import Change, PostgresStream
from gateway.backends.heartbeats import opened
from gateway.backends.postgres_errors import translated
from gateway.backends.postgres_servers import Connector, address_of
from gateway.cli.live_check import Check, Live
from gateway.cli.stores import advice_for_postgres
from gateway.core.model import StoreUnavailable

if TYPE_CHECKING:
    from gateway.settings import Settings

_NAME = "stream:postgres"


def checks(settings: "Settings") -> Iterable[Check]:
    """Return the check of the stream from Postgres."""
    yield Check(_NAME, partial(_stream, settings))


async def _stream(settings: "Settings") -> Live:
    postgres = settings.postgres
    setting = "postgres.dsn" if postgres.listen_dsn is None else "postgres.listen_dsn"
    dsn = (postgres.listen_dsn or postgres.dsn).get_secret_value()
    try:
        await _try_connection(dsn, postgres.connect_timeout, tls_strict=postgres.tls.strict)
    except StoreUnavailable as error:
        fix, unreachable = advice_for_postgres(error, setting)
        return Live(_NAME, "fail", error.detail, fix, unreachable)
    first = _First()
    stream = PostgresStream(
        dsn,
        postgres.schema_name,
        first,
        beats_dsn=postgres.dsn.get_secret_value(),
        connect_timeout=postgres.connect_timeout,
        tls_strict=postgres.tls.strict,
    )
    stream.start()
    try:
        detail = await first.detail
    finally:
        await stream.close()
    if detail is None:
        sent = (
            f"a heartbeat that was sent through postgres.dsn ({address_of(postgres.dsn.get_secret_value())})"
        )
        return Live(_NAME, "pass", f"{stream.address}: {sent} was heard through {setting}")
    # Its end says what to do.
    found, _, fix = detail.rpartition("; ")
    return Live(_NAME, "fail", found or detail, fix if found else None)


async def _try_connection(dsn: str, connect_timeout: float, *, tls_strict: bool) -> None:
    with translated(address_of(dsn)):
        session = await opened(
            Connector(dsn, primary=True, timeout=connect_timeout, tls_strict=tls_strict),
            connect_timeout,
            "gateway check",
        )
        session.terminate()


class _First:
    """Implements `ChangeListener`: keeps what a stream tells first."""

    def __init__(self) -> None:
        self.detail: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        """Why nothing is heard; None: everything is."""

    def listening(self) -> None:
        self._keep(None)

    def lost(self, detail: str) -> None:
        self._keep(detail)

    def changed(self, change: Change) -> None:
        pass

    def heard(self, heartbeat: str, own: bool) -> None:  # noqa: FBT001 -- the Protocol's
        pass

    def _keep(self, detail: str | None) -> None:
        if not self.detail.done():
            self.detail.set_result(detail)
