"""Settings → the values that the rooms understand, which know nothing of settings."""

from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import ClaimPaths, CredentialSources, Issuer, Requirement, Route
from gateway.explain import Setup
from gateway.issuer_keys.sources import (
    Discovery,
    JwksFile,
    JwksUri,
    KeySource,
    PemFile,
    Secret,
    SecretFile,
)
from gateway.proxy.downstream.limits import Limits
from gateway.proxy.upstream.options import Ejection, HealthCheck, TlsRules, UpstreamRules
from gateway.settings import Settings, model


def issuer(issuer: model.Issuer) -> Issuer:
    return Issuer(
        name=issuer.name,
        issuer=issuer.issuer,
        audiences=frozenset(issuer.audiences),
        algorithms=frozenset(issuer.algorithms),
        leeway=issuer.leeway,
        require=frozenset(issuer.require),
        max_lifetime=issuer.max_lifetime,
        claims=ClaimPaths(issuer.claims.tenant, issuer.claims.scopes, issuer.claims.roles),
    )


def route(route: model.Route, body_size: int) -> Route:
    return Route(
        name=route.name,
        path=route.match.path,
        upstream=route.upstream,
        methods=frozenset(route.match.methods),
        hosts=frozenset(route.match.hosts),
        auth=route.auth,
        require=Requirement(
            frozenset(route.require.scopes), frozenset(route.require.roles), route.require.tenant
        ),
        credentials=_credentials(route),
        upgrades=frozenset(route.upgrade),
        tunnel_timeout=route.tunnel_timeout,
        strip_prefix=route.strip_prefix or "",
        max_body=body_size if route.max_body is None else route.max_body,
        close_on_revocation=route.close_on_revocation,
    )


def _credentials(route: model.Route) -> CredentialSources | None:
    places = route.credentials
    if places.cookie is places.query is places.subprotocol is None:
        return None
    return CredentialSources(
        places.cookie, places.query, places.subprotocol, frozenset(route.allowed_origins)
    )


def limits(limits: model.Limits) -> Limits:
    # Alike by name; the size of a body is the routes'.
    return Limits(**limits.model_dump(exclude={"body_size"}))


def upstream(name: str, upstream: model.Upstream) -> UpstreamRules:
    ejection, tls, check = upstream.ejection, upstream.tls, upstream.health_check
    return UpstreamRules(
        name=name,
        urls=upstream.urls,
        connect_timeout=upstream.connect_timeout,
        response_timeout=upstream.response_timeout,
        idle_timeout=upstream.idle_timeout,
        keep_alive=upstream.keep_alive,
        max_age=upstream.max_age,
        max_connections=upstream.max_connections,
        max_pending=upstream.max_pending,
        retry_budget=upstream.retry_budget,
        ejection=Ejection(ejection.failures, ejection.base_time, ejection.max_time),
        dns_ttl=upstream.dns_ttl,
        host=upstream.host,
        tls=TlsRules(tls.verify, tls.ca, tls.certificate, tls.key, tls.server_name, tls.strict),
        health_check=None
        if check is None
        else HealthCheck(
            check.path, check.interval, check.timeout, check.healthy_after, check.unhealthy_after
        ),
    )


def headers(settings: Settings) -> HeaderPolicy:
    return HeaderPolicy(
        HeaderRules(
            settings.headers.identity,
            settings.headers.forward_authorization,
            settings.server.trusted_proxies,
        )
    )


def key_source(issuer: model.Issuer) -> KeySource:
    keys = issuer.keys
    if keys.jwks_uri is not None:
        return JwksUri(keys.jwks_uri)
    if keys.jwks_file is not None:
        return JwksFile(keys.jwks_file)
    if keys.pem_file is not None:
        return PemFile(keys.pem_file)
    if keys.secret is not None:
        return Secret(keys.secret.get_secret_value().encode())
    if keys.secret_file is not None:
        return SecretFile(keys.secret_file)
    return Discovery(issuer.issuer)


def setup(settings: Settings, config: str | None = None) -> Setup:
    """Tell an `Explainer` what it explains; `config` is the file to name in commands."""
    cache, body_size = settings.cache, settings.server.limits.body_size
    return Setup(
        issuers=[issuer(entry) for entry in settings.issuers],
        routes=[route(entry, body_size) for entry in settings.routes],
        local_ttl=cache.local_ttl,
        user_ttl=cache.user_ttl,
        negative_ttl=cache.negative_ttl,
        stale_if_error=cache.stale_if_error,
        creation_grace=settings.users.creation_grace,
        unchecked_allowed=settings.revocation.on_unavailable == "allow",
        prefix=settings.redis.prefix,
        schema=settings.postgres.schema_name,
        config=config,
    )
