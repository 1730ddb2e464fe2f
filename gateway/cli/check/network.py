"""Checks of the network: the own certificate, each issuer's keys and clock, each URL of the upstreams."""

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError
from cryptography import x509

from gateway import translation
from gateway.cli.check.clock import IssuerClock
from gateway.cli.check.result import Check, CheckResult
from gateway.core.tls import distrust
from gateway.issuer_keys.fetch import FetchError
from gateway.issuer_keys.sources import LoadedKeys
from gateway.proxy.certificate import Certificate
from gateway.proxy.upstream.endpoints.dial import Origin, read_origin, tls_context

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.settings.sections.model import Issuer, Jwks, Server
    from gateway.settings.sections.upstreams import Upstream

_SOON: Final = 14 * 86400.0
"""Seconds before its end in which a certificate is worth a warning, as in GatewayCertificateExpires."""


def checks(settings: "Settings") -> Iterable[Check]:
    """Return a check of the own certificate, of each issuer, and of each URL of each upstream."""
    if settings.server.tls.certificate is not None:
        yield Check("server.tls", partial(_certificate, settings.server))
    for issuer in settings.issuers:
        name = f"issuer:{issuer.name}"
        yield Check(name, partial(_keys, name, issuer, settings.jwks))
    for upstream, rules in settings.upstreams.items():
        for number, url in enumerate(rules.urls):
            name = f"upstream:{upstream}" if len(rules.urls) == 1 else f"upstream:{upstream}[{number}]"
            yield Check(name, partial(_endpoint, name, url, upstream, rules))


async def _keys(name: str, issuer: "Issuer", jwks: "Jwks") -> CheckResult:
    settings = "`issuer` or `keys`" if issuer.introspection is None else "`introspection`"
    try:
        made = translation.fetcher(jwks)
    except OSError as error:
        return CheckResult(name, "fail", str(error), "correct the file, or its path")
    clock = IssuerClock()
    async with made as fetcher:
        fetcher.heard = clock.heard
        try:
            loaded = await translation.key_source(issuer).load(fetcher)
        except FetchError as error:
            return CheckResult(
                name,
                "fail",
                str(error),
                f"correct {settings} of issuer {issuer.name}, or make the issuer reachable from here",
                # An unreadable file, or a document without keys, does not count as unreachable.
                unreachable=isinstance(error.__cause__, ClientError | TimeoutError),
            )
    return clock.judged(_loaded(name, issuer, loaded), issuer.leeway)


def _loaded(name: str, issuer: "Issuer", loaded: LoadedKeys) -> CheckResult:
    if issuer.introspection is not None:
        return CheckResult(name, "pass", "the introspection endpoint answers")
    count = len(loaded.keys.keys)
    if issuer.tenants == "any":
        return CheckResult(name, "pass", "any tenant: its keys are fetched when its first token comes")
    if loaded.unheard:
        return CheckResult(
            name,
            "fail",
            "; ".join(loaded.unheard),
            f"correct `keys` of issuer {issuer.name}, or make each of its sources reachable from here",
        )
    found = f"{count} usable {'key' if count == 1 else 'keys'}"
    if loaded.skipped:
        skipped = "; ".join(loaded.skipped[:3])
        return CheckResult(
            name,
            "warn",
            f"{found}, {len(loaded.skipped)} unusable: {skipped}",
            "tokens signed with unusable keys are refused",
        )
    if loaded.left_out:
        return CheckResult(
            name,
            "warn",
            f"{found}, and {loaded.left_out} more over the limit, which are ignored",
            "let the issuer publish only the keys that it signs with; the gateway keeps the first ones",
        )
    return CheckResult(name, "pass", found)


async def _endpoint(name: str, url: str, upstream: str, rules: "Upstream") -> CheckResult:
    origin = read_origin(url)
    if origin.port is None:
        failure = await _connected(asyncio.open_unix_connection(origin.host), rules.connect_timeout)
        addresses, tried = [origin.host], [failure]
    else:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=1)
        except OSError as error:
            return CheckResult(
                name, "warn", f"{url}: {error.strerror or error}", f"correct the host in the URL of {name}"
            )
        addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
        try:
            trust = tls_context(translation.upstream(upstream, rules).tls) if origin.tls else None
        except OSError as error:
            return CheckResult(
                name, "warn", f"{url}: {error}", f"correct the files of upstreams.{upstream}.tls"
            )
        tried = await asyncio.gather(
            *(_tried(address, origin, upstream, rules, trust) for address in addresses)
        )
    failures = [f"{address}: {why}" for address, why in zip(addresses, tried, strict=True) if why is not None]
    if failures:
        untrusted = any("certificate" in failure for failure in failures)
        fix = f"see upstreams.{upstream}.tls" if untrusted else "start the upstream, or correct its URL"
        return CheckResult(name, "warn", f"{url}: {'; '.join(failures)}", fix)
    how = "TLS connections" if origin.tls else "connections"
    return CheckResult(name, "pass", f"{url}: {len(addresses)} of {len(addresses)} addresses accept {how}")


async def _tried(
    address: str, origin: Origin, upstream: str, rules: "Upstream", trust: ssl.SSLContext | None
) -> str | None:
    """Connect as requests do, with TLS if the URL says so; return what is wrong, None if all is well."""
    name = (rules.tls.server_name or origin.host) if trust is not None else None
    opening = asyncio.open_connection(address, origin.port, ssl=trust, server_hostname=name)
    return await _connected(opening, rules.connect_timeout, f"upstreams.{upstream}.tls.strict")


async def _connected(
    opening: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]], seconds: float, strict: str = ""
) -> str | None:
    """Open a connection and close it; return what is wrong, None if nothing is.

    `strict` is the setting that may be the reason why a certificate is not trusted.
    """
    try:
        async with asyncio.timeout(seconds):
            _, writer = await opening
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except ssl.SSLCertVerificationError as error:
        return distrust(error, strict)
    except ssl.SSLError as error:
        return f"TLS cannot be established: {error.reason or error}"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    secured: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    try:
        return None if secured is None else _expiry(secured.getpeercert(binary_form=True))
    finally:
        writer.transport.abort()


def _expiry(certificate: bytes | None) -> str | None:
    """Return that a certificate ends soon; None if it does not."""
    if certificate is None:
        return None
    until = x509.load_der_x509_certificate(certificate).not_valid_after_utc
    left = until.timestamp() - time.time()
    return f"its certificate expires on {until:%Y-%m-%d}" if left < _SOON else None


async def _certificate(server: "Server") -> CheckResult:
    """Look at the certificate that clients are shown."""
    name, tls = "server.tls", server.tls
    if tls.certificate is None or tls.key is None:
        return CheckResult(
            name, "fail", "there is a certificate or a key, and not the other", "give both files"
        )
    try:
        certificate = await asyncio.to_thread(Certificate, tls.certificate, tls.key)
    except OSError as error:
        found, _, fix = str(error).partition(" → ")
        return CheckResult(name, "fail", found, fix or None)
    left = certificate.expires_at - time.time()
    until = time.strftime("%Y-%m-%d", time.gmtime(certificate.expires_at))
    if left < 0:
        return CheckResult(name, "fail", f"{tls.certificate} expired on {until}", "renew it")
    if left < _SOON:
        return CheckResult(name, "warn", f"{tls.certificate} expires on {until}", "renew it")
    return CheckResult(name, "pass", f"{tls.certificate} is valid until {until}, and its key fits")
