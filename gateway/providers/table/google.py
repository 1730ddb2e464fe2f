"""Google: ID tokens of Sign in with Google."""

from typing import Final

from gateway.providers.provider import (
    Example,
    Given,
    IssuerSettings,
    Kind,
    Parameter,
    Provider,
    Recognition,
    Unverified,
    expected,
)

_ISSUERS: Final = ("https://accounts.google.com", "accounts.google.com")
_CLIENT: Final = "1234567890-a1b2c3d4e5.apps.googleusercontent.com"
_MACHINE: Final = ".gserviceaccount.com"


def _settings(given: Given) -> IssuerSettings:
    clients = given.get("client_ids") or given.get("audiences")
    return {
        "issuer": "https://accounts.google.com",
        "audiences": clients,
        "algorithms": ["RS256"],
        "id_tokens": "allow",
        "expect": expected(azp=clients, hd=given.get("hosted_domain")),
        "require": ["exp", "iat", "sub", "azp"],
        "max_lifetime": "1h",
        "keys": {"jwks_uri": "https://www.googleapis.com/oauth2/v3/certs"},
    }


def _recognise(token: Unverified) -> Recognition | None:
    if token.text("iss") not in _ISSUERS:
        return None
    email = token.text("email") or ""
    clients = [*token.audiences]
    azp = token.text("azp")
    if email.endswith(_MACHINE):
        note = (
            "A service account made this token, and a service account of any project can name any `aud`. The"
            " preset refuses it, because its `azp` is none of your clients."
        )
        return Recognition({"client_ids": [*clients]}, Kind.WORKLOAD, (note,))
    if azp is not None and azp not in clients:
        clients.append(azp)
    parameters: IssuerSettings = {"client_ids": [*clients]}
    if (domain := token.text("hd")) is not None:
        parameters["hosted_domain"] = domain
    notes = ["Google's ID tokens are meant for the client itself: the preset allows them as access tokens."]
    if token.text("iss") == _ISSUERS[1]:
        parameters["issuer"] = _ISSUERS[1]
        notes.append(
            "`iss` has no `https://`: an old library asked for it. Write `issuer` as it is in the token."
        )
    return Recognition(parameters, Kind.ID, tuple(notes))


GOOGLE: Final = Provider(
    name="google",
    title="Google",
    parameters=(
        Parameter(
            "client_ids",
            "Your OAuth clients: `aud` and `azp` must be among them. With Android or iOS, list the web"
            " client, too.",
            _CLIENT,
            "the ID of an OAuth client, as ….apps.googleusercontent.com",
            many=True,
            singular="client_id",
        ),
        Parameter(
            "hosted_domain",
            "Google Workspace domains whose users alone are accepted (`hd`).",
            "example.com",
            "a domain",
            many=True,
        ),
    ),
    needs=(("client_ids",),),
    client="azp",
    settings=_settings,
    recognise=_recognise,
    examples=(
        Example("Sign in with Google", {"client_ids": [_CLIENT]}),
        Example("Users of one Workspace", {"client_ids": [_CLIENT], "hosted_domain": ["example.com"]}),
    ),
    quirks=(
        "The access token (`ya29.…`) is opaque. What proves the user to a backend is the ID token, which the"
        " preset allows with `id_tokens: allow`.",
        "Every Google account can sign in, unless `hosted_domain` or the user table says who may. An address"
        " that ends with the domain proves nothing; `hd` does.",
        "A service account of any project can get an ID token with any `aud`, also yours. So the preset asks"
        " for `azp`, which is then the service account.",
        "On Android, `azp` is the Android client and `aud` the web client: write both into `client_ids`.",
        "Some old libraries get `iss: accounts.google.com`, without `https://`: write that as `issuer`.",
        "Refresh tokens begin with `1//`.",
    ),
    console=(
        "Client IDs: Google Cloud console › *Google Auth Platform* › *Clients*.",
        "Who may sign in: *Google Auth Platform* › *Audience*.",
    ),
    open_to="anyone with a Google account",
    prefixes={
        "ya29.": (Kind.ACCESS, "an opaque access token of Google, for Google's own APIs"),
        "1//": (Kind.REFRESH, "a Google refresh token"),
        "AIza": (Kind.API_KEY, "an API key of Google Cloud"),
        "GOCSPX-": (Kind.API_KEY, "the secret of a Google OAuth client"),
    },
)
