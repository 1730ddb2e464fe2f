"""What is sent in place of a token: an empty variable, a password, a key, a document, another token.

Nothing here returns a part of a secret, except its last four characters.
"""

# ruff: noqa: E501 -- tables read better with one entry a line

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gateway.providers.catalogue import by_prefix
from gateway.providers.provider import Kind

Class: TypeAlias = Literal["placeholder", "password", "api_key", "refresh", "encrypted", "opaque", "document"]


@dataclass(frozen=True, slots=True)
class NoToken:
    """What a text is that is no signed JWT."""

    kind: Class
    what: str
    """In words, with an article."""
    advice: str
    ending: str = ""
    """Its last four characters, if it is long enough to hide the rest."""


_PLACEHOLDERS: Final = {
    "undefined": "`undefined`: a JavaScript variable without a value",
    "null": "`null`: a variable without a value",
    "none": "`None`: a Python variable without a value",
    "nil": "`nil`: a variable without a value",
    "nan": "`NaN`: a number that is none",
    "true": "`true`, and no token",
    "false": "`false`, and no token",
    "[object object]": "`[object Object]`: a JavaScript object, written as text",
    "[object promise]": "`[object Promise]`: a JavaScript promise that was not awaited",
    "token": "the word `token`",
    "access_token": "the word `access_token`",
    "bearer": "the word `Bearer`, without a token",
    "jwt": "the word `jwt`",
    "xxx": "a placeholder",
    "todo": "a placeholder",
    "changeme": "a placeholder",
}
_TEMPLATES: Final = (
    (re.compile(r"\$\{?\{?[\w.\s:-]+\}?\}?"), "a shell variable that was not expanded (single quotes?)"),
    (re.compile(r"\$\(.*\)", re.DOTALL), "a shell command that was not executed (single quotes?)"),
    (re.compile(r"\{\{.*\}\}", re.DOTALL), "a template variable that was not filled in"),
    (re.compile(r"\{[\w.-]+\}"), "a template variable that was not filled in"),
    (re.compile(r"%\w+%"), "a Windows variable that was not expanded"),
    (re.compile(r"%[sdv@]|\$\d"), "a place in a format string that was not filled in"),
    (re.compile(r"[*•●]{3,}"), "a mask, which a log or a page shows in the place of a secret"),
    (re.compile(r"<%?=?[\w .:-]+%?>"), "a placeholder in angle brackets"),
    (re.compile(r"\[[\w .:-]+\]"), "a placeholder in square brackets"),
    (re.compile(r"(?:process\.env|os\.environ|import\.meta\.env)\W*\w*\W*"), "the name of a variable"),
    (re.compile(r"(?i:your|my|the|insert|paste|put)[-_ ]?[\w -]*(?i:token|key|jwt|here)"), "a placeholder"),
    (re.compile(r"function\b.*|.*=>.*|async .*", re.DOTALL), "the source of a function, which was not called"),
    (re.compile(r"<(?:function|bound method|coroutine|[\w.]+ object).*", re.DOTALL), "a Python object as text"),
)  # fmt: skip
_KEYS: Final = (
    (r"sk-ant-", "an API key of Anthropic"),
    (r"sk-or-", "an API key of OpenRouter"),
    (r"sk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{16,}", "an API key of OpenAI"),
    (r"rk_(?:live|test)_", "a restricted API key of Stripe"),
    (r"whsec_", "the secret of a webhook (Stripe, Clerk, Svix)"),
    (r"(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}", "the id of an AWS access key"),
    (r"AWS4-HMAC-SHA256", "an AWS signature (Signature Version 4)"),
    (r"FwoGZXIv|IQoJb3Jp", "a session token of AWS STS"),
    (r"xox[abeoprs]-|xapp-|xoxe\.", "a token of Slack"),
    (r"https://hooks\.slack\.com/", "the URL of a Slack webhook"),
    (r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent)-", "a token of GitLab"),
    (r"npm_", "an access token of npm"),
    (r"pypi-", "an API token of PyPI"),
    (r"do[opr]_v1_", "a token of DigitalOcean"),
    (r"SG\.[\w-]{16,}", "an API key of SendGrid"),
    (r"key-[0-9a-f]{32}", "an API key of Mailgun"),
    (r"(?:AC|SK)[0-9a-f]{32}", "a key of Twilio"),
    (r"hf_", "a token of Hugging Face"),
    (r"shp(?:at|ca|pa|ss)_", "a token of Shopify"),
    (r"dckr_(?:pat|oat)_", "a token of Docker Hub"),
    (r"sq0\w{3}-|EAAA[\w-]{20,}", "a token of Square or Facebook"),
    (r"lin_api_", "an API key of Linear"),
    (r"ntn_|secret_[A-Za-z0-9]{40,}", "a token of Notion"),
    (r"hvs\.|hvb\.|s\.[A-Za-z0-9]{24}$", "a token of HashiCorp Vault"),
    (r"PMAK-", "an API key of Postman"),
    (r"ATATT|ATCTT", "an API token of Atlassian"),
    (r"dapi[0-9a-f]{32}", "a token of Databricks"),
    (r"glsa_|glc_|eyJrIjoi", "a token of Grafana"),
    (r"dp\.(?:pt|st|ct|sa)\.", "a token of Doppler"),
    (r"r8_", "a token of Replicate"),
    (r"gsk_", "an API key of Groq"),
    (r"pat-(?:na|eu)\d-", "a token of HubSpot"),
    (r"pk\.eyJ|sk\.eyJ", "a token of Mapbox"),
    (r"cfut_|cfat_", "an API token of Cloudflare"),
    (r"sntry[su]_", "a token of Sentry"),
    (r"pscale_", "a token of PlanetScale"),
    (r"v1\.0-[0-9a-f]{20,}", "a CA key of Cloudflare"),
)  # fmt: skip
_KEY: Final = tuple((re.compile(pattern), what) for pattern, what in _KEYS)
_DOCUMENTS: Final = (
    (re.compile(r"\s*<\?xml|\s*<(?:\w+:)?(?:Response|Assertion|EncryptedAssertion)\b|PHNhbWx|PD94bW|PFJlc3Bv"),
     "a SAML assertion (XML)", "Let the client exchange it for an access token at its issuer (RFC 7522)."),
    (re.compile(r"\s*<(?:!doctype|html)", re.IGNORECASE), "an HTML page",
     "The request for the token was answered with a page, of a sign-in or an error: look at it."),
    (re.compile(r"-----BEGIN "), "a key or certificate in PEM",
     "A key is no token. If it is a private key, replace it: it has been sent."),
    (re.compile(r"https?://"), "a URL", "Send the token, and not the address from which it comes."),
    (re.compile(r"v[1-4]\.(?:local|public)\."), "a PASETO token", "Let the issuer issue JWT access tokens."),
    (re.compile(r"base64-eyJ"), "a session of Supabase, as its cookie has it (base64 of JSON)", "Let the client send the `access_token` that is in it."),
    (re.compile(r"gAAAA[\w-]{20,}"), "a Fernet token", "Let the issuer issue JWT access tokens."),
    (re.compile(r"Fe26\.2\*"), "a session of the library Iron", "Send the access token, not the sealed session."),
    (re.compile(r"s:[\w-]+\.[\w+/]+$"), "a signed session cookie of Express", "Send the access token."),
    (re.compile(r"MDA[\w-]{20,}|AgEU"), "a macaroon", "Let the client send an access token."),
    (re.compile(r"\d+\|[A-Za-z0-9]{40,}"), "a token of Laravel Sanctum", "Let the client send an access token."),
)  # fmt: skip
_SHORTENED: Final = re.compile(r"eyJ[\w-]*(?:\.[\w-]*){0,2}(?:\.{3,}|…|\*{2,}|•{2,}).*", re.DOTALL)
_JSON: Final[tuple[tuple[frozenset[str], Class, str, str], ...]] = (
    (frozenset({"keys"}), "document", "a key set (JWKS)", "Keys are no token. Send the access token."),
    (frozenset({"kty"}), "document", "a key (JWK)", "A key is no token. If it is a private key, replace it: it has been sent."),
    (frozenset({"jwks_uri"}), "document", "the discovery document of an issuer", "Send an access token of this issuer."),
    (frozenset({"code", "request_id"}), "document", "the gateway's answer to a refused request",
     "The gateway knows the request by its id: `gateway explain --request` with the `request_id`."),
    (frozenset({"error"}), "document", "an error of the issuer, in the place of a token", "Look at `error` and `error_description`: the issuer gave the client no token."),
    (frozenset({"refresh_token"}), "refresh", "an issuer's answer with a refresh token, and without an access token", "A refresh token is for its issuer alone: get an access token with it."),
    (frozenset({"iss", "sub"}), "document", "the decoded payload of a token", "Send the token itself: three parts with dots between them, as it was before it was decoded."),
    (frozenset({"iss", "exp"}), "document", "the decoded payload of a token", "Send the token itself: three parts with dots between them, as it was before it was decoded."),
    (frozenset({"alg"}), "document", "the decoded header of a token", "Send the token itself: three parts with dots between them, as it was before it was decoded."),
)  # fmt: skip
"""JSON documents by members that they have: the first that fits."""
_COOKIE: Final = re.compile(r"[\w.-]+=[^;=]+(?:;\s*[\w.-]+=[^;]*)*;?")
_UUID: Final = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
_MINIMUM: Final = 16
"""A shorter text shows nothing of itself: four characters would be too large a part."""
_SIGN_IN: Final = "Send the access token that the user received at sign-in."
_FILL_IN: Final = (
    "Look at the client: the token was not there yet, or was not put in, when it sent the request."
)


