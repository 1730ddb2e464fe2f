"""Settings → the parts that only the admin API and the console need."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from gateway import translation
from gateway.admin.endpoints.configuration import ShownSetting
from gateway.admin.health import Workers
from gateway.admin.sign_in.provider import Client, Provider
from gateway.admin.sign_in.routes import SignIn
from gateway.admin.sign_in.sessions import Role, Seal, Sessions
from gateway.settings import Settings
from gateway.settings.redaction import redacted
from gateway.telemetry.history import Recorder, Span
from gateway.telemetry.metrics import Metrics


def shown_settings(settings: Settings) -> Sequence[ShownSetting]:
    """Return all settings without secrets."""
    return redacted(settings)


def oidc_client(settings: Settings) -> Client | None:
    """Return the client that the console is at a provider; None: people sign in by the token alone."""
    admin = settings.admin
    if admin.oidc is None:
        return None
    roles = {Role.VIEWER: admin.oidc.roles.viewer, Role.OPERATOR: admin.oidc.roles.operator}
    return Client(
        issuer=admin.oidc.issuer,
        client_id=admin.oidc.client_id,
        client_secret=admin.oidc.client_secret.get_secret_value(),
        redirect_uri=admin.oidc.redirect_uri,
        scopes=admin.oidc.scopes,
        algorithms=frozenset(admin.oidc.algorithms),
        roles_claim=admin.oidc.roles.claim,
        roles={role: frozenset(values) for role, values in roles.items()},
    )


def sign_in(settings: Settings, stack: AsyncExitStack) -> SignIn | None:
    """Return the sign-in to the console; None: by the token alone. Its connections end with `stack`."""
    admin, client = settings.admin, oidc_client(settings)
    if admin.oidc is None or client is None:
        return None
    fetcher = translation.fetcher(settings.jwks)
    stack.push_async_callback(fetcher.close)
    context = [
        client.issuer, client.client_id, client.redirect_uri, client.roles_claim,
        *(f"{role}:{value}" for role, values in client.roles.items() for value in sorted(values)),
    ]  # fmt: skip
    seal = Seal(client.client_secret, context)
    sessions = Sessions(seal, console=client.redirect_uri, lifetime=admin.oidc.session_lifetime)
    return SignIn(Provider(client, fetcher), seal, sessions)


def history(
    metrics: Metrics, workers: Workers | None, stack: AsyncExitStack
) -> Callable[[int], Awaitable[Sequence[Span]]]:
    """Return the reader of the last hours' counters. A process alone records them until `stack` ends."""
    if workers is not None:
        return workers.history
    recorder = Recorder(metrics.snapshot)
    stack.push_async_callback(recorder.close)
    recorder.start()
    return recorder.latest
