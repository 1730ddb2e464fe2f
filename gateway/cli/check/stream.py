"""Checks of the change streams: each must receive a heartbeat that takes the same way as a change.

Postgres: sent through `dsn`, received through `listen_dsn`. Redis: a key, written over another connection.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.cli.check import redis as redis_checks
from gateway.cli.check.redis_permissions import Touches
from gateway.cli.check.result import Check, CheckResult
from gateway.cli.stores import advice_for_postgres
from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.change_stream.heartbeats import opened
from gateway.stores.postgres.change_stream.listener import Change, PostgresStream
from gateway.stores.postgres.errors import translated
from gateway.stores.postgres.hosts import Connector, address_of
from gateway.stores.redis.change_stream import RedisStream

if TYPE_CHECKING:
    from gateway.settings import Settings

_NAME: Final = "stream:postgres"
_REDIS: Final = "stream:redis"


def checks(settings: "Settings") -> Iterable[Check]:
    """Return the checks of the streams from Postgres and from Redis."""
    yield Check(_NAME, partial(_stream, settings))
    yield Check(_REDIS, partial(_touches, settings))


async def _stream(settings: "Settings") -> CheckResult:
    postgres = settings.postgres
    setting = "postgres.dsn" if postgres.listen_dsn is None else "postgres.listen_dsn"
    dsn = (postgres.listen_dsn or postgres.dsn).get_secret_value()
    try:
        await _try_connection(dsn, postgres.connect_timeout, tls_strict=postgres.tls.strict)
    except StoreUnavailable as error:
        fix, unreachable = advice_for_postgres(error, setting)
        return CheckResult(_NAME, "fail", error.detail, fix, unreachable)
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
        return CheckResult(_NAME, "pass", f"{stream.address}: {sent} was received through {setting}")
    # The end of the text says what to do.
    found, _, fix = detail.rpartition("; ")
    return CheckResult(_NAME, "fail", found or detail, fix if found else None)


async def _try_connection(dsn: str, connect_timeout: float, *, tls_strict: bool) -> None:
    with translated(address_of(dsn)):
        session = await opened(
            Connector(dsn, primary=True, timeout=connect_timeout, tls_strict=tls_strict),
            connect_timeout,
            "gateway check",
        )
        session.terminate()


async def _touches(settings: "Settings") -> CheckResult:
    redis = settings.redis
    url = redis.url.get_secret_value()
    try:
        async with redis_checks.stores(settings) as (postgres, asked):
            with suppress(StoreUnavailable):
                await postgres.identify()
            mark, other = await asked.ownership.mark(), await asked.ownership.other()
    except StoreUnavailable as error:
        return CheckResult(_REDIS, "fail", error.detail, redis_checks.START, unreachable=True)
    if other is not None:
        found = f"{asked.address}: it belongs to another database, so no key was written to test the stream"
        return CheckResult(_REDIS, "warn", found, "see redis_owner")
    timeout, strict = redis.connect_timeout, redis.tls.strict
    touches = Touches(url, redis.prefix, connect_timeout=timeout, tls_strict=strict, mark=mark)
    first = _First()
    stream = RedisStream(
        url, touches.tracked, first, touches.touch, connect_timeout=timeout, tls_strict=strict
    )
    stream.start()
    try:
        detail = await first.detail
    finally:
        await stream.close()
        await touches.close()
    if detail is None:
        found = f"{stream.address}: the stream reported a key that another connection wrote (CLIENT TRACKING)"
        return CheckResult(_REDIS, "pass", found)
    found, _, fix = detail.rpartition("; ")
    return CheckResult(_REDIS, "fail", found or detail, fix if found else None)


class _First:
    """Implements `ChangeListener` and `KeysListener`: keeps the first report of a stream."""

    def __init__(self) -> None:
        self.detail: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        """Why the stream receives nothing; None when it receives everything."""

    def listening(self) -> None:
        self._keep(None)

    def tracking(self) -> None:
        self._keep(None)

    def touched(self, keys: Sequence[str] | None) -> None:
        pass

    def proven(self) -> None:
        pass

    def lost(self, detail: str) -> None:
        self._keep(detail)

    def changed(self, change: Change) -> None:
        pass

    def heard(self, heartbeat: str, own: bool) -> None:  # noqa: FBT001 -- the Protocol's
        pass

    def _keep(self, detail: str | None) -> None:
        if not self.detail.done():
            self.detail.set_result(detail)