def named(text: str) -> NoToken | None:
    """Tell what a text is that is sent as a token and is none; None if nothing shows what it is."""
    text = text.strip().strip("\"'`")
    found = next(_guesses(text), None)
    if found is None or found.kind in {"placeholder", "password"} or len(text) < _MINIMUM:
        return found
    return NoToken(found.kind, found.what, found.advice, text[-4:] if text[-4:].isalnum() else "")


def _guesses(text: str) -> Iterator[NoToken]:
    if text.lower() in _PLACEHOLDERS:
        yield NoToken("placeholder", _PLACEHOLDERS[text.lower()], _FILL_IN)
    for pattern, what in _TEMPLATES:
        if pattern.fullmatch(text):
            yield NoToken("placeholder", what, _FILL_IN)
    for pattern, what, advice in _DOCUMENTS:
        if pattern.match(text):
            yield NoToken("document", what, advice)
    if re.match(r"basic\b", text, re.IGNORECASE) or _is_password(text):
        yield NoToken("password", "Basic credentials, a user name and a password", f"{_SIGN_IN} If this was a"
                       " client's id and secret, exchange them for a token at the issuer first (RFC 6749 §4.4).")  # fmt: skip
    yield from _keys(text)
    if _SHORTENED.fullmatch(text):
        yield NoToken("document", "a JWT that was shortened or masked, as logs and pages show it",
                       "Copy the complete token from where it comes, and not from where it is shown.")  # fmt: skip
    yield from _json(text)
    yield from _segments(text)
    if _UUID.fullmatch(text):
        yield NoToken("opaque", "a UUID: an opaque token, or the id of a session or a user", _OPAQUE)
    if "." not in text and _COOKIE.fullmatch(text) and not text.endswith("="):
        yield NoToken(
            "document", "a cookie", f"{_SIGN_IN} A route takes it from a cookie if `credentials` names it."
        )


