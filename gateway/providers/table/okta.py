"""Okta, Workforce Identity Cloud."""

import re
from typing import Final

from gateway.core.model import JSON
from gateway.providers.provider import (
    A_HOST,
    HOST,
    Example,
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

_ISSUER: Final = re.compile(r"https://([^/]+)/oauth2/([^/]+)")
_ORG: Final = re.compile(r"https://([^/]+\.(?:okta|oktapreview|okta-emea)\.com)")


def _settings(given: Given) -> IssuerSettings:
    server = given.get("server")
    audiences: JSON = given.get("audiences")
    if audiences is None and server == "default":
        audiences = ["api://default"]
    settings: IssuerSettings = {
        "issuer": f"https://{given.get('domain')}/oauth2/{server}",
        "audiences": audiences,
        "algorithms": ["RS256"],
        "require": ["exp", "iat", "sub", "cid", "uid"],
        "subject": "uid",
        "claims": {"scopes": "scp", "roles": "groups"},
        "keys": {"discovery": True},
    }
    if given.get("client_ids") is not None:
        settings["expect"] = expected(cid=given["client_ids"])
    return settings


def _recognise(token: Unverified) -> Recognition | None:
    issuer = token.text("iss") or ""
    found, org = _ISSUER.fullmatch(issuer), _ORG.fullmatch(issuer)
    jti = token.text("jti") or ""
    if org is not None:
        kind = Kind.ID if jti.startswith("ID.") else Kind.ACCESS
        note = (
            "The org authorization server issued this token, and only Okta itself can check its access"
            " tokens: let clients use a custom authorization server, such as `/oauth2/default`."
        )
        return Recognition({"domain": org[1], "server": "default"}, kind, (note,))
    if found is None or not jti.startswith(("AT.", "ID.")):
        return None
    access = jti.startswith("AT.")
    parameters: IssuerSettings = {"domain": found[1], "server": found[2]}
    if access and token.audiences and token.audiences != ["api://default"]:
        parameters["audiences"] = [*token.audiences]
    if access and (client := token.text("cid")) is not None:
        parameters["client_ids"] = [client]
    notes: tuple[str, ...] = ()
    if access and token.text("uid") is None:
        notes = ("There is no `uid`: a machine got this token (client credentials), not a user.",)
    return Recognition(parameters, Kind.ACCESS if access else Kind.ID, notes)


OKTA: Final = Provider(
    name="okta",
    title="Okta",
    parameters=(
        Parameter(
            "domain",
            "The organisation's domain, or its custom domain.",
            "shop.okta.com",
            f"{A_HOST}, and not that of the admin console",
            rf"(?!\S*-admin\.){HOST}",
        ),
        Parameter(
            "server",
            "The ID of the custom authorization server.",
            "default",
            "the ID of an authorization server",
            r"[A-Za-z0-9_-]+",
            default="default",
        ),
        clients("cid"),
    ),
    needs=(("domain", "issuer"),),
    client="cid",
    settings=_settings,
    recognise=_recognise,
    examples=(
        Example(
            "The authorization server `default`",
            {"domain": "shop.okta.com", "client_ids": ["0oa1bcd2efGHIJkl3m4"]},
        ),
        Example(
            "Another authorization server",
            {
                "domain": "shop.okta.com",
                "server": "aus9xyz8wvUTSrqp7o6",
                "audiences": ["https://api.example.com"],
                "client_ids": ["0oa1bcd2efGHIJkl3m4"],
            },
        ),
    ),
    quirks=(
        "`sub` of an access token is the user's login, mostly an e-mail address, which can change hands. The"
        " preset takes `uid`, which is the user's ID, and the `sub` of the ID token.",
        "A machine's token (client credentials) has no `uid`, and is refused. To accept machines, too, write"
        " `subject: sub` and `require: [exp, iat, sub]`: users are then named by their login.",
        "The client is in `cid`, scopes are a list in `scp`.",
        "Tokens of the org authorization server (`iss` without `/oauth2/…`) are for Okta's own API: their"
        " keys are not published, and the preset has no place for them.",
        "Groups are in no access token until a claim is added to the authorization server.",
    ),
    console=(
        "The authorization server, its issuer and its audience: *Security* › *API* › *Authorization"
        " Servers*.",
        "Groups: the authorization server › *Claims* › *Add Claim*: name `groups`, *Access Token*, *Groups*.",
        "Client IDs: *Applications* › the application › *General*.",
    ),
    prefixes={"SSWS ": (Kind.API_KEY, "an Okta API token")},
)
