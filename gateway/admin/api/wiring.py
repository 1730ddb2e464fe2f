"""Builds the admin API from the gateway's parts."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from gateway.admin.api.router import api
from gateway.admin.api.write_through import WriteThrough
from gateway.admin.endpoints.audit import Audit
from gateway.admin.endpoints.configuration import Configuration, ShownSetting
from gateway.admin.endpoints.denials import Denials
from gateway.admin.endpoints.explain import Explain
from gateway.admin.endpoints.issuers import Caches, Issuers
from gateway.admin.endpoints.limits import Limits
from gateway.admin.endpoints.overview import Overview
from gateway.admin.endpoints.replay import Replays
from gateway.admin.endpoints.revocations import Revocations
from gateway.admin.endpoints.users import Users
from gateway.admin.health import Admin, Workers
from gateway.admin.sign_in.sessions import Sessions
from gateway.core.model import Issuer
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.explain import Explainer
from gateway.explain.fixes.applying import Applier
from gateway.explain.kept_denials import DenialExplainer
from gateway.identity.local_cache import LocalCache
from gateway.issuer_keys.introspection import Introspector
from gateway.issuer_keys.keyring import KeyRing
from gateway.limits.operators import Budgets
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.audit import AuditLog
from gateway.stores.postgres.directory.revocation_rows import RevocationRows
from gateway.stores.postgres.source.directory.users import AnyDirectory
from gateway.stores.redis.shared_tier import RedisTier
from gateway.telemetry.denials import DenialRing
from gateway.telemetry.history import Span
from gateway.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that the API uses. Their owner opens and closes them."""

    admin: Admin
    metrics: Metrics
    workers: Workers | None
    issuers: Mapping[str, Issuer]
    """By configured name."""
    postgres: Postgres
    directory: AnyDirectory
    redis: RedisTier
    local: LocalCache
    keys: KeyRing
    ring: DenialRing
    explainer: Explainer
    trusted: Callable[[], bool]
    """Whether memory is trusted."""
    introspector: Introspector | None
    """Asks the issuers of opaque tokens; None: there are none."""
    history: Callable[[int], Awaitable[Sequence[Span]]]
    """Returns what all workers have counted in the latest minutes."""
    settings: Sequence[ShownSetting]
    """All settings, without secrets."""
    budgets: Budgets | None
    """What limits leave; None without limits."""
    records: Path | None
    """Where requests are recorded; None: nowhere."""


def admin_api(parts: Parts, token: str | None, sessions: Sessions | None = None) -> web.Application:
    """Return the application below `/v1`. Without a token and sessions, the API is off."""
    iss = {name: issuer.issuer for name, issuer in parts.issuers.items()}
    directory, rows = parts.directory, RevocationRows(parts.postgres)
    audit = AuditLog(parts.postgres)
    write_through = WriteThrough(parts.local, parts.redis, IssuerNames(iss).by_iss)
    overview = Overview(parts.metrics, parts.admin, parts.workers, parts.history)
    explainer = parts.explainer
    of_denials = DenialExplainer(
        explainer.setup, parts.keys, directory, users=explainer.users, clocks=explainer.clocks
    )
    applier = Applier(directory, rows, audit, write_through, IssuerNames(iss))
    denials = Denials(parts.ring, parts.workers, of_denials)
    operations = [
        *Users(directory, write_through, iss).operations(),
        *Revocations(rows, directory, write_through, applier, parts.issuers, parts.introspector).operations(),
        *Issuers(parts.issuers, parts.keys, audit, overview, parts.workers).operations(),
        *Caches(overview, audit, write_through, parts.trusted).operations(),
        *denials.operations(),
        *Explain(explainer, denials, applier).operations(),
        *Limits(parts.budgets, audit, overview, parts.workers).operations(),
        *Replays(parts.records).operations(),
        *overview.operations(),
        *Audit(audit).operations(),
        *Configuration(parts.settings).operations(),
    ]
    application = api(operations, token, sessions)
    # End the streams first: aiohttp waits for open connections.
    application.on_shutdown.append(denials.close)
    return application