_OPAQUE: Final = (
    "Let the issuer issue JWT access tokens, or, if it issues opaque ones, configure `introspection` for it."
)


def _keys(text: str) -> Iterator[NoToken]:
    known = by_prefix(text)
    what: str | None = None
    if known is not None:
        _, kind, what = known
        if kind is Kind.REFRESH:
            yield NoToken("refresh", what, "A refresh token is for its issuer alone: send the access token.")
        elif kind is not Kind.API_KEY:
            yield NoToken("opaque", what, _OPAQUE)
    else:
        what = next((name for pattern, name in _KEY if pattern.match(text)), None)
    if what is not None:
        yield NoToken("api_key", what, f"{_SIGN_IN} An API key names no user. If it is secret and was sent from a"
                       " browser or an app, replace it.")  # fmt: skip


def _is_password(text: str) -> bool:
    """Return whether a text is the base64 of `user:password` (RFC 7617 §2)."""
    if len(text) < 4 or len(text) % 4 or "." in text:
        return False
    try:
        octets = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return False
    return re.fullmatch(rb"[\x21-\x39\x3b-\x7e]+:[\x21-\x7e]+", octets) is not None


def _json(text: str) -> Iterator[NoToken]:
    """Name a JSON document, or a JWT in base64."""
    if text.startswith("ZXlK"):  # the base64 of `eyJ`
        yield NoToken(
            "document", "a JWT in base64, as in a Kubernetes secret", "Decode it first: `base64 -d`."
        )
    if re.match("65794a", text, re.IGNORECASE) and re.fullmatch("[0-9A-Fa-f]+", text):  # hexadecimal of `eyJ`
        yield NoToken("document", "a JWT in hexadecimal", "Send the token itself, as the issuer made it.")
    if text.startswith("H4sI"):
        yield NoToken(
            "document",
            "compressed data (gzip, in base64)",
            "Decode and decompress it first: the token is in it, if it is one.",
        )
    if not text.startswith("{") or len(text) > 65_536:
        return
    try:
        value, _ = json.JSONDecoder().raw_decode(text)  # header and payload may follow one another
    except (ValueError, RecursionError):
        return
    for members, kind, what, advice in _JSON:
        if isinstance(value, dict) and members <= value.keys():
            yield NoToken(kind, what, advice)


