"""Microsoft Entra ID, once Azure Active Directory: tokens of version 1 and 2, of one tenant or several."""

import re
from collections.abc import Iterator
from typing import Final

from gateway.core.model import JSON
from gateway.providers.provider import (
    Example,
    Fault,
    Given,
    IssuerSettings,
    Kind,
    Parameter,
    Provider,
    Recognition,
    Unverified,
    clients,
    expected,
)

_GUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_V2: Final = re.compile(
    rf"https://login\.(?:microsoftonline\.(?:com|us)|partner\.microsoftonline\.cn)/({_GUID})/v2\.0"
)
_V1: Final = re.compile(rf"https://sts\.(?:windows\.net|chinacloudapi\.cn)/({_GUID})/")
_ISSUERS: Final = {"v1": "https://sts.windows.net/", "v2": "https://login.microsoftonline."}
_OF_THE_WORLD: Final = ("https://sts.windows.net/", "https://login.microsoftonline.com/")
"""Not those of the clouds of the United States' government and of China."""
_CLIENT: Final = {"v1": "appid", "v2": "azp"}
_GUIDS: Final = "a tenant's ID, in lower case"
_TENANT: Final = "8a1c3b52-6f0e-4d1b-9a57-0d2f6c1e4b90"
_GRAPH: Final = frozenset(
    {
        "00000003-0000-0000-c000-000000000000",
        "00000002-0000-0000-c000-000000000000",
        "https://graph.microsoft.com",
    }
)
"""Microsoft's own APIs, whose tokens no other can check."""


def _settings(given: Given) -> IssuerSettings:
    version = str(given.get("version"))
    client = _CLIENT[version]
    many = given.get("tenants") is not None
    tenant = "{tenant}" if many else given.get("tenant")
    issuer = f"https://login.microsoftonline.com/{tenant}/v2.0"
    settings: IssuerSettings = {
        "issuer": issuer if version == "v2" else f"https://sts.windows.net/{tenant}/",
        "audiences": given.get("audiences"),
        "algorithms": ["RS256"],
        "expect": {
            "ver": "2.0" if version == "v2" else "1.0",
            **expected(**{client: given.get("client_ids"), "tid": tenant}),
        },
        "require": ["exp", "iat", "sub", "oid", "tid", client],
        "subject": "oid",
        "claims": {"scopes": "scp", "roles": "roles"},
        "keys": {"discovery": True},
    }
    if many:
        settings["tenants"] = given["tenants"]
    return settings


def _mistakes(given: Given) -> Iterator[Fault]:
    tenants, issuer, version = given.get("tenants"), given.get("issuer"), given.get("version")
    if None not in (tenants, given.get("tenant")):
        yield Fault(("tenant",), "is also given as tenants", "write tenants alone")
    for index, tenant in enumerate(tenants if isinstance(tenants, list) else ()):
        if isinstance(tenant, str) and re.fullmatch(_GUID, tenant) is None:
            yield Fault(("tenants", index), f"must be {_GUIDS}", f"write tenants: [{_TENANT}]")
    for other, beginning in _ISSUERS.items():
        if other != version and isinstance(issuer, str) and issuer.startswith(beginning):
            yield Fault(("issuer",), f"is that of tokens of version {other}", f"write version: {other}")


def _recognise(token: Unverified) -> Recognition | None:
    issuer = token.text("iss") or ""
    found, version = _V2.fullmatch(issuer), "v2"
    if found is None:
        found, version = _V1.fullmatch(issuer), "v1"
    if found is None:
        return None
    parameters: IssuerSettings = {"tenant": found[1]}
    if not issuer.startswith(_OF_THE_WORLD):
        parameters["issuer"] = issuer
    if version == "v1":
        parameters["version"] = "v1"
    client = token.text(_CLIENT[version])
    access = client is not None
    if access:
        parameters["audiences"] = [*token.audiences]
        parameters["client_ids"] = [client]
    notes: list[str] = []
    if _GRAPH.intersection(token.audiences):
        notes.append(
            "This token is for Microsoft Graph, and only Graph can check it: the client must ask for a scope"
            " of your own API, such as `api://…/access_as_user`."
        )
    if token.text("idtyp") == "app" or (access and token.text("scp") is None):
        notes.append("There is no `scp`: an application got this token for itself, not for a user.")
    return Recognition(parameters, Kind.ACCESS if access else Kind.ID, tuple(notes))


_API: Final[list[JSON]] = ["f1d2c3b4-5a69-4788-9b0c-1d2e3f4a5b6c"]
_WEB: Final[list[JSON]] = ["0c7b6a59-4837-4261-a5b4-c3d2e1f0a9b8"]

ENTRA: Final = Provider(
    name="entra",
    title="Microsoft Entra ID",
    parameters=(
        Parameter("tenant", "The tenant's ID (directory ID).", _TENANT, _GUIDS, _GUID),
        Parameter(
            "version",
            "The version of the access tokens, `v1` or `v2`: the API's registration decides, not the"
            " endpoint.",
            "v2",
            "v1 or v2",
            "v1|v2",
            default="v2",
        ),
        clients("azp`, in v1 `appid"),
    ),
    needs=(("tenant", "tenants", "issuer"), ("audiences",)),
    client="azp",
    settings=_settings,
    mistakes=_mistakes,
    slash=None,
    recognise=_recognise,
    examples=(
        Example("One tenant", {"tenant": _TENANT, "audiences": _API, "client_ids": _WEB}),
        Example(
            "One tenant, tokens of version 1",
            {"tenant": _TENANT, "version": "v1", "audiences": ["api://orders"], "client_ids": _WEB},
        ),
        Example(
            "Several tenants",
            {
                "tenants": [_TENANT, "77b2d1c0-9e8f-4a7b-8c6d-5e4f3a2b1c0d"],
                "audiences": _API,
                "client_ids": _WEB,
            },
        ),
    ),
    quirks=(
        "`sub` is another one for each application. The preset takes `oid`, the user's ID in the tenant;"
        " with several tenants, `claims.tenant` is the tenant in `iss`, and an identity is the pair of the"
        " tenant's issuer and the `oid`.",
        "`accessTokenAcceptedVersion` (`requestedAccessTokenVersion`) in the API's manifest decides the"
        " version: empty means `v1`, whichever endpoint the client uses.",
        "In `v2`, `aud` is the API's client ID; in `v1` mostly its application ID URI, `api://…`.",
        "A browser application and an API with one registration share their ID: then ID tokens have the"
        " API's `aud`. The preset refuses them, because only access tokens have `azp` (`appid`).",
        "Scopes of users are in `scp`, permissions of applications and roles of users in `roles`.",
        "A token for Microsoft Graph cannot be checked by others: its header has a `nonce`.",
        "With `tenants: any`, every Microsoft customer, and every personal account, can get a token. So let"
        " the user table, or `provisioning`, decide who gets in.",
    ),
    console=(
        "The tenant's ID: *Identity* › *Overview* › *Tenant ID*.",
        "The audience: *App registrations* › the API › *Overview* › *Application (client) ID*, and *Expose"
        " an API* › *Application ID URI*.",
        "The version: *App registrations* › the API › *Manifest* › `requestedAccessTokenVersion`: 2.",
        "Client IDs: *App registrations* › the client › *Application (client) ID*.",
    ),
)
