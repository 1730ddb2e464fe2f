"""What identifies an opaque token: its issuer is asked, as for a request (RFC 7662)."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gateway.cli.config import settings_or_exit
from gateway.cli.terminal import output
from gateway.core.model import JSON, Credential

if TYPE_CHECKING:
    from gateway.settings import Settings


def described(config: Path, raw: bytes) -> Mapping[str, JSON] | None:
    """Return the claims of a token, `jti` among them; None if no issuer has such tokens.

    Exits when the issuer says that the token is not active, or does not answer.
    """
    from gateway import translation

    settings = settings_or_exit(config)
    if not translation.opaque_issuers(settings.issuers):
        return None
    return asyncio.run(_described(settings, raw))


async def _described(settings: "Settings", raw: bytes) -> Mapping[str, JSON] | None:
    from gateway import translation
    from gateway.core.reasons import INTROSPECTION_UNAVAILABLE, Denial
    from gateway.issuer_keys.introspection import Introspector

    async with translation.fetcher(settings.jwks) as fetcher:
        opaque = translation.opaque_issuers(settings.issuers)
        introspector = Introspector(opaque, fetcher=fetcher, observer=_Unobserved())
        issuer = introspector.issuer_of(raw)
        if issuer is None:
            return None
        try:
            return (await introspector.introspect(issuer, Credential.of(raw))).payload
        except Denial as denial:
            if denial.reason is not INTROSPECTION_UNAVAILABLE:
                output.fail(f"the gateway would not accept this token: {denial.reason.title}")
            output.fail(
                f"issuer {issuer.name} cannot be asked which token this is:"
                f" {introspector.last_error(issuer.name) or denial.detail}",
                "revoke all tokens of the user: gateway revoke user ID",
                output.UNREACHABLE,
            )
        finally:
            await introspector.close()


class _Unobserved:
    """An observer that does nothing: a command has no metrics."""

    def introspected(
        self, issuer: str, result: Literal["active", "inactive", "failure"], seconds: float
    ) -> None: ...
