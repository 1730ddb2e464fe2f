"""The servers of a DSN, and how to reach the right one while others are down or hang.

The driver also tries the hosts of a DSN in turn, but with one time limit for all. If the first host swallows
all packets, for example after a power cut, the driver never reaches the second.
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

    The hosts are tried one after the other, beginning with the last one that served. With `primary`, only a
    primary is accepted, unless the DSN has its own `target_session_attrs`. `tls_strict`: certificates must
    follow RFC 5280 strictly, if the DSN verifies them.
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
        **options: Any,  # noqa: ANN401 -- those of `asyncpg.connect`, from its pool
    ) -> "asyncpg.Connection[asyncpg.Record]":
        """Connect. If no host is accepted, raises the driver's exception for the first one."""
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
        """Connect to a server with `row_security = off`: rows that a policy would hide cause an error.

        A PgBouncer that is not configured to ignore `row_security` refuses it as a start-up parameter, with a
        protocol violation. Then it is left out: the statements of requests detect row-level security
        themselves.
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
    """Return only the hosts and ports of a DSN, for messages."""
    try:
        servers = servers_of(dsn) or [("localhost", _DEFAULT_PORT)]
    except ValueError:
        return "the configured DSN"
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in servers)


def servers_of(dsn: str) -> list[tuple[str, int]]:
    """Return hosts and ports as the driver parses them; none if the environment defines them.

    Raises ValueError when they cannot be determined.
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
    """Return a digest of a DSN's hosts, ports, database and schema, without user and password.

    An address of this machine includes the machine's name, because `localhost` is another place on each
    machine.
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
