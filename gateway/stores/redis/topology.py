"""The place of Redis: a server with an address, the primary of Sentinels, or a node of a cluster.

`redis://`, `rediss://` (TLS) and `unix://` name the server. `redis+sentinel://host,host/service/db` names
Sentinels: each connection asks them for the primary. `redis+cluster://host,host` names nodes of a cluster:
all keys share one slot, by a hash tag in their prefix (such as `{gateway}:`), so that they can be read and
changed in one step; each connection asks the nodes which one has the slot. `rediss+…` is both with TLS.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.crc import key_slot
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, ReadOnlyError, RedisError

from gateway.stores.redis.errors import in_words
from gateway.stores.redis.tls import RedisTLS, TLSConnection

_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_DRIVER: Final = DriverInfo()
"""The client name and version of connections. Otherwise each would read the driver's version from a file."""

Address: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RedisServer:
    """The parameters of a connection."""

    address: str
    """Host and port, for messages; of Sentinels and clusters those in the URL."""
    connection_class: type[AbstractConnection]
    settings: dict[str, Any]
    """Arguments of `connection_class`: redis-py's own, of many types."""

    def connection(self, **settings: object) -> AbstractConnection:
        """Return a connection that is not open yet."""
        return self.connection_class(**{**self.settings, **settings})


def server_at(url: str, prefix: str, *, strict: bool = False) -> RedisServer:
    """Parse a URL. `prefix` begins every key. Raises ValueError, which does not contain the URL."""
    scheme, _, kind = url.partition("://")[0].partition("+")
    try:
        if kind not in ("", "sentinel", "cluster"):
            raise ValueError
        server = (
            _located_server(url, scheme, kind, prefix, strict=strict)
            if kind
            else _one_server(url, strict=strict)
        )
        server = replace(server, settings={**server.settings, "driver_info": _DRIVER})
        # An invalid parameter is only detected when a connection is created.
        server.connection()
    except (TypeError, ValueError, RedisError):
        # Without a cause, which would contain the URL and its password.
        raise ValueError("the Redis URL cannot be read") from None
    if kind == "cluster" and not hash_tag(prefix):
        raise ValueError("a cluster needs a prefix with a hash tag, such as {gateway}:")
    return server


def hash_tag(prefix: str) -> str:
    """Return the hash tag that decides the slot of keys with this prefix; empty if there is none."""
    tag, end, _ = prefix.partition("{")[2].partition("}")
    return tag if end else ""


def _one_server(url: str, *, strict: bool) -> RedisServer:
    settings: dict[str, Any] = dict(parse_url(url))  # redis-py's own, of many types
    connection_class = settings.pop("connection_class", Connection)
    if connection_class is SSLConnection:
        parameters = {name: settings.pop(name) for name in tuple(settings) if name.startswith("ssl_")}
        settings["tls"] = RedisTLS(parameters, strict=strict)
        connection_class = TLSConnection
    return RedisServer(_address_of(url), connection_class, settings)


def _address_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "the configured URL"
    if "@" in url and "@" not in parts.netloc:
        # With an unescaped character in the password, the apparent host may be part of the password.
        return "the configured URL"
    if parts.scheme == "unix":
        return parts.path
    return f"{host or 'localhost'}:{port or _REDIS_PORT}"


def _located_server(url: str, scheme: str, kind: str, prefix: str, *, strict: bool) -> RedisServer:
    if scheme not in ("redis", "rediss"):
        raise ValueError
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    if "@" in url and not at:
        raise ValueError
    port = _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT
    seeds = [_address(host, port) for host in hosts.split(",")]
    service, _, database = unquote(parts.path).strip("/").partition("/")
    if (kind == "sentinel") != bool(service) or (database and not database.isdecimal()):
        raise ValueError
    settings = _one_server(_plain(parts, scheme, f"{login}{at}localhost", database), strict=strict).settings
    del settings["host"]
    seed_class = TLSConnection if scheme == "rediss" else Connection
    seed_settings = {name: settings[name] for name in ("tls",) if name in settings}
    if kind == "sentinel":
        for name in ("username", "password"):
            value = settings.pop(f"sentinel_{name}", None)
            if value is not None:
                seed_settings[name] = value
        locate = _Locator(seeds, seed_class, seed_settings, _AskSentinel(service))
        settings["redis_connect_func"] = _as_primary
    else:
        seed_settings |= {name: settings[name] for name in ("username", "password") if name in settings}
        locate = _Locator(seeds, seed_class, seed_settings, _AskCluster(key_slot(prefix.encode())))
    settings["locate"] = locate
    return RedisServer(hosts, _LocatedTLS if scheme == "rediss" else _Located, settings)


