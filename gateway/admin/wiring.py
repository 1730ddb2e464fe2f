"""The admin API put together from what the gateway is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from gateway.admin.api import api
from gateway.admin.denials import Denials
from gateway.admin.diagnosis import Diagnosis
from gateway.admin.effects import Effects
from gateway.admin.figures import Figures
from gateway.admin.health import Admin, Crew
from gateway.admin.issuers import Caches, Issuers
from gateway.admin.revocations import Revocations
from gateway.admin.trail import Trail
from gateway.admin.users import Users
from gateway.backends.audit import AuditLog
from gateway.backends.directory import UserDirectory
from gateway.backends.jwks import KeyRing
from gateway.backends.local import LocalTier
from gateway.backends.postgres import Postgres
from gateway.backends.redis import Redis
from gateway.backends.revocation_rows import RevocationRows
from gateway.core.model import Issuer
from gateway.explain import Explainer
from gateway.telemetry.denials import DenialRing
from gateway.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Parts:
    """What the API reads and changes; everything remains its owner's to open and close."""

    admin: Admin
    metrics: Metrics
    crew: Crew | None
    issuers: Mapping[str, Issuer]
    """By configured name."""
    postgres: Postgres
    redis: Redis
    local: LocalTier
    keys: KeyRing
    ring: DenialRing
    explainer: Explainer
    trusted: Callable[[], bool]
    """Whether memory answers."""


def admin_api(parts: Parts, token: str | None) -> web.Application:
    """Return the application below `/v1`; without a token it is off."""
    iss = {name: issuer.issuer for name, issuer in parts.issuers.items()}
    directory, rows = UserDirectory(parts.postgres), RevocationRows(parts.postgres)
    audit = AuditLog(parts.postgres)
    effects = Effects(parts.local, parts.redis, {value: name for name, value in iss.items()})
    figures = Figures(parts.metrics, parts.admin, parts.crew)
    denials = Denials(parts.ring, parts.crew)
    operations = [
        *Users(directory, effects, iss).operations(),
        *Revocations(rows, directory, effects, parts.issuers).operations(),
        *Issuers(parts.issuers, parts.keys, audit, parts.crew).operations(),
        *Caches(figures, audit, effects, parts.trusted).operations(),
        *denials.operations(),
        *Diagnosis(parts.explainer).operations(),
        *figures.operations(),
        *Trail(audit).operations(),
    ]
    application = api(operations, token)
    # Connections are not waited for until their streams have ended.
    application.on_shutdown.append(denials.close)
    return application
