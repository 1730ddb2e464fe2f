"""The upstreams: which endpoint gets a request, and which requests are retried.

This is the interface for forwarding: an exchange gets a connection with `take` or, if there is none, `open`;
runs on it; and returns it with `release` of its `owner`.
"""

import asyncio
import random
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Literal, Protocol, TypeAlias

from gateway.core.reasons import OVERLOADED, UPSTREAM_UNREACHABLE, Denial
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.endpoints.dial import Dialer, Origin, read_origin
from gateway.proxy.upstream.endpoints.dns import OriginResolver, Resolve, system_resolve
from gateway.proxy.upstream.endpoints.endpoint import Endpoint
from gateway.proxy.upstream.endpoints.health_check import keep_checking
from gateway.proxy.upstream.options import UpstreamRules
from gateway.proxy.upstream.retry_budget import RetryBudget

MAX_ATTEMPTS: Final = 3
"""How many endpoints are tried until one accepts a connection."""

RetryReason: TypeAlias = Literal["connect_failed", "connection_closed"]


class Observer(Protocol):
    """Counts the events here."""

    def upstream_retried(self, upstream: str, reason: RetryReason) -> None: ...


class Upstream:
    """One upstream with its endpoints. The less busy of two random endpoints gets a request."""

    def __init__(
        self, rules: UpstreamRules, observer: Observer | None = None, *, resolve: Resolve = system_resolve
    ) -> None:
        """Read the files of `rules.tls`. Raises OSError when one cannot be used."""
        self._loop = asyncio.get_running_loop()
        self.name = rules.name
        self.response_timeout = rules.response_timeout
        self.buffer_requests = rules.buffer_requests or 0
        """The largest chunked body that is sent with its length, in bytes."""
        self._rules = rules
        self._observer = observer
        self._dialer = Dialer(rules)
        self._budget = RetryBudget(rules.retry_budget)
        origins = [read_origin(url) for url in rules.urls]
        self._names = OriginResolver(rules.name, origins, resolve, rules.dns_ttl, self._follow_names)
        self._endpoints: dict[tuple[Origin, str], Endpoint] = {}
        self._choices: tuple[Endpoint, ...] = ()
        self._retired: list[Endpoint] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._follow_names()

    def start(self) -> None:
        """Start the look-ups of names and the health checks in the background."""
        if self._names:
            self._tasks.append(asyncio.create_task(self._names.keep_fresh()))
        if self._rules.health_check is not None:
            self._tasks.append(
                asyncio.create_task(keep_checking(self._rules.health_check, lambda: self._choices))
            )

    def close(self) -> None:
        """Stop the background tasks and close all idle connections."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._names.close()
        for endpoint in self._choices:
            endpoint.close()

    # One request ---------------------------------------------------------------------------------

    def take(self, *, once: bool = False) -> UpstreamConnection | None:
        """Count a request, and take an idle connection for it; return None if there is none.

        `once`: the request must not be sent a second time.
        """
        now = self._loop.time()
        self._budget.requested(now)
        choices = self._choices
        if not choices:
            return None
        endpoint = choices[0] if len(choices) == 1 else self._choose(now, ())
        return endpoint.pool.take(now, once=once)

    async def open(self, *, fresh: bool = False, once: bool = False) -> UpstreamConnection:
        """Open a connection, or wait for one. `fresh`: it must be new.

        `once` is as in `take`.

        If a connection cannot be opened, other endpoints are tried, within the retry budget: no part of the
        request has been sent. Raises `Denial`: `upstream_unreachable`, `upstream_timeout`, or `overloaded`
        when every connection is in use.
        """
        if not self._choices:
            await self._look_up()
        return await self._open(self._choose(self._loop.time(), ()), fresh=fresh, once=once)

    def may_retry(self, reason: RetryReason) -> bool:
        """Take one retry from the budget, and count it."""
        if not self._budget.spend(self._loop.time()):
            return False
        if self._observer is not None:
            self._observer.upstream_retried(self.name, reason)
        return True

    async def _open(self, endpoint: Endpoint, *, fresh: bool, once: bool) -> UpstreamConnection:
        tried: list[Endpoint] = []
        while True:
            try:
                return await endpoint.pool.acquire(fresh=fresh, once=once)
            except Denial as denial:
                tried.append(endpoint)
                untried = [choice for choice in self._choices if choice not in tried]
                if denial.reason is OVERLOADED or not untried or len(tried) == MAX_ATTEMPTS:
                    raise
                if not self.may_retry("connect_failed"):
                    raise
                endpoint = self._choose(self._loop.time(), tried)

    def _choose(self, now: float, tried: Collection[Endpoint]) -> Endpoint:
        """Return the less busy of two random endpoints, none of them tried, ejected or full if possible."""
        choices = self._choices
        number = len(choices)
        if number == 1:
            return choices[0]
        first = int(random.random() * number)  # noqa: S311 -- no secret
        second = int(random.random() * (number - 1))  # noqa: S311
        one, other = choices[first], choices[second + (second >= first)]
        if not tried and one.available(now) and other.available(now):
            chosen = one if one.pool.outstanding <= other.pool.outstanding else other
            if not chosen.pool.full:
                return chosen
        untried = [endpoint for endpoint in choices if endpoint not in tried]
        available = [endpoint for endpoint in untried if endpoint.available(now)]
        if available:
            return min(available, key=lambda endpoint: endpoint.pool.outstanding)
        # An ejected endpoint is better than none.
        return min(untried, key=lambda endpoint: endpoint.outlier_detection.failed_at)

    # Endpoints -----------------------------------------------------------------------------------

    async def _look_up(self) -> None:
        """Wait for a first address. Raises `Denial`."""
        try:
            async with asyncio.timeout(self._rules.connect_timeout):
                await self._names.refresh()
        except TimeoutError as error:
            raise Denial(UPSTREAM_UNREACHABLE, f"looking up {self.name} took too long") from error
        if not self._choices:
            raise Denial(UPSTREAM_UNREACHABLE, f"looking up {self.name} found no address")

    def _follow_names(self) -> None:
        """Update the endpoints to the current addresses. Those that stay keep connections and failures."""
        before = self._endpoints
        self._endpoints = {
            key: before.get(key) or Endpoint(self._rules, *key, self._dialer)
            for key in (
                (origin, address)
                for origin, addresses in self._names.addresses.items()
                for address in addresses
            )
        }
        self._choices = tuple(self._endpoints.values())
        for key in before.keys() - self._endpoints.keys():
            before[key].close()
            self._retired.append(before[key])
        self._retired = [endpoint for endpoint in self._retired if endpoint.pool.outstanding]

    # For the metrics -----------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """Connections in an exchange, or being opened for one."""
        return sum(endpoint.pool.active for endpoint in (*self._choices, *self._retired))

    @property
    def idle(self) -> int:
        return sum(endpoint.pool.idle for endpoint in self._choices)

    @property
    def pending(self) -> int:
        """Requests that wait for a connection."""
        return sum(endpoint.pool.pending for endpoint in (*self._choices, *self._retired))

    @property
    def ejected(self) -> int:
        """Endpoints that get no requests now, while there are others."""
        now = self._loop.time()
        return sum(endpoint.outlier_detection.ejected(now) for endpoint in self._choices)

    @property
    def healthy(self) -> int:
        return len(self._choices) - self.ejected


class Upstreams:
    """The upstreams by name."""

    def __init__(
        self,
        rules: Iterable[UpstreamRules],
        observer: Observer | None = None,
        *,
        resolve: Resolve = system_resolve,
    ) -> None:
        """Read the files of their TLS. Raises OSError when one cannot be used."""
        self._upstreams = {rule.name: Upstream(rule, observer, resolve=resolve) for rule in rules}

    def __getitem__(self, name: str) -> Upstream:
        return self._upstreams[name]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._upstreams.values())

    def start(self) -> None:
        """Start the background tasks."""
        for upstream in self._upstreams.values():
            upstream.start()

    def close(self) -> None:
        for upstream in self._upstreams.values():
            upstream.close()
