"""Which servers a DSN names, and how to reach the right one though others are down or hang.

The driver tries the hosts of a DSN in turn too, but within one time limit for all: a first host that
swallows everything, as one does whose power is cut, would keep it from the second for ever.
"""

import asyncio
import hashlib
import socket
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import orjson
from asyncpg.connect_utils import SessionAttribute

from gateway.stores.postgres.tls import strict_context

_DEFAULT_PORT: Final = 5432
_LOOPBACK: Final = ("localhost", "127.", "::1")


class Connector:
    """Opens connections to a server of `dsn`, within `timeout` seconds.

    The hosts are tried one after the other, the one that served last first. With `primary` only a
    primary will do, unless the DSN has a `target_session_attrs` of its own. `tls_strict`: certificates
    must follow RFC 5280 to the letter, where the DSN has them verified.
    """

    def __init__(self, dsn: str, *, primary: bool, timeout: float, tls_strict: bool = False) -> None:
        self._dsn = dsn
        self._timeout = timeout
        self._primary = primary
        self._tls_strict = tls_strict
        self._latest: tuple[str, int] | None = None
        self._takes_row_security = True

    async def __call__(
        self,
        *_: object,
        **options: Any,  # noqa: ANN401 -- those of `asyncpg.connect`, as its pool hands them on
    ) -> "asyncpg.Connection[asyncpg.Record]":
        """Connect. Raises what the driver raises for the first host when none will do."""
        try:
            servers = servers_of(self._dsn)
            wanted = _session_attributes(self._dsn, SessionAttribute.primary if self._primary else None)
        except ValueError:
            raise asyncpg.ClientConfigurationError("a DSN that cannot be read") from None
        if self._tls_strict and (context := await asyncio.to_thread(strict_context, self._dsn)) is not None:
            options["ssl"] = context
        if len(servers) < 2:
            return await self._connect(timeout=self._timeout, target_session_attrs=wanted, **options)
        servers.sort(key=lambda server: server != self._latest)
        rounds = [wanted]
        if wanted is SessionAttribute.prefer_standby:
            rounds = [SessionAttribute.standby, SessionAttribute.any]
        failure: Exception | None = None
        for attributes in rounds:
            for server in servers:
                try:
                    connection = await self._connect(
                        host=server[0], port=server[1], target_session_attrs=attributes,
                        timeout=self._timeout / len(servers) / len(rounds), **options,
                    )  # fmt: skip
                except (asyncpg.PostgresError, asyncpg.InternalClientError, OSError) as error:
                    failure = failure or error
                else:
                    self._latest = server
                    return connection
        raise failure or asyncpg.InternalClientError("a DSN without servers")

    async def _connect(
        self,
        *,
        server_settings: dict[str, str] | None = None,
        **options: Any,  # noqa: ANN401 -- those of `asyncpg.connect`
    ) -> "asyncpg.Connection[asyncpg.Record]":
        """Connect to a server, where rows that a policy would hide are an error from then on.

        A PgBouncer that was not told to ignore `row_security` refuses it as a start-up parameter, with a
        protocol violation. It is not asked again then: the statements of requests see to that themselves.
        """
        settings = server_settings or {}
        connection: asyncpg.Connection[asyncpg.Record]
        if self._takes_row_security:
            try:
                connection = await asyncpg.connect(
                    self._dsn, server_settings={**settings, "row_security": "off"}, **options
                )
            except asyncpg.ProtocolViolationError:
                self._takes_row_security = False
            else:
                return connection
        connection = await asyncpg.connect(self._dsn, server_settings=settings, **options)
        return connection


def address_of(dsn: str) -> str:
    """Return the hosts and ports of a DSN, and nothing else of it: for messages."""
    try:
        servers = servers_of(dsn) or [("localhost", _DEFAULT_PORT)]
    except ValueError:
        return "the configured DSN"
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in servers)


def servers_of(dsn: str) -> list[tuple[str, int]]:
    """Return hosts and ports as the driver reads them, none when it is left to the environment.

    Raises ValueError when they cannot be told.
    """
    parts = urlsplit(dsn)
    if "@" in dsn and "@" not in parts.netloc:
        raise ValueError("an unescaped character in the password: the host may be part of it")
    named = parts.netloc.rpartition("@")[2]
    if named:
        return [_server(unquote(host), str(_DEFAULT_PORT)) for host in named.split(",")]
    query = parse_qs(parts.query)
    hosts = query.get("host", [""])[-1]
    ports = query.get("port", [str(_DEFAULT_PORT)])[-1].split(",")
    if not hosts:
        return [] if "port" not in query else [("localhost", int(ports[0]))]
    names = hosts.split(",")
    if len(ports) == 1:
        ports *= len(names)
    return [_server(host, port) for host, port in zip(names, ports, strict=True)]


def _server(text: str, port: str) -> tuple[str, int]:
    if text.startswith("/"):  # the folder of a Unix socket
        return text, int(port)
    host, bracket, rest = text.removeprefix("[").partition("]")
    if not bracket:
        host, _, rest = text.partition(":")
    return host, int(rest.removeprefix(":") or port)


def _session_attributes(dsn: str, default: SessionAttribute | None) -> SessionAttribute | None:
    named = parse_qs(urlsplit(dsn).query).get("target_session_attrs")
    return default if named is None else SessionAttribute(named[-1])


def place_of(dsn: str, schema: str) -> str:
    """Return a digest of where a DSN leads: hosts, ports, database and schema, no user and no password.

    What leads to this machine names the machine too: `localhost` is another place on each.
    """
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    database = unquote(parts.path.removeprefix("/")) or query.get("dbname", query.get("database", [""]))[-1]
    try:
        servers = sorted((host.lower(), port) for host, port in servers_of(dsn))
    except ValueError:
        servers = []
    at_home = not servers or any(host.startswith(("/", *_LOOPBACK)) for host, _ in servers)
    machine = socket.gethostname() if at_home else ""
    return hashlib.sha256(orjson.dumps([servers, database, schema, machine])).hexdigest()[:32]
