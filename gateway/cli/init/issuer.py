"""The issuer of a new configuration: from a sample token, or from the issuer's URL."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

from gateway.providers.catalogue import recognised
from gateway.providers.inspection import inspect
from gateway.providers.presets import unfold
from gateway.providers.provider import IssuerSettings, Unverified
from gateway.providers.suggestion import suggest

SECRET: Final = "TOKEN_SECRET"  # noqa: S105 -- the name of a variable
"""The variable with the secret that an issuer shares with its services (HS256)."""
_WELL_KNOWN: Final = "/.well-known/"


class NoIssuer(Exception):
    """No issuer can be configured from what is given. `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        self.hint = hint
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class FoundIssuer:
    """An entry of `issuers`."""

    entry: IssuerSettings
    provider: str | None = None
    """The provider's title, if its tokens are known."""
    subject: str | None = None
    """That of the sample token."""
    cautions: tuple[str, ...] = ()

    @property
    def shares_a_secret(self) -> bool:
        """Whether the entry needs the variable `SECRET`."""
        return SECRET in str(self.entry)


def from_token(text: str) -> FoundIssuer:
    """Return the issuer of a sample token, which is neither verified nor sent anywhere.

    Raises NoIssuer when no configuration should accept such a token, or when its keys cannot be found by
    what it says.
    """
    if not text.strip():
        raise NoIssuer("there is no token", "curl … | gateway init --token -, or give --issuer URL")
    inspection = inspect(text.strip(), time.time())
    suggestion = suggest(inspection)
    if suggestion.entry is None:
        reason, *rest = suggestion.cautions
        raise NoIssuer(reason, " ".join(rest) or "give a token as clients send it, or --issuer URL")
    entry = dict(suggestion.entry)
    keys = entry.get("keys")
    if isinstance(keys, dict) and "jwks_file" in keys:
        raise NoIssuer(
            "the token's `iss` is no URL, so its keys cannot be found by it",
            "`gateway token inspect --as-config` prints the entry: name its keys by hand",
        )
    if isinstance(keys, dict) and "secret_file" in keys:
        entry["keys"] = {"secret": f"${{{SECRET}}}"}
    if "secret_file" in entry:
        raise NoIssuer(
            "its provider signed the token with a secret that is not public",
            "let the provider sign with a key pair, or see docs/providers.md for `secret_file`",
        )
    title = None if inspection.provider is None else inspection.provider.title
    return FoundIssuer(entry, title, inspection.subject, (*suggestion.cautions, *inspection.notes))


def from_url(issuer: str, audiences: Sequence[str], client_ids: Sequence[str]) -> FoundIssuer:
    """Return the issuer with this `iss`. Raises NoIssuer when it takes an audience or a client, too."""
    if _WELL_KNOWN in issuer:
        raise NoIssuer(
            "this is the URL of the issuer's metadata, and not its `iss`",
            f"give what the metadata has as `issuer`, such as {issuer.partition(_WELL_KNOWN)[0]}",
        )
    known = recognised(Unverified({"alg": "RS256"}, {"iss": issuer, "aud": [*audiences]}))
    if known is not None:
        provider, recognition = known
        named = {
            name: value
            for name, value in recognition.parameters.items()
            if name not in ("audiences", "client_ids", "authorized_parties")
        }
        entry: IssuerSettings = {"name": "main", "preset": provider.name, **named}
        if audiences:
            entry["audiences"] = [*audiences]
        if client_ids and "client_ids" in provider.words:
            entry["client_ids"] = [*client_ids]
        unfolded = unfold(entry)
        if unfolded.faults:
            fault = unfolded.faults[0]
            raise NoIssuer(
                f"for {provider.title}: {fault.message}",
                _asks(fault.hint, may_be_client="client_ids" in provider.words),
            )
        if cast("IssuerSettings", unfolded.settings).get("issuer") == issuer:
            return FoundIssuer(entry, provider.title)
    if not audiences:
        raise NoIssuer(
            "the audience of its tokens is not known",
            "give --audience, the `aud` of its tokens, or a sample token (--token FILE)",
        )
    keys: IssuerSettings = {"discovery": True}
    return FoundIssuer({"name": "main", "issuer": issuer, "audiences": [*audiences], "keys": keys})


def named(found: FoundIssuer, name: str) -> FoundIssuer:
    """Return the issuer under another name."""
    return replace(found, entry={**found.entry, "name": name})


def _asks(hint: str | None, *, may_be_client: bool) -> str:
    options = "--audience, or --client-id" if may_be_client else "--audience"
    return f"give {options}, or a sample token (--token FILE){'' if hint is None else f': {hint}'}"
