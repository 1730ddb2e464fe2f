"""Checks of the dependencies behind URLs: each issuer's keys, and each endpoint of the upstreams."""

import asyncio
import os
from collections.abc import Awaitable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import ClientError

from gateway import translation
from gateway.cli.check.result import Check, CheckResult
from gateway.issuer_keys.fetch import FetchError
from gateway.proxy.upstream.dial import read_origin

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.settings.model import Issuer, Jwks


def checks(settings: "Settings") -> Iterable[Check]:
    """Return a check of each issuer's keys and of each URL of each upstream."""
    for issuer in settings.issuers:
        name = f"issuer:{issuer.name}"
        yield Check(name, partial(_keys, name, issuer, settings.jwks))
    for upstream, rules in settings.upstreams.items():
        for number, url in enumerate(rules.urls):
            name = f"upstream:{upstream}" if len(rules.urls) == 1 else f"upstream:{upstream}[{number}]"
            yield Check(name, partial(_endpoint, name, url, rules.connect_timeout))


async def _keys(name: str, issuer: "Issuer", jwks: "Jwks") -> CheckResult:
    settings = "`issuer` or `keys`" if issuer.introspection is None else "`introspection`"
    try:
        made = translation.fetcher(jwks)
    except OSError as error:
        return CheckResult(name, "fail", str(error), "correct the file, or its path")
    async with made as fetcher:
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


async def _endpoint(name: str, url: str, timeout: float) -> CheckResult:  # noqa: ASYNC109 -- for each address, not in total
    origin = read_origin(url)
    if origin.port is None:
        failure = await _connected(asyncio.open_unix_connection(origin.host), timeout)
        failures, addresses = ([] if failure is None else [failure]), [origin.host]
    else:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=1)
        except OSError as error:
            return CheckResult(
                name, "warn", f"{url}: {error.strerror or error}", f"correct the host in the URL of {name}"
            )
        addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
        tried = await asyncio.gather(
            *(_connected(asyncio.open_connection(address, origin.port), timeout) for address in addresses)
        )
        failures = [
            f"{address}: {why}" for address, why in zip(addresses, tried, strict=True) if why is not None
        ]
    if failures:
        return CheckResult(
            name, "warn", f"{url}: {'; '.join(failures)}", "start the upstream, or correct its URL"
        )
    return CheckResult(
        name, "pass", f"{url}: {len(addresses)} of {len(addresses)} addresses accept connections"
    )


async def _connected(
    opening: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]], seconds: float
) -> str | None:
    """Open a connection and close it; return why that failed, None if it did not."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await opening
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    writer.close()
    return None
