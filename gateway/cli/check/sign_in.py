"""The check of the provider at which people sign in to the console."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway import translation
from gateway.admin.sign_in.provider import Client, Provider, SignInRefused
from gateway.builders import control_plane
from gateway.cli.check.result import Check, CheckResult

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.settings.sections.model import Jwks

NAME: Final = "admin.oidc"


def checks(settings: "Settings") -> Iterable[Check]:
    """Return the check, if people can sign in."""
    client = control_plane.oidc_client(settings)
    if client is not None:
        yield Check(NAME, partial(_provider, client, settings.jwks))


async def _provider(client: Client, jwks: "Jwks") -> CheckResult:
    fix = "correct admin.oidc.issuer, or make the provider reachable from here"
    try:
        made = translation.fetcher(jwks)
    except OSError as error:
        return CheckResult(NAME, "fail", str(error), "correct the file, or its path")
    async with made as fetcher:
        provider = Provider(client, fetcher)
        try:
            metadata = await provider.metadata()
        except SignInRefused as refused:
            return CheckResult(NAME, "fail", str(refused), fix, unreachable=True)
        if not await provider.refresh("", None, ""):
            return CheckResult(NAME, "fail", f"{metadata.jwks_uri}: its keys cannot be loaded or used", fix)
        if metadata.lacks_pkce:
            return CheckResult(
                NAME,
                "warn",
                f"{client.issuer}: the provider does not say that it knows PKCE with S256",
                "let the provider require code_challenge_method S256 of this client",
            )
    return CheckResult(
        NAME, "pass", f"{client.issuer}: endpoints and keys are there; its secret is not tried"
    )
