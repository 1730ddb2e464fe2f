"""Why a store cannot be used, from the error itself: each cause has its own fix, with host, port and user."""

import socket
import ssl
from collections.abc import Iterator
from typing import Final

import asyncpg

from gateway.core.model import StoreUnavailable
from gateway.explain.answer import Cause, Fix
from gateway.explain.setup import Login

_SETTING: Final = "`postgres.dsn`"


def of_postgres(error: StoreUnavailable, login: Login | None) -> tuple[Cause, Fix]:
    """Return the cause and the fix of an error of Postgres."""
    where = Login("the configured address") if login is None else login
    user = "the configured user" if where.user is None else f"user {where.user}"
    database = "the configured database" if where.database is None else f"database {where.database}"
    for each in _chain(error):
        match each:
            case ssl.SSLError():
                return Cause.STORE_TLS_REFUSED, _tls(where)
            case ConnectionError() if "SSL" in str(each):
                return Cause.STORE_TLS_REFUSED, _tls(where)
            case asyncpg.InvalidAuthorizationSpecificationError():
                return Cause.STORE_LOGIN_REFUSED, Fix(
                    f"The server at {where.address} refuses {user} for {database}. Correct user and password"
                    f" in {_SETTING} (or GATEWAY_POSTGRES__DSN), or let the server accept them"
                    f" (`pg_hba.conf`, ALTER ROLE). `{_psql(where)}` asks for the password and shows the same"
                    " answer."
                )
            case asyncpg.InvalidCatalogNameError():
                return Cause.STORE_DATABASE_MISSING, Fix(
                    f"The server at {where.address} has no {database}. Correct the name in {_SETTING}, or, if"
                    " it is a new server, create the database and run `gateway migrate`."
                )
            case asyncpg.TooManyConnectionsError():
                return Cause.STORE_CONNECTION_LIMIT, Fix(
                    f"The server at {where.address} has no connection left for {user} and {database}. Lower"
                    " `postgres.pool_max` or `server.workers`, find idle sessions in pg_stat_activity, or"
                    " raise the limit of the server, the role or the database that the message names."
                )
            case asyncpg.ReadOnlySQLTransactionError() | asyncpg.TargetServerAttributeNotMatched():
                return Cause.STORE_READ_ONLY, Fix(
                    f"{where.address} is a standby, or read-only. Let {_SETTING} name the primary, or all"
                    " hosts of the cluster with `target_session_attrs=read-write`."
                )
            case asyncpg.CannotConnectNowError():
                return Cause.STORE_UNREACHABLE, Fix(
                    f"Wait: the server at {where.address} is starting or stopping."
                )
            case socket.gaierror():
                return Cause.STORE_HOST_UNKNOWN, Fix(
                    f"No address is known for the host of {where.address}. Correct its name in {_SETTING}, or"
                    " the resolver (DNS) of the gateway's machine or container."
                )
            case TimeoutError():
                return Cause.STORE_UNREACHABLE, Fix(
                    f"{where.address} does not answer in time. Look for a firewall between the gateway and"
                    f" the server, and at the server's load. `{_ready(where)}` tells whether it can be"
                    " reached."
                )
    return Cause.STORE_UNREACHABLE, Fix(
        f"Start Postgres at {where.address}, or correct host and port in {_SETTING}. `{_ready(where)}` tells"
        " whether it can be reached."
    )


def of_redis(error: StoreUnavailable) -> Fix:
    """Return the fix of an error of Redis, whose detail begins with its address."""
    for each in _chain(error):
        if isinstance(each, socket.gaierror):
            return Fix("Correct the host in `redis.url`, or the resolver (DNS) of the gateway's machine.")
        if isinstance(each, ssl.SSLError):
            return Fix(
                "Correct the certificate of Redis, or `redis.tls`; `rediss://` needs a server with TLS."
            )
    return Fix(
        "Start Redis at that address, or correct host, port, user and password in `redis.url`. Until then,"
        " Postgres answers everything."
    )


def _tls(where: Login) -> Fix:
    return Fix(
        f"Gateway and server ({where.address}) do not agree on TLS. If the server has none, set it up (`ssl ="
        f" on`, with a certificate for the host in {_SETTING}); if it requires TLS, use `sslmode=verify-full`"
        " with its authority. Without TLS, passwords and users can be read on the way."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it; of several at once, each."""
    at: BaseException | None = error
    for _ in range(10):
        if at is None:
            return
        yield at
        if isinstance(at, BaseExceptionGroup):
            for each in at.exceptions:
                yield from _chain(each)
        at = at.__cause__ or at.__context__


def _host(where: Login) -> tuple[str, str]:
    host, _, port = where.address.partition(",")[0].rpartition(":")
    return host.strip("[]") or where.address, port


def _ready(where: Login) -> str:
    host, port = _host(where)
    return f"pg_isready -h {host} -p {port}"


def _psql(where: Login) -> str:
    host, port = _host(where)
    user = "" if where.user is None else f" -U {where.user}"
    database = "" if where.database is None else f" -d {where.database}"
    return f"psql -h {host} -p {port}{user}{database}"
