"""All providers, by the name of their preset; and whose a token is."""

from collections.abc import Mapping
from typing import Final

from gateway.providers.provider import Kind, Provider, Recognition, Unverified
from gateway.providers.table.auth0 import AUTH0
from gateway.providers.table.clerk import CLERK
from gateway.providers.table.cognito import COGNITO
from gateway.providers.table.entra import ENTRA
from gateway.providers.table.firebase import FIREBASE
from gateway.providers.table.github_actions import GITHUB_ACTIONS
from gateway.providers.table.google import GOOGLE
from gateway.providers.table.keycloak import KEYCLOAK
from gateway.providers.table.kubernetes import KUBERNETES
from gateway.providers.table.okta import OKTA
from gateway.providers.table.supabase import SUPABASE

PROVIDERS: Final[Mapping[str, Provider]] = {
    provider.name: provider
    for provider in (
        KEYCLOAK,
        AUTH0,
        OKTA,
        ENTRA,
        COGNITO,
        SUPABASE,
        FIREBASE,
        GOOGLE,
        CLERK,
        GITHUB_ACTIONS,
        KUBERNETES,
    )
}
"""By the name of the preset."""

PARAMETERS: Final = frozenset(word for provider in PROVIDERS.values() for word in provider.words)
"""Every word that some preset takes."""


def recognised(token: Unverified) -> tuple[Provider, Recognition] | None:
    """Return whose marks a JWT has; None for a provider that is not known here."""
    for provider in PROVIDERS.values():
        found = provider.recognise(token)
        if found is not None:
            return provider, found
    return None


def by_prefix(token: str) -> tuple[Provider, Kind, str] | None:
    """Return whose token begins like this one, which is no JWT, and what it is."""
    for provider in PROVIDERS.values():
        for prefix, (kind, what) in provider.prefixes.items():
            if token.startswith(prefix):
                return provider, kind, what
    return None
