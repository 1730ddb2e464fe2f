"""Tokens that a provider signs, or that look as if it had, and that must not pass.

Each changes a good token (`shapes.py`): a claim that becomes None is removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.core.model import JSON
from tests.providers.shapes import NOW, OTHER_TENANT, TENANT, WEB, Claims, Shape

_AT: Final = int(NOW)
_LOGOUT: Final[JSON] = {"http://schemas.openid.net/event/backchannel-logout": {}}


@dataclass(frozen=True)
class Wrong:
    """One token that must be refused, and with which reason."""

    name: str
    reason: str
    payload: Claims
    header: Claims


def wrong(
    name: str, reason: str, header: Claims | None = None, also: Claims | None = None, **payload: JSON
) -> Wrong:
    """`also` has claims whose names are no words of Python."""
    return Wrong(name, reason, {**payload, **(also or {})}, header or {})


def of_any_provider(shape: Shape) -> Iterator[Wrong]:
    """Yield what no preset may accept."""
    issuer = str(shape.payload["iss"])
    yield wrong("expired", "token_expired", exp=_AT - 3600, iat=_AT - 3700)
    yield wrong("never expires", "claim_missing", exp=None)
    yield wrong("exp in milliseconds", "claim_malformed", exp=(_AT + 300) * 1000)
    yield wrong("exp as text", "claim_malformed", exp=str(_AT + 300))
    yield wrong("no iat", "claim_missing", iat=None)
    yield wrong("issued in the future", "token_issued_in_future", iat=_AT + 600, exp=_AT + 650)
    yield wrong("not yet valid", "token_not_yet_valid", nbf=_AT + 40)
    yield wrong("logout token", "id_token_not_accepted", events=_LOGOUT)
    yield wrong("logout token by its header", "token_type_invalid", {"typ": "logout+jwt"})
    yield wrong("DPoP proof", "token_type_invalid", {"typ": "dpop+jwt"})
    yield wrong("security event", "token_type_invalid", {"typ": "secevent+jwt"})
    yield wrong("bound to a key", "claim_not_accepted", cnf={"jkt": "0ZcOCORZNYy"})
    yield wrong("refresh token by typ", "id_token_not_accepted", typ="Refresh")
    yield wrong("offline token by typ", "id_token_not_accepted", typ="Offline")
    yield wrong("refresh token by token_use", "id_token_not_accepted", token_use="refresh")
    yield wrong(
        "another slash", "issuer_untrusted", iss=issuer[:-1] if issuer.endswith("/") else f"{issuer}/"
    )
    yield wrong("http", "issuer_untrusted", iss=issuer.replace("https:", "http:"))
    yield wrong("host in capitals", "issuer_untrusted", iss=issuer.upper())
    yield wrong("staging", "issuer_untrusted", iss=issuer.replace("https://", "https://staging."))
    yield wrong("no iss", "issuer_missing", iss=None)
    yield wrong(
        "no sub", "subject_missing" if shape.subject == shape.payload["sub"] else "claim_missing", sub=None
    )
    yield wrong("extension that must be understood", "critical_header_unsupported", {"crit": ["b64"]})


_ENTRA: Final = (
    wrong("another tenant in tid", "claim_not_accepted", tid=OTHER_TENANT),
    wrong("another API", "audience_mismatch", aud="d0e1f2a3-b4c5-4d6e-8f90-a1b2c3d4e5f6"),
    wrong("Microsoft Graph", "audience_mismatch", aud="00000003-0000-0000-c000-000000000000"),
    wrong("no oid", "subject_missing", oid=None),
    wrong("no tid", "claim_not_accepted", tid=None),
    wrong("signed by a consumer's tenant", "issuer_untrusted",
          iss="https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"),
    wrong("the endpoint common", "issuer_untrusted", iss="https://login.microsoftonline.com/common/v2.0"),
    wrong("the cloud of another country", "issuer_untrusted",
          iss=f"https://login.partner.microsoftonline.cn/{TENANT}/v2.0"),
)  # fmt: skip

_COGNITO_ISSUERS: Final = (
    wrong("another pool", "issuer_untrusted",
          iss="https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Other0000"),
    wrong("another region", "issuer_untrusted",
          iss="https://cognito-idp.us-east-1.amazonaws.com/eu-west-1_AbCdEf123"),
    wrong("lives for a week", "token_lifetime_too_long", exp=_AT + 7 * 86_400),
)  # fmt: skip

OF_PROVIDER: Final[dict[str, tuple[Wrong, ...]]] = {
    "keycloak": (
        wrong("another client", "claim_not_accepted", azp="admin-cli"),
        wrong("no client", "claim_not_accepted", azp=None),
        wrong("ID token", "id_token_not_accepted", typ="ID", aud="web", at_hash="x", nonce="n"),
        wrong("ID token without marks but typ", "id_token_not_accepted", typ="ID"),
        wrong("bound by DPoP", "claim_not_accepted", typ="DPoP"),
        wrong("no typ", "claim_not_accepted", typ=None),
        wrong("another realm", "issuer_untrusted", iss="https://sso.example.com/realms/master"),
        wrong("the path of old versions", "issuer_untrusted", iss="https://sso.example.com/auth/realms/shop"),
    ),
    "auth0": (
        wrong("ID token", "audience_mismatch", aud="Yp3tQyKX2vq1nT8s", azp=None, scope=None,
              permissions=None),
        wrong("ID token with nonce and the API's audience", "id_token_not_accepted", nonce="n"),
        wrong("for /userinfo alone", "audience_mismatch", aud="https://shop.eu.auth0.com/userinfo"),
        wrong("another API", "audience_mismatch", aud=["https://billing.example.com"]),
        wrong("the management API", "audience_mismatch", aud="https://shop.eu.auth0.com/api/v2/"),
        wrong("another client", "claim_not_accepted", azp="0therClient"),
        wrong("no client", "claim_not_accepted", azp=None),
        wrong("another tenant", "issuer_untrusted", iss="https://other.eu.auth0.com/"),
        wrong("another region", "issuer_untrusted", iss="https://shop.us.auth0.com/"),
        wrong("no audience", "audience_mismatch", aud=None),
    ),
    "okta": (
        wrong("ID token", "audience_mismatch", aud="0oa1bcd2efGHIJkl3m4", jti="ID.x", cid=None),
        wrong("ID token with the API's audience", "id_token_not_accepted", at_hash="x"),
        wrong("a machine's", "subject_missing", uid=None, sub="0oa1bcd2efGHIJkl3m4"),
        wrong("another client", "claim_not_accepted", cid="0oaOTHER"),
        wrong("no client", "claim_not_accepted", cid=None),
        wrong("another authorization server", "issuer_untrusted", iss="https://shop.okta.com/oauth2/aus9xyz"),
        wrong("the org authorization server", "issuer_untrusted", iss="https://shop.okta.com"),
        wrong("its header", "token_type_invalid", {"typ": "application/okta-internal-at+jwt"}),
        wrong("another organisation", "issuer_untrusted", iss="https://other.okta.com/oauth2/default"),
        wrong("preview", "issuer_untrusted", iss="https://shop.oktapreview.com/oauth2/default"),
        wrong("another API", "audience_mismatch", aud="api://billing"),
    ),
    "entra-v2": (
        *_ENTRA,
        wrong("ID token of one registration for both", "claim_not_accepted", azp=None, azpacr=None, scp=None),
        wrong("ID token with nonce", "id_token_not_accepted", nonce="n"),
        wrong("another client", "claim_not_accepted", azp=OTHER_TENANT),
        wrong("another tenant", "issuer_untrusted",
              iss=f"https://login.microsoftonline.com/{OTHER_TENANT}/v2.0"),
        wrong("version 1", "issuer_untrusted", iss=f"https://sts.windows.net/{TENANT}/", ver="1.0"),
        wrong("version 1 with the other's issuer", "claim_not_accepted", ver="1.0"),
    ),
    "entra-v1": (
        *_ENTRA,
        wrong("ID token", "claim_not_accepted", appid=None, appidacr=None, scp=None),
        wrong("ID token with nonce", "id_token_not_accepted", nonce="n"),
        wrong("another client", "claim_not_accepted", appid=OTHER_TENANT),
        wrong("the client in azp", "claim_not_accepted", appid=None, azp=WEB),
        wrong("another tenant", "issuer_untrusted", iss=f"https://sts.windows.net/{OTHER_TENANT}/"),
        wrong("version 2", "issuer_untrusted", iss=f"https://login.microsoftonline.com/{TENANT}/v2.0",
              ver="2.0"),
        wrong("version 2 with the other's issuer", "claim_not_accepted", ver="2.0"),
    ),
    "entra-multi-tenant": (
        *_ENTRA,
        wrong("the pattern in tid", "claim_not_accepted", tid="{tenant}"),
        wrong("ID token of one registration for both", "claim_not_accepted", azp=None, azpacr=None, scp=None),
        wrong("ID token with nonce", "id_token_not_accepted", nonce="n"),
        wrong("another client", "claim_not_accepted", azp=OTHER_TENANT),
        wrong("a tenant that is not listed", "issuer_untrusted",
              iss="https://login.microsoftonline.com/deadbeef-0000-4000-8000-000000000000/v2.0"),
        wrong("a tenant with a path", "issuer_untrusted",
              iss=f"https://login.microsoftonline.com/{TENANT}/x/v2.0"),
        wrong("an empty tenant", "issuer_untrusted", iss="https://login.microsoftonline.com//v2.0"),
        wrong("the pattern itself", "issuer_untrusted",
              iss="https://login.microsoftonline.com/{tenant}/v2.0"),
        wrong("version 1", "issuer_untrusted", iss=f"https://sts.windows.net/{TENANT}/", ver="1.0"),
        wrong("version 1 with the other's issuer", "claim_not_accepted", ver="1.0"),
    ),
    "cognito-access": (
        *_COGNITO_ISSUERS,
        wrong("ID token", "id_token_not_accepted", token_use="id", client_id=None,
              aud="4f8k2m0p7q1r9s3t5u6v"),
        wrong("another client", "claim_not_accepted", client_id="other0other0other0"),
        wrong("no client", "claim_not_accepted", client_id=None),
        wrong("no token_use", "claim_not_accepted", token_use=None),
        wrong("a token_use of its own", "claim_not_accepted", token_use="ACCESS"),
        wrong("token_use as a list", "claim_not_accepted", token_use=[["access"]]),
    ),
    "cognito-id": (
        *_COGNITO_ISSUERS,
        wrong("access token", "audience_mismatch", token_use="access", aud=None,
              client_id="4f8k2m0p7q1r9s3t5u6v"),
        wrong("access token with an audience", "claim_not_accepted", token_use="access"),
        wrong("another client", "audience_mismatch", aud="other0other0other0"),
        wrong("no token_use", "claim_not_accepted", token_use=None),
        wrong("no audience", "audience_mismatch", aud=None),
        wrong("no user name", "claim_missing", also={"cognito:username": None}),
    ),
    "supabase": (
        wrong("the anon key", "issuer_untrusted", iss="supabase", role="anon", sub=None, aud=None),
        wrong("the service_role key", "issuer_untrusted", iss="supabase", role="service_role", sub=None,
              aud=None),
        wrong("service_role with this issuer", "claim_not_accepted", role="service_role"),
        wrong("anon with this issuer", "claim_not_accepted", role="anon"),
        wrong("another role", "claim_not_accepted", role="supabase_admin"),
        wrong("no role", "claim_not_accepted", role=None),
        wrong("no session", "claim_missing", session_id=None),
        wrong("another audience", "audience_mismatch", aud="anon"),
        wrong("no audience", "audience_mismatch", aud=None),
        wrong("another project", "issuer_untrusted", iss="https://zyxwvutsrqponmlkjihg.supabase.co/auth/v1"),
        wrong("without its path", "issuer_untrusted", iss="https://abcdefghijklmnopqrst.supabase.co"),
        wrong("ID token", "id_token_not_accepted", nonce="n"),
    ),
    "firebase": (
        wrong("another project", "issuer_untrusted", iss="https://securetoken.google.com/shop-99999",
              aud="shop-99999"),
        wrong("another project's audience", "audience_mismatch", aud="shop-99999"),
        wrong("no audience", "audience_mismatch", aud=None),
        wrong("session cookie", "issuer_untrusted", iss="https://session.firebase.google.com/shop-12345"),
        wrong("custom token", "issuer_untrusted",
              iss="firebase-adminsdk@shop-12345.iam.gserviceaccount.com",
              aud="https://identitytoolkit.googleapis.com/google.identity.identitytoolkit.v1.IdentityToolkit"),
        wrong("Google's own ID token", "issuer_untrusted", iss="https://accounts.google.com"),
        wrong("no auth_time", "claim_missing", auth_time=None),
        wrong("not Firebase's", "claim_missing", firebase=None),
        wrong("no provider", "claim_missing", firebase={"identities": {}}),
        wrong("lives for two hours", "token_lifetime_too_long", exp=_AT + 7200),
    ),
    "google": (
        wrong("another client", "audience_mismatch", aud="999-x.apps.googleusercontent.com"),
        wrong("for this client, from another", "claim_not_accepted", azp="999-x.apps.googleusercontent.com"),
        wrong("a service account's", "claim_not_accepted", azp="117310462309786421905",
              email="x@evil.iam.gserviceaccount.com", hd=None),
        wrong("no azp", "claim_not_accepted", azp=None),
        wrong("no audience", "audience_mismatch", aud=None),
        wrong("another Workspace", "claim_not_accepted", hd="example.org"),
        wrong("a private account", "claim_not_accepted", hd=None),
        wrong("a private account with such an address", "claim_not_accepted", hd=None, email="x@example.com"),
        wrong("Firebase", "issuer_untrusted", iss="https://securetoken.google.com/shop-12345"),
        wrong("the issuer of old libraries", "issuer_untrusted", iss="accounts.google.com"),
        wrong("lives for two hours", "token_lifetime_too_long", exp=_AT + 7200),
    ),
    "clerk": (
        wrong("another application", "claim_not_accepted", azp="https://other.example.com"),
        wrong("another port", "claim_not_accepted", azp="https://app.example.com:8443"),
        wrong("another scheme", "claim_not_accepted", azp="http://app.example.com"),
        wrong("a longer host", "claim_not_accepted", azp="https://app.example.com.evil.example"),
        wrong("no application", "claim_not_accepted", azp=None),
        wrong("a JWT template's", "claim_missing", sid=None),
        wrong("the development instance", "issuer_untrusted", iss="https://happy-cat-12.clerk.accounts.dev"),
        wrong("another instance", "issuer_untrusted", iss="https://clerk.example.org"),
        wrong("no nbf", "claim_missing", nbf=None),
        wrong("lives for a day", "token_lifetime_too_long", exp=_AT + 86_400),
        wrong("ID token", "id_token_not_accepted", nonce="n"),
        wrong("OAuth ID token", "id_token_not_accepted", at_hash="x", aud="client"),
    ),
    "github-actions": (
        wrong("another repository", "claim_not_accepted", repository="octo-org/other"),
        wrong("another account", "claim_not_accepted", repository="evil/octo-repo",
              repository_owner_id="666"),
        wrong("an account that took the name", "claim_not_accepted", repository_owner_id="666"),
        wrong("the number as a number", "claim_not_accepted", repository_owner_id=65),
        wrong("no repository", "claim_not_accepted", repository=None),
        wrong("no owner", "claim_not_accepted", repository_owner_id=None),
        wrong("another environment", "claim_not_accepted", environment="staging"),
        wrong("no environment", "claim_not_accepted", environment=None),
        wrong("the audience that GitHub gives by itself", "audience_mismatch",
              aud="https://github.com/octo-org"),
        wrong("for AWS", "audience_mismatch", aud="sts.amazonaws.com"),
        wrong("an enterprise's issuer", "issuer_untrusted",
              iss="https://token.actions.githubusercontent.com/octo"),
        wrong("an enterprise server", "issuer_untrusted", iss="https://github.example.com/_services/token"),
        wrong("lives for a day", "token_lifetime_too_long", exp=_AT + 86_400),
        wrong("no jti", "claim_missing", jti=None),
    ),
    "kubernetes": (
        wrong("another service account", "claim_not_accepted", sub="system:serviceaccount:shop:default"),
        wrong("another namespace", "claim_not_accepted", sub="system:serviceaccount:other:checkout",
              also={"kubernetes.io": {"namespace": "other", "serviceaccount": {"uid": "u"}}}),
        wrong("another namespace in the claim alone", "claim_not_accepted",
              also={"kubernetes.io": {"namespace": "other", "serviceaccount": {"uid": "u"}}}),
        wrong("no namespace", "claim_not_accepted",
              also={"kubernetes.io": {"serviceaccount": {"name": "checkout", "uid": "u"}}}),
        wrong("a name with dots that only looks like it", "claim_missing",
              also={"kubernetes.io": None, "kubernetes": {"io": {"namespace": "shop"}}}),
        wrong("not bound", "claim_missing", also={"kubernetes.io": None}),
        wrong("a person", "claim_not_accepted", sub="kubernetes-admin"),
        wrong("for the API server", "audience_mismatch",
              aud=["https://kubernetes.default.svc.cluster.local"]),
        wrong("another service's", "audience_mismatch", aud=["vault"]),
        wrong("old, from a Secret", "issuer_untrusted", iss="kubernetes/serviceaccount", exp=None, aud=None),
        wrong("another cluster", "issuer_untrusted",
              iss="https://oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF"),
        wrong("no nbf", "claim_missing", nbf=None),
        wrong("ID token", "id_token_not_accepted", nonce="n"),
    ),
}  # fmt: skip
"""By the name of the shape."""