def _segments(text: str) -> Iterator[NoToken]:
    parts = text.split(".")
    header = _header(parts[0])
    if header is None:
        return
    if len(parts) > 3 and "enc" not in header and len(re.findall(r"eyJ[\w-]+\.eyJ", text)) > 1:
        yield NoToken("document", "several JWTs in one text", "Send one token.")
    elif len(parts) == 5 and "enc" in header:
        inner = " with a JWT inside (nested)" if str(header.get("cty", "")).upper() == "JWT" else ""
        algorithms = ", ".join(
            f"{name} {header[name]}"
            for name in ("alg", "enc")
            if re.fullmatch(r"[\w+-]{1,24}", str(header.get(name, "")))
        )
        of = f" ({algorithms})" if algorithms else ""
        yield NoToken("encrypted", f"an encrypted token (JWE){of}{inner}",
                       "Let the issuer sign access tokens without encrypting them: only the service that holds the"
                       " key can read this one. Auth0 encrypts those that a client requests without an `audience`.")  # fmt: skip
    elif len(parts) == 3 and str(header.get("cty", "")).upper() == "JWT":
        yield NoToken("encrypted", "a nested token: a JWT inside a signed one (RFC 7519 §5.2)",
                       "Let the client send the inner token, or the issuer one that is signed once.")  # fmt: skip
    elif len(parts) == 2:
        yield NoToken("document", "a JWT without its signature",
                       "Copy the complete token: it has three parts, with a dot between them.")  # fmt: skip
    elif len(parts) == 1 and "." not in text:
        yield NoToken("document", "one part of a JWT, or JSON in base64",
                       "Copy the complete token: it has three parts, with a dot between them.")  # fmt: skip


def _header(segment: str) -> dict[str, object] | None:
    if len(segment) > 4096:
        return None
    try:
        value = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        return None
    return value if isinstance(value, dict) else None
