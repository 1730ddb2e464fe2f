"""One token of each kind that each provider issues to users, in the shape that the provider publishes.

Each function returns header and payload. Times are those of `NOW`.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.core.model import JSON
from gateway.providers.provider import IssuerSettings, Kind

NOW: Final = 1_800_000_000.0
_AT: Final = int(NOW)

Claims: TypeAlias = dict[str, JSON]


@dataclass(frozen=True)
class Shape:
    """A token as a provider issues it, and the configuration that should accept it."""

    name: str
    preset: str
    parameters: IssuerSettings
    header: Claims
    payload: Claims
    kind: Kind
    subject: str
    """What the gateway takes for the subject."""
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    algorithm: str = "RS256"

    @property
    def entry(self) -> IssuerSettings:
        """The entry of `issuers`."""
        return {"name": "main", "preset": self.preset, **self.parameters}


def dates(lifetime: int, *names: str) -> Claims:
    """Return `iat`, `exp`, and other dates that are as early as `iat`."""
    return {"iat": _AT - 5, "exp": _AT - 5 + lifetime, **dict.fromkeys(names, _AT - 5)}


TENANT: Final = "8a1c3b52-6f0e-4d1b-9a57-0d2f6c1e4b90"
OTHER_TENANT: Final = "77b2d1c0-9e8f-4a7b-8c6d-5e4f3a2b1c0d"
API: Final = "f1d2c3b4-5a69-4788-9b0c-1d2e3f4a5b6c"
WEB: Final = "0c7b6a59-4837-4261-a5b4-c3d2e1f0a9b8"
OID: Final = "11f2e3d4-c5b6-47a8-9900-aabbccddeeff"

_KEYCLOAK: Final[Claims] = {
    **dates(300, "auth_time"),
    "jti": "onrtac:5f1c8f6e-6a3b-4d39-9c0a-2f1f2c7d9e10",
    "iss": "https://sso.example.com/realms/shop",
    "aud": "account",
    "sub": "9f2c7f3e-5b1a-4f0e-8a55-1f2a3b4c5d6e",
    "typ": "Bearer",
    "azp": "web",
    "sid": "c7a1e0b2-7d1f-4f83-9a3f-0f1e2d3c4b5a",
    "acr": "1",
    "allowed-origins": ["https://app.example.com"],
    "realm_access": {"roles": ["default-roles-shop", "editor"]},
    "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
    "scope": "openid profile email",
    "email_verified": True,
    "name": "Ann Example",
    "preferred_username": "ann",
    "email": "ann@example.com",
}

_AUTH0: Final[Claims] = {
    **dates(86_400),
    "iss": "https://shop.eu.auth0.com/",
    "sub": "auth0|65f1c2d3e4b5a697887a6b5c",
    "aud": ["https://api.example.com", "https://shop.eu.auth0.com/userinfo"],
    "azp": "Yp3tQyKX2vq1nT8s",
    "scope": "openid profile orders:read",
    "permissions": ["orders:write"],
}

_OKTA: Final[Claims] = {
    **dates(3600, "auth_time"),
    "ver": 1,
    "jti": "AT.MNAoEQ_jbKqoinrQo1D0XKjMX28U5d7ZszBceot7-Ts",
    "iss": "https://shop.okta.com/oauth2/default",
    "aud": "api://default",
    "cid": "0oa1bcd2efGHIJkl3m4",
    "uid": "00u1abcd2EFGHijkl3m4",
    "scp": ["openid", "orders:read"],
    "sub": "ann@example.com",
    "groups": ["Everyone", "editors"],
}

_ENTRA: Final[Claims] = {
    **dates(4500, "nbf"),
    "aud": API,
    "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
    "aio": "AWQAm/8bAAAAn1",
    "azp": WEB,
    "azpacr": "0",
    "name": "Ann Example",
    "oid": OID,
    "preferred_username": "ann@example.com",
    "rh": "1.AXQA",
    "roles": ["Orders.Approve"],
    "scp": "access_as_user",
    "sid": "005f0c4e-1a2b-4c3d-8e9f-0a1b2c3d4e5f",
    "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
    "tid": TENANT,
    "uti": "fqiBqXLPj0eQa82S-IYFAA",
    "ver": "2.0",
}

_ENTRA_V1: Final[Claims] = {
    **dates(4500, "nbf"),
    "aud": "api://orders",
    "iss": f"https://sts.windows.net/{TENANT}/",
    "acr": "1",
    "aio": "AXQAi/8IAAAAFm",
    "amr": ["pwd", "mfa"],
    "appid": WEB,
    "appidacr": "0",
    "family_name": "Example",
    "given_name": "Ann",
    "ipaddr": "203.0.113.7",
    "name": "Ann Example",
    "oid": OID,
    "rh": "0.AXQA",
    "roles": ["Orders.Approve"],
    "scp": "access_as_user",
    "sub": "l3_roISQU222bULS9yi2k0XpqpOiMz5H3ZACo1GeXA",
    "tid": TENANT,
    "unique_name": "ann@example.com",
    "upn": "ann@example.com",
    "uti": "FVsGxYXI30-TuikuuUoFAA",
    "ver": "1.0",
}

_POOL: Final = "eu-west-1_AbCdEf123"
_COGNITO: Final[Claims] = {
    **dates(3600, "auth_time"),
    "sub": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
    "cognito:groups": ["editors"],
    "iss": f"https://cognito-idp.eu-west-1.amazonaws.com/{_POOL}",
    "version": 2,
    "client_id": "4f8k2m0p7q1r9s3t5u6v",
    "origin_jti": "0d1e2f3a-4b5c-4d6e-8f90-a1b2c3d4e5f6",
    "event_id": "64f513be-32db-42b0-b78e-b02127b4f463",
    "token_use": "access",
    "scope": "openid orders/read",
    "jti": "1b2c3d4e-5f6a-4b7c-8d9e-0f1a2b3c4d5e",
    "username": "ann",
}

_COGNITO_ID: Final[Claims] = {
    **dates(3600, "auth_time"),
    "sub": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
    "cognito:groups": ["editors"],
    "email_verified": True,
    "iss": f"https://cognito-idp.eu-west-1.amazonaws.com/{_POOL}",
    "cognito:username": "ann",
    "at_hash": "kTDaqUGJL9uXAJGmVlsoNA",
    "origin_jti": "0d1e2f3a-4b5c-4d6e-8f90-a1b2c3d4e5f6",
    "aud": "4f8k2m0p7q1r9s3t5u6v",
    "event_id": "64f513be-32db-42b0-b78e-b02127b4f463",
    "token_use": "id",
    "jti": "7e9d3f1c-5b2a-4c8d-9e0f-1a2b3c4d5e6f",
    "email": "ann@example.com",
}

_SUPABASE: Final[Claims] = {
    **dates(3600),
    "iss": "https://abcdefghijklmnopqrst.supabase.co/auth/v1",
    "sub": "3f0c1d2e-4b5a-4697-8877-665544332211",
    "aud": "authenticated",
    "email": "ann@example.com",
    "phone": "",
    "app_metadata": {"provider": "email", "providers": ["email"], "roles": ["editor"]},
    "user_metadata": {"roles": ["admin"]},
    "role": "authenticated",
    "aal": "aal1",
    "amr": [{"method": "password", "timestamp": _AT - 5}],
    "session_id": "b1c2d3e4-f5a6-4b7c-8d9e-0f1a2b3c4d5e",
    "is_anonymous": False,
}

_FIREBASE: Final[Claims] = {
    **dates(3600, "auth_time"),
    "name": "Ann Example",
    "roles": ["editor"],
    "iss": "https://securetoken.google.com/shop-12345",
    "aud": "shop-12345",
    "user_id": "kQ3bV7xWzYp0aB1cD2eF3gH4iJ5k",
    "sub": "kQ3bV7xWzYp0aB1cD2eF3gH4iJ5k",
    "email": "ann@example.com",
    "email_verified": True,
    "firebase": {"identities": {"email": ["ann@example.com"]}, "sign_in_provider": "password"},
}

_GOOGLE_CLIENT: Final = "1234567890-a1b2c3d4e5.apps.googleusercontent.com"
_GOOGLE: Final[Claims] = {
    **dates(3600, "nbf"),
    "iss": "https://accounts.google.com",
    "azp": _GOOGLE_CLIENT,
    "aud": _GOOGLE_CLIENT,
    "sub": "110169484474386276334",
    "hd": "example.com",
    "email": "ann@example.com",
    "email_verified": True,
    "nonce": "n-0S6_WzA2Mj",
    "name": "Ann Example",
    "jti": "161a3b2c4d5e6f708192a3b4c5d6e7f8",
}

_CLERK: Final[Claims] = {
    **dates(60),
    "nbf": _AT - 15,
    "azp": "https://app.example.com",
    "fva": [7, -1],
    "iss": "https://clerk.example.com",
    "jti": "f7c1e2d3b4a596877869",
    "sid": "sess_2aBcDeFgHiJkLmNoPqRsTuVw",
    "sub": "user_2aBcDeFgHiJkLmNoPqRsTuVw",
    "v": 2,
    "pla": "u:free,o:pro",
    "fea": "o:dashboard",
    "o": {"id": "org_2aBcDeFg", "rol": "admin", "slg": "shop", "per": "manage,read", "fpm": "3"},
}

_GITHUB: Final[Claims] = {
    **dates(300),
    "nbf": _AT - 605,
    "jti": "6f0e1d2c-3b4a-4596-8778-695a4b3c2d1e",
    "sub": "repo:octo-org/octo-repo:environment:production",
    "environment": "production",
    "aud": "https://deploy.example.com",
    "ref": "refs/heads/main",
    "sha": "9f0e1d2c3b4a59687786954a3b2c1d0e9f8a7b6c",
    "repository": "octo-org/octo-repo",
    "repository_owner": "octo-org",
    "actor_id": "12",
    "repository_visibility": "private",
    "repository_id": "74",
    "repository_owner_id": "65",
    "run_id": "9530506789",
    "run_number": "10",
    "run_attempt": "2",
    "runner_environment": "github-hosted",
    "actor": "octocat",
    "workflow": "deploy",
    "head_ref": "",
    "base_ref": "",
    "event_name": "push",
    "ref_type": "branch",
    "job_workflow_ref": "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main",
    "iss": "https://token.actions.githubusercontent.com",
}

_KUBERNETES: Final[Claims] = {
    **dates(3607, "nbf"),
    "aud": ["orders"],
    "iss": "https://kubernetes.default.svc.cluster.local",
    "jti": "aed34954-b33a-4142-b1ec-389d6bbb4936",
    "kubernetes.io": {
        "namespace": "shop",
        "node": {"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
        "pod": {"name": "checkout-7d9f", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
        "serviceaccount": {"name": "checkout", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
        "warnafter": _AT + 3602,
    },
    "sub": "system:serviceaccount:shop:checkout",
}

_JWT: Final[Claims] = {"typ": "JWT"}
_ENTRA_PARAMETERS: Final[IssuerSettings] = {"tenant": TENANT, "audiences": [API], "client_ids": [WEB]}
_COGNITO_PARAMETERS: Final[IssuerSettings] = {
    "region": "eu-west-1",
    "pool": _POOL,
    "client_ids": ["4f8k2m0p7q1r9s3t5u6v"],
}

SHAPES: Final = (
    Shape(
        "keycloak",
        "keycloak",
        {"url": "https://sso.example.com", "realm": "shop", "client_ids": ["web", "mobile"]},
        _JWT,
        _KEYCLOAK,
        Kind.ACCESS,
        "9f2c7f3e-5b1a-4f0e-8a55-1f2a3b4c5d6e",
        ("openid", "profile", "email"),
        ("default-roles-shop", "editor"),
    ),
    Shape(
        "auth0",
        "auth0",
        {
            "domain": "shop.eu.auth0.com",
            "audiences": ["https://api.example.com"],
            "client_id": "Yp3tQyKX2vq1nT8s",
        },
        _JWT,
        _AUTH0,
        Kind.ACCESS,
        "auth0|65f1c2d3e4b5a697887a6b5c",
        ("openid", "profile", "orders:read", "orders:write"),
    ),
    Shape(
        "okta",
        "okta",
        {"domain": "shop.okta.com", "client_ids": ["0oa1bcd2efGHIJkl3m4"]},
        {"typ": None},
        _OKTA,
        Kind.ACCESS,
        "00u1abcd2EFGHijkl3m4",
        ("openid", "orders:read"),
        ("Everyone", "editors"),
    ),
    Shape(
        "entra-v2",
        "entra",
        _ENTRA_PARAMETERS,
        _JWT,
        _ENTRA,
        Kind.ACCESS,
        OID,
        ("access_as_user",),
        ("Orders.Approve",),
    ),
    Shape(
        "entra-v1",
        "entra",
        {"tenant": TENANT, "version": "v1", "audiences": ["api://orders"], "client_ids": [WEB]},
        {"typ": "JWT", "x5t": "nOo3ZDrODXEK1jKWhXslHR_KXEg"},
        _ENTRA_V1,
        Kind.ACCESS,
        OID,
        ("access_as_user",),
        ("Orders.Approve",),
    ),
    Shape(
        "entra-multi-tenant",
        "entra",
        {"tenants": [TENANT, OTHER_TENANT], "audiences": [API], "client_ids": [WEB]},
        _JWT,
        _ENTRA,
        Kind.ACCESS,
        OID,
        ("access_as_user",),
        ("Orders.Approve",),
    ),
    Shape(
        "cognito-access",
        "cognito",
        _COGNITO_PARAMETERS,
        {"typ": None},
        _COGNITO,
        Kind.ACCESS,
        "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
        ("openid", "orders/read"),
        ("editors",),
    ),
    Shape(
        "cognito-id",
        "cognito",
        {**_COGNITO_PARAMETERS, "token": "id"},
        {"typ": None},
        _COGNITO_ID,
        Kind.ID,
        "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
        (),
        ("editors",),
    ),
    Shape(
        "supabase",
        "supabase",
        {"project": "abcdefghijklmnopqrst"},
        _JWT,
        _SUPABASE,
        Kind.ACCESS,
        "3f0c1d2e-4b5a-4697-8877-665544332211",
        (),
        ("editor",),
        "ES256",
    ),
    Shape(
        "firebase",
        "firebase",
        {"project": "shop-12345"},
        _JWT,
        _FIREBASE,
        Kind.ID,
        "kQ3bV7xWzYp0aB1cD2eF3gH4iJ5k",
        (),
        ("editor",),
    ),
    Shape(
        "google",
        "google",
        {"client_ids": [_GOOGLE_CLIENT], "hosted_domain": ["example.com"]},
        _JWT,
        _GOOGLE,
        Kind.ID,
        "110169484474386276334",
    ),
    Shape(
        "clerk",
        "clerk",
        {"domain": "clerk.example.com", "authorized_parties": ["https://app.example.com"]},
        {"typ": "JWT", "cat": "cl_B7d4PD111AAA"},
        _CLERK,
        Kind.SESSION,
        "user_2aBcDeFgHiJkLmNoPqRsTuVw",
        (),
        ("admin",),
    ),
    Shape(
        "github-actions",
        "github-actions",
        {
            "audiences": ["https://deploy.example.com"],
            "repositories": ["octo-org/octo-repo"],
            "owner_ids": ["65"],
            "environments": ["production"],
        },
        {"typ": "JWT", "x5t": "example-thumbprint"},
        _GITHUB,
        Kind.WORKLOAD,
        "repo:octo-org/octo-repo:environment:production",
    ),
    Shape(
        "kubernetes",
        "kubernetes",
        {
            "issuer": "https://kubernetes.default.svc.cluster.local",
            "audiences": ["orders"],
            "service_accounts": ["shop/checkout"],
            "namespaces": ["shop"],
        },
        {"typ": None},
        _KUBERNETES,
        Kind.WORKLOAD,
        "system:serviceaccount:shop:checkout",
    ),
)
