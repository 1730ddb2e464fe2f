"""Amazon Cognito user pools: access tokens, or ID tokens."""

import re
from collections.abc import Iterator
from typing import Final

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

_POOL: Final = r"[a-z]{2}(?:-[a-z]+)+-[0-9]_[A-Za-z0-9]+"
_ISSUER: Final = re.compile(
    rf"https://(?:cognito-idp\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?|issuer\.cognito-idp\.[a-z0-9-]+\.amazonaws\.com)/({_POOL})"
)


def _settings(given: Given) -> IssuerSettings:
    pool = str(given.get("pool"))
    region = given.get("region") or pool.partition("_")[0]
    domain = "amazonaws.com.cn" if str(region).startswith("cn-") else "amazonaws.com"
    settings: IssuerSettings = {
        "issuer": f"https://cognito-idp.{region}.{domain}/{pool}",
        "algorithms": ["RS256"],
        "max_lifetime": "24h",
        "keys": {"discovery": True},
    }
    if given.get("token") == "id":
        return {
            **settings,
            "audiences": given.get("client_ids"),
            "id_tokens": "allow",
            "expect": {"token_use": "id"},
            "require": ["exp", "iat", "sub", "token_use", "cognito:username"],
            "claims": {"roles": "cognito:groups"},
        }
    return {
        **settings,
        "audiences": given.get("audiences"),
        "expect": {"token_use": "access", **expected(client_id=given.get("client_ids"))},
        "require": ["exp", "iat", "sub", "token_use", "client_id"],
        "claims": {"scopes": "scope", "roles": "cognito:groups"},
    }


def _mistakes(given: Given) -> Iterator[Fault]:
    pool, region = given.get("pool"), given.get("region")
    its_own = str(pool).partition("_")[0]
    if None not in (pool, region) and region != its_own:
        yield Fault(("region",), f"is not the region of the pool {pool}", f"write region: {its_own}")


def _recognise(token: Unverified) -> Recognition | None:
    found = _ISSUER.fullmatch(token.text("iss") or "")
    if found is None:
        return None
    parameters: IssuerSettings = {"region": found[1].partition("_")[0], "pool": found[1]}
    if token.text("token_use") == "id":
        parameters |= {"token": "id", "client_ids": [*token.audiences]}
        return Recognition(parameters, Kind.ID)
    client = token.text("client_id")
    if client is not None:
        parameters["client_ids"] = [client]
    if token.audiences:
        parameters["audiences"] = [*token.audiences]
    notes: tuple[str, ...] = ()
    if not token.audiences:
        notes = ("An access token of Cognito has no `aud`, so the preset goes by the client (`client_id`).",)
    if token.text("username") is None and client is not None and token.text("sub") == client:
        notes += ("`sub` is the client: a machine got this token (client credentials), not a user.",)
    return Recognition(parameters, Kind.ACCESS if token.text("token_use") == "access" else None, notes)


_PARAMETERS: Final[IssuerSettings] = {
    "region": "eu-west-1",
    "pool": "eu-west-1_AbCdEf123",
    "client_ids": ["4f8k2m0p7q1r9s3t5u6v"],
}

COGNITO: Final = Provider(
    name="cognito",
    title="Amazon Cognito",
    parameters=(
        Parameter("pool", "The user pool's ID.", "eu-west-1_AbCdEf123", "the ID of a user pool", _POOL),
        Parameter(
            "region",
            "The pool's region. It is the beginning of the pool's ID, and may be left out.",
            "eu-west-1",
            "a region",
            r"[a-z]{2}(?:-[a-z]+)+-[0-9]",
        ),
        clients("client_id"),
        Parameter(
            "token",
            "Which tokens clients send: `access`, or `id`, where the app client's ID is the `aud`.",
            "access",
            "access or id",
            "access|id",
            default="access",
        ),
    ),
    needs=(("pool", "issuer"), ("client_ids",)),
    client="client_id",
    settings=_settings,
    mistakes=_mistakes,
    recognise=_recognise,
    examples=(
        Example("Access tokens", _PARAMETERS),
        Example("ID tokens", {**_PARAMETERS, "token": "id"}),
    ),
    quirks=(
        "An access token has no `aud`, unless the client asks for a resource. The preset goes by"
        " `client_id`.",
        "`token_use` tells access tokens (`access`) from ID tokens (`id`). API Gateway's authorizers of user"
        " pools take ID tokens when no scope is configured; that is why many clients send them.",
        "Groups are in `cognito:groups`, which the preset takes for roles.",
        "Scopes of a user who signed in with the SDK are only `aws.cognito.signin.user.admin`.",
        "A refresh token is an encrypted token (five segments, `RSA-OAEP`): it is refused as"
        " `token_malformed`.",
        "`sub` of a machine's token (client credentials) is the client's ID.",
    ),
    console=(
        "The pool's ID and region: *Cognito* › *User pools* › the pool › *Overview*.",
        "Client IDs: the pool › *App clients*.",
        "Scopes: the pool › *Branding* › *Domain* › *Resource servers*.",
    ),
)
