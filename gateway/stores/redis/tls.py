"""TLS to Redis: one context for all connections to a server.

redis-py creates one for each connection. That reads every certificate that the system trusts, which blocks
the event loop for tens of milliseconds, and does so when Redis comes back and all workers connect.
"""

import ssl
from pathlib import Path
from typing import Any, Final, TypeAlias

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core.tls import set_strictness

_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")

_State: TypeAlias = tuple[tuple[int, int, int], ...]


class RedisTLS:
    """The context that redis-py creates from `ssl_…` parameters; it is renewed when a file has changed.

    Raises redis-py's `RedisError` or TypeError when a parameter cannot be read.
    """

    def __init__(self, parameters: dict[str, Any], *, strict: bool) -> None:
        """With `strict`, certificates must follow RFC 5280 strictly (`redis.tls.strict`)."""
        SSLConnection(**parameters)
        self._parameters = parameters
        self._strict = strict
        self._files = [Path(parameters[name]) for name in _FILES if parameters.get(name)]
        self._seen: _State | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context. Raises redis-py's `ConnectionError` when a file cannot be used."""
        try:
            seen = tuple(_fingerprint(file) for file in self._files)
            if self._context is None or seen != self._seen:
                self._context = SSLConnection(**self._parameters).ssl_context.get()
                set_strictness(self._context, strict=self._strict)
                self._seen = seen
        except OSError as error:
            names = error.filename or " or ".join(map(str, self._files))
            raise RedisConnectionError(f"{names} cannot be used for TLS: {error.strerror}") from error
        return self._context


def _fingerprint(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


class TLSConnection(Connection):
    """A connection with the TLS of its server."""

    def __init__(self, *, tls: RedisTLS, **settings: Any) -> None:  # noqa: ANN401 -- redis-py's own, of many types
        self._tls = tls
        super().__init__(**settings)

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls.context()}
