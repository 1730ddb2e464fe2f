"""What `users.source` is for each of the tests' systems, as an operator writes it."""

from collections.abc import Mapping
from typing import Any, Final

from gateway import translation
from gateway.settings import Settings
from gateway.stores.postgres.source.definition import UserSource

ISS: Final = "https://idp.example.com/"
ISSUERS: Final = {"main": ISS}

BLOCKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "django": {"preset": "django", "provider": "oidc"},
    "django-allauth": {
        "preset": "django",
        "identities": [
            {
                "table": "socialaccount_socialaccount",
                "subject": "uid",
                "user": "user_id",
                "where": "provider = 'oidc'",
            }
        ],
    },
    "django-custom": {"preset": "django", "provider": "oidc", "table": "accounts_user"},
    "supabase": {"preset": "supabase"},
    "keycloak": {"preset": "keycloak", "changes": "triggers"},
    "authjs": {"preset": "authjs", "provider": "google"},
    "aspnet-identity": {"preset": "aspnet-identity", "provider": "OpenIdConnect"},
}


def configuration(block: Mapping[str, Any], **sections: object) -> dict[str, Any]:
    """Return a whole configuration whose users are in a source."""
    return {
        "issuers": [{"name": "main", "issuer": ISS, "audiences": ["api"]}],
        "postgres": {"dsn": "postgresql://gateway@localhost/gateway", "schema": "gateway"},
        "redis": {"url": "redis://localhost"},
        "upstreams": {"orders": {"urls": ["http://127.0.0.1:9000"]}},
        "routes": [{"name": "orders", "match": {"path": "/**"}, "upstream": "orders"}],
        "users": {"source": dict(block)},
        **sections,
    }


def source_of(block: Mapping[str, Any], **sections: object) -> UserSource:
    """Return the source that a block of the configuration means."""
    source = translation.user_source(Settings.model_validate(configuration(block, **sections)))
    assert source is not None
    return source