def _plain(parts: SplitResult, scheme: str, netloc: str, database: str) -> str:
    return parts._replace(scheme=scheme, netloc=netloc, path=f"/{database}" if database else "").geturl()


def _address(host: str, default_port: int) -> Address:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or default_port


class _AskSentinel:
    """Finds the primary of a service (Redis: guidelines for Sentinel clients)."""

    def __init__(self, service: str) -> None:
        self.command = ("SENTINEL", "get-master-addr-by-name", service)

    def read(self, reply: Any, asked: Address) -> Address | None:  # noqa: ANN401, ARG002 -- the server's reply
        return None if reply is None else (reply[0].decode(), int(reply[1]))


class _AskCluster:
    """Finds the primary of a slot (Redis Cluster specification)."""

    command = ("CLUSTER", "SLOTS")

    def __init__(self, slot: int) -> None:
        self._slot = slot

    def read(self, reply: Any, asked: Address) -> Address | None:  # noqa: ANN401 -- the server's reply
        for first, last, primary, *_ in reply:
            if first <= self._slot <= last:
                # A node that does not know its own name leaves it out.
                return (primary[0] or b"").decode() or asked[0], int(primary[1])
        return None


class _Locator:
    """Asks seeds, one after the other, until one knows. The next time, it asks the failed seeds last."""

    def __init__(
        self,
        seeds: list[Address],
        seed_class: type[Connection],
        settings: dict[str, Any],
        question: _AskSentinel | _AskCluster,
    ) -> None:
        self._seeds = seeds
        self._class = seed_class
        self._settings = settings
        self._question = question

    async def __call__(self, timeout: float | None) -> Address:  # noqa: ASYNC109 -- of each seed, not of all
        """Return the primary's address. Raises redis-py's `ConnectionError` with each seed's answer."""
        reasons = []
        for seed in tuple(self._seeds):
            connection = self._class(
                host=seed[0],
                port=seed[1],
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                protocol=2,
                **self._settings,
            )
            found, reason = None, "was never told"
            try:
                await connection.connect()  # type: ignore[no-untyped-call] # has no annotations
                await connection.send_command(*self._question.command)
                found = self._question.read(await connection.read_response(), seed)
            except (RedisError, OSError, ValueError) as error:
                reason = in_words(error)
            finally:
                # Also when the wait has been cancelled: the next attempt begins with another seed.
                if found is None:
                    self._seeds.remove(seed)
                    self._seeds.append(seed)
                await connection.disconnect(nowait=True)
            if found is not None:
                return found
            reasons.append(f"{seed[0]}:{seed[1]}: {reason}")
        raise RedisConnectionError(f"no server knows where the primary is ({'; '.join(reasons)})")


async def _as_primary(connection: AbstractConnection) -> None:
    """Open a session with a server, if it is the primary now."""
    await connection.on_connect()
    await connection.send_command("ROLE", check_health=False)
    role = await connection.read_response()
    if role[0] != b"master":
        raise RedisConnectionError("the primary is being replaced")


class _Located(Connection):
    """A connection that looks up its server at each connect, and leaves a server that has been replaced."""

    def __init__(self, *, locate: _Locator, **settings: Any) -> None:  # noqa: ANN401 -- redis-py's own, of many types
        self._locate = locate
        super().__init__(**settings)

    async def _connect(self) -> None:
        self.host, self.port = await self._locate(self.socket_connect_timeout)
        try:
            await super()._connect()  # type: ignore[no-untyped-call] # has no annotations
        except OSError as error:
            # Messages begin with the hosts of the URL; this server is another one.
            raise RedisConnectionError(f"{self.host}:{self.port}: {in_words(error)}") from error

    async def read_response(self, *args: Any, **settings: Any) -> Any:  # noqa: ANN401 -- redis-py's signature
        try:
            return await super().read_response(*args, **settings)
        except (MovedError, ReadOnlyError) as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError("another server has taken over") from error


class _LocatedTLS(_Located, TLSConnection):
    """The same with TLS."""
