"""The JWK set that verifies assertions, at `/.well-known/jwks.json` of each listener, for any client."""

import random
from time import perf_counter
from typing import Final, Protocol

from gateway.core.assertion import KEYS_PATH
from gateway.core.model import Credential
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import AnyRequest, Exchange
from gateway.proxy.errors import date_line
from gateway.proxy.server import ExchangeFactory
from gateway.telemetry.metrics import Metrics

ROUTE: Final = "assertion_keys"
"""The label of these requests in metrics."""
_METHODS: Final = frozenset({"GET", "HEAD"})


class Keys(Protocol):
    """The published keys: `gateway.assertion.keys.AssertionKeys`."""

    @property
    def max_age(self) -> float:
        """Seconds for which verifiers may remember the set."""

    def published(self) -> bytes | None:
        """Return the JWK set; None if there is none yet."""


class PublishedKeys:
    """The path, and the JWK set that it serves."""

    def __init__(self, keys: Keys, metrics: Metrics) -> None:
        self.keys = keys
        self.metrics = metrics

    def before(self, otherwise: ExchangeFactory) -> ExchangeFactory:
        """Return a factory that handles requests for the path here, and all others by `otherwise`."""

        def exchange(
            connection: ClientConnection, incoming: AnyRequest, credential: Credential | None
        ) -> Exchange:
            if incoming.target.partition("?")[0] == KEYS_PATH and incoming.method in _METHODS:
                return KeysExchange(self, connection, incoming)
            return otherwise(connection, incoming, credential)

        return exchange


class KeysExchange:
    """One request for the JWK set. An `Exchange`."""

    __slots__ = ("_client", "_incoming", "_published", "_started")

    def __init__(self, published: PublishedKeys, client: ClientConnection, incoming: AnyRequest) -> None:
        self._published = published
        self._client = client
        self._incoming = incoming
        self._started = perf_counter()

    def begin(self) -> None:
        incoming, client, keys = self._incoming, self._client, self._published.keys
        body = keys.published()
        status, line = 200, f"200 OK\r\nCache-Control: public, max-age={int(keys.max_age)}"
        if body is None:
            status, line = 503, "503 Service Unavailable\r\nRetry-After: 1\r\nCache-Control: no-store"
            body = b'{"keys":[]}'
        keep_alive = client.keeps_alive(incoming)
        ending = "" if keep_alive else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {line}\r\nContent-Type: application/jwk-set+json\r\nContent-Length: {len(body)}\r\n"
            f"{date_line()}X-Request-Id: {random.getrandbits(128):032x}\r\n{ending}\r\n"
        ).encode("ascii")
        client.write(head if incoming.method == "HEAD" else head + body)
        self._published.metrics.finished(ROUTE, incoming.method, status, perf_counter() - self._started)
        client.finished(keep_alive=keep_alive)

    def body_arrived(self) -> None:
        self._client.stop_reading()

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def client_left(self) -> None: ...

    def cut(self) -> None:
        self._client.abort()
