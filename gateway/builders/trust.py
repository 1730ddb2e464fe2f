"""Settings → keys: of the issuers, of the certificate for clients, of assertions."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from gateway import translation
from gateway.admin.health import Dependency, Finding
from gateway.assertion.key_file import KeyFile
from gateway.assertion.keys import AssertionKeys, KeyStore
from gateway.assertion.signer import AssertionSigner
from gateway.builders.availability import report
from gateway.core.tokens.jws import KeySet
from gateway.issuer_keys.introspection import KEEP_ALIVE, Introspector
from gateway.issuer_keys.keyring import KeyRing
from gateway.proxy.certificate import Certificate
from gateway.proxy.published_keys import PublishedKeys
from gateway.proxy.server import ExchangeFactory
from gateway.settings import Settings
from gateway.settings.sections import model
from gateway.stores.postgres.assertion_keys import AssertionKeyRows
from gateway.stores.postgres.database import Postgres
from gateway.telemetry.metrics import Metrics


def key_ring(
    settings: Settings, metrics: Metrics, on_change: Callable[[str, KeySet], None], stack: AsyncExitStack
) -> tuple[KeyRing, Introspector | None]:
    """Return the keys of all issuers, and the introspector; both are closed when `stack` ends.

    `on_change` is called with an issuer's name and its new keys. None: no issuer has opaque tokens.
    """
    fetcher = translation.fetcher(settings.jwks)
    stack.push_async_callback(fetcher.close)
    keys = KeyRing(
        {issuer.name: translation.key_source(issuer) for issuer in settings.issuers},
        fetcher=fetcher,
        observer=metrics,
        on_change=on_change,
        max_stale=settings.jwks.max_stale,
    )
    stack.push_async_callback(keys.close)
    opaque = translation.opaque_issuers(settings.issuers)
    if not opaque:
        return keys, None
    # The issuers' own connections, which outlast one call.
    calls = translation.fetcher(settings.jwks, keep_alive=KEEP_ALIVE)
    stack.push_async_callback(calls.close)
    introspector = Introspector(opaque, fetcher=calls, observer=metrics)
    stack.push_async_callback(introspector.close)
    return keys, introspector


def tls_certificate(server: model.Server, metrics: Metrics, stack: AsyncExitStack) -> Certificate | None:
    """Read the certificate of the listener for clients, and watch it until `stack` ends; None without TLS.

    Raises OSError when a file cannot be read.
    """
    if server.tls.certificate is None or server.tls.key is None:
        return None
    certificate = Certificate(server.tls.certificate, server.tls.key)
    metrics.certificate_expiry.read(("server",), lambda: certificate.expires_at)
    watch = asyncio.create_task(certificate.watch())
    stack.callback(watch.cancel)
    return certificate


@dataclass(frozen=True, slots=True)
class Assertions:
    """The parts of signed identity; all None if it is off."""

    keys: AssertionKeys | None = None
    signer: AssertionSigner | None = None
    published: PublishedKeys | None = None
    now: Callable[[], float] | None = None
    """The clock by which decisions end."""

    async def start(self) -> None:
        if self.keys is not None:
            await self.keys.start()

    async def close(self) -> None:
        if self.keys is not None:
            await self.keys.close()

    def dependencies(self) -> dict[str, Dependency]:
        """Return the dependency for `/readyz`: without a key, no request of a user can be served."""
        keys = self.keys
        return (
            {} if keys is None else {"assertion_keys": Dependency(partial(_can_sign, keys), essential=True)}
        )

    def before(self, exchange: ExchangeFactory) -> ExchangeFactory:
        """Return a factory of exchanges that also publishes the keys."""
        return exchange if self.published is None else self.published.before(exchange)


async def _can_sign(keys: AssertionKeys) -> Finding:
    if keys.signing() is None:
        return Finding("down", keys.failure)
    if keys.failure is not None:
        return Finding("degraded", f"{keys.failure}; the keys that were read before stay in use")
    return Finding("up")


def assertion_key_store(assertion: model.Assertion, postgres: Postgres) -> KeyStore:
    """Return the store of the keys of assertions."""
    return AssertionKeyRows(postgres) if assertion.key_file is None else KeyFile(assertion.key_file)


def assertions(settings: Settings, postgres: Postgres, metrics: Metrics) -> Assertions:
    """Return the parts of signed identity, not started."""
    assertion = settings.assertion
    if assertion is None:
        return Assertions()
    keys = AssertionKeys(
        assertion_key_store(assertion, postgres),
        algorithm=assertion.algorithm,
        ttl=assertion.ttl,
        ahead=assertion.publish_ahead,
        clock=time.time,
        report=report("assertion_keys"),
    )
    signer = AssertionSigner(
        keys, header=assertion.header, issuer=assertion.issuer, ttl=assertion.ttl, clock=time.time
    )
    return Assertions(keys, signer, PublishedKeys(keys, metrics), time.time)
