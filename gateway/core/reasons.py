"""The catalogue of denial reasons: the one source for responses, metrics, logs and docs.

A client sees `title`, `code` and `detail` (RFC 9457), a status and, on 401 and 403, a challenge
(RFC 6750 §3). Reasons that would tell who exists are `concealed`: unless the operator asks for
full detail, the client sees `invalid_token` in their place. Operators always see the reason.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.model import Claims, Resolution, Route, Tier


class Group(StrEnum):
    """The area that a reason belongs to."""

    TOKEN = "token"  # noqa: S105 -- the name of a group, not a secret
    USER = "user"
    POLICY = "policy"
    OURS = "ours"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason for which a request is refused."""

    code: str
    group: Group
    status: int
    title: str
    """The text for the client."""
    hint: str
    """The text for the operator: what to do."""
    challenge: str | None = None
    """The `error` of the Bearer challenge; empty for a challenge without one (RFC 6750 §3.1)."""
    concealed: bool = False
    retry_after: int | None = None
    """Seconds until another try makes sense."""


CATALOGUE: Final[dict[str, Reason]] = {}


def _reason(
    code: str,
    group: Group,
    status: int,
    title: str,
    hint: str,
    *,
    challenge: str | None = None,
    concealed: bool = False,
    retry_after: int | None = None,
) -> Reason:
    reason = Reason(code, group, status, title, hint, challenge, concealed, retry_after)
    CATALOGUE[code] = reason
    return reason


def _token(code: str, title: str, hint: str) -> Reason:
    return _reason(code, Group.TOKEN, 401, title, hint, challenge="invalid_token")


def _user(code: str, title: str, hint: str) -> Reason:
    return _reason(code, Group.USER, 401, title, hint, challenge="invalid_token", concealed=True)


def _ours(code: str, title: str, hint: str) -> Reason:
    return _reason(code, Group.OURS, 503, title, hint, retry_after=5)


# Token ------------------------------------------------------------------------------------------

CREDENTIALS_MISSING = _reason(
    "credentials_missing",
    Group.TOKEN,
    401,
    "This resource needs a bearer token",
    "No Authorization field, and no token in the places of the route's `credentials`.",
    challenge="",
)
CREDENTIALS_MALFORMED = _token(
    "credentials_malformed",
    "The Authorization field is not a bearer credential",
    "Expected: the scheme Bearer and one token with the characters of RFC 6750 §2.1.",
)
CREDENTIALS_MULTIPLE = _reason(
    "credentials_multiple",
    Group.TOKEN,
    400,
    "More than one credential was sent",
    "Two fields, or a field and a cookie, are ambiguous. A proxy in front may add its own.",
    challenge="invalid_request",
)
ORIGIN_NOT_ALLOWED = _reason(
    "origin_not_allowed",
    Group.TOKEN,
    403,
    "This resource cannot be used from another site",
    "A token in a cookie needs an Origin that is the request's host or in the route's `allowed_origins`."
    " A preflight needs one in the route's `cors.origins`.",
)
TOKEN_MALFORMED = _token(
    "token_malformed",
    "The token is not a signed JWT",
    "Not a compact JWS with JSON (RFC 7515 §3.1). Opaque tokens need an issuer with `introspection`;"
    " JWE is not supported.",
)
TOKEN_TOO_LARGE = _token(
    "token_too_large",
    "The token is too large",
    "Tokens may have up to 16 KiB. Long lists of groups or permissions are a usual cause.",
)
TOKEN_TYPE_INVALID = _token(
    "token_type_invalid",
    "The token is of another type",
    "`typ` must be in the issuer's `token_types`, or without these be absent, JWT or at+jwt (RFC 9068 §2.1).",
)
ALGORITHM_NOT_ALLOWED = _token(
    "algorithm_not_allowed",
    "The token's signature algorithm is not accepted",
    "`alg` must be in the issuer's `algorithms` and fit the type of the key that `kid` names.",
)
CRITICAL_HEADER_UNSUPPORTED = _token(
    "critical_header_unsupported",
    "The token needs an extension that is not supported",
    "The `crit` header names extensions (RFC 7515 §4.1.11). The gateway supports none.",
)
ISSUER_MISSING = _token(
    "issuer_missing",
    "The token names no issuer",
    "The token has no `iss`, or it is not a string.",
)
ISSUER_UNTRUSTED = _token(
    "issuer_untrusted",
    "The token's issuer is not accepted",
    "`iss` equals no configured `issuers[].issuer`. A trailing slash matters.",
)
KEY_UNKNOWN = _token(
    "key_unknown",
    "The token was signed with an unknown key",
    "The issuer's key set has no key with this `kid`: it was rotated out, or another issuer made the token.",
)
SIGNATURE_INVALID = _token(
    "signature_invalid",
    "The token's signature is not valid",
    "The key of the `kid` did not make this signature: the token was altered, or signed with another key.",
)
TOKEN_EXPIRED = _token(
    "token_expired",
    "The token has expired",
    "`exp` has passed: the client should refresh the token. If tokens expire early, compare the clocks.",
)
TOKEN_NOT_YET_VALID = _token(
    "token_not_yet_valid",
    "The token is not valid yet",
    "`nbf` is in the future; compare the clocks of issuer and gateway, or raise `leeway`.",
)
TOKEN_ISSUED_IN_FUTURE = _token(
    "token_issued_in_future",
    "The token is dated in the future",
    "`iat` is in the future; compare the clocks of issuer and gateway, or raise `leeway`.",
)
TOKEN_LIFETIME_TOO_LONG = _token(
    "token_lifetime_too_long",
    "The token lives longer than is accepted",
    "`exp` − `iat` exceeds the issuer's `max_lifetime`, or one of them is missing.",
)
AUDIENCE_MISMATCH = _token(
    "audience_mismatch",
    "The token is meant for another audience",
    "No value of `aud` is in the issuer's `audiences`.",
)
CLAIM_MISSING = _token(
    "claim_missing",
    "The token lacks a required claim",
    "A claim of the issuer's `require`, or the tenant of its `claims`, is not in the token.",
)
CLAIM_MALFORMED = _token(
    "claim_malformed",
    "A claim of the token is malformed",
    "A registered claim has a type or value that RFC 7519 §4.1 does not allow.",
)
CLAIM_NOT_ACCEPTED = _token(
    "claim_not_accepted",
    "A claim of the token has a value that is not accepted",
    "The issuer's `expect` does not hold, or `cnf` binds the token to a key: the detail names the claim.",
)
ID_TOKEN_NOT_ACCEPTED = _token(
    "id_token_not_accepted",
    "The token is not an access token",
    "An ID, refresh or logout token: the client should send its access token. See the issuer's `id_tokens`.",
)
SUBJECT_MISSING = _token(
    "subject_missing",
    "The token names no subject",
    "There is no claim at the issuer's `subject`, by default `sub`. Tokens of machine clients may lack it.",
)
SUBJECT_MALFORMED = _token(
    "subject_malformed",
    "The token's subject is malformed",
    "`sub`, or the issuer's `subject`, must be a string of 1 to 255 characters, none of them a control.",
)
TOKEN_INACTIVE = _token(
    "token_inactive",
    "The token is not active",
    "The issuer says so of this opaque token: it has expired, was revoked, or was never issued.",
)
TOKEN_REVOKED = _token(
    "token_revoked",
    "The token has been revoked",
    "Its `jti` is on the blacklist: `gateway revocations list` shows since when and why.",
)

# User -------------------------------------------------------------------------------------------

USER_NOT_FOUND = _user(
    "user_not_found",
    "The token's subject has no user",
    "No row of `identities` has this (issuer, subject): `gateway users add` or `gateway users link`.",
)
ACCOUNT_NOT_LINKED = _user(
    "account_not_linked",
    "The token's subject has no user, but its e-mail address belongs to one",
    "No user is provisioned for an address that is taken: `gateway users link`, if it is the same person.",
)
USER_DELETED = _user(
    "user_deleted",
    "The token's user was deleted",
    "The user is soft-deleted: `gateway users restore` brings it back.",
)
USER_SUSPENDED = _user(
    "user_suspended",
    "The token's user is suspended",
    "`gateway users activate` ends the suspension.",
)
USER_LOCKED = _user(
    "user_locked",
    "The token's user is locked",
    "`gateway users activate` unlocks the user.",
)
USER_PENDING = _user(
    "user_pending",
    "The token's user is not active yet",
    "`gateway users activate` completes the registration.",
)
TOKENS_REVOKED_BEFORE = _user(
    "tokens_revoked_before",
    "The token was issued before its issuer's or user's tokens were revoked",
    "A revocation of user or issuer, or `tokens_valid_after`, is later than `iat`: sign in again.",
)
TENANT_MISMATCH = _reason(
    "tenant_mismatch",
    Group.USER,
    403,
    "The token's tenant is not the user's",
    "The tenant claim, the user's `tenant` and the route's `require.tenant` must agree.",
    challenge="invalid_token",
    concealed=True,
)

# Policy -----------------------------------------------------------------------------------------

SCOPE_INSUFFICIENT = _reason(
    "scope_insufficient",
    Group.POLICY,
    403,
    "The token's scope does not cover this resource",
    "The route's `require.scopes` must all be in the token.",
    challenge="insufficient_scope",
)
ROLE_MISSING = _reason(
    "role_missing",
    Group.POLICY,
    403,
    "The user lacks a role that this resource needs",
    "The user needs one of `require.roles` (`gateway users change --add-role`), the token of `token_roles`.",
)
CONDITION_NOT_MET = _reason(
    "condition_not_met",
    Group.POLICY,
    403,
    "A condition of this resource is not met",
    "The route's `require.condition` is false: `gateway explain` shows the values that it read.",
)
CONDITION_FAILED = _reason(
    "condition_failed",
    Group.POLICY,
    403,
    "A condition of this resource cannot be evaluated",
    "The route's `require.condition` has no value, as when it reads a claim that is missing: see the detail.",
)
RATE_LIMITED = _reason(
    "rate_limited",
    Group.POLICY,
    429,
    "There are too many requests",
    "A rate of `limits` has nothing left for its user, client or other subject: see `Retry-After`.",
)
QUOTA_EXCEEDED = _reason(
    "quota_exceeded",
    Group.POLICY,
    429,
    "The quota is used up",
    "A quota of `limits` is used up until its next day or month begins: `Retry-After` says when.",
)
CONCURRENCY_EXCEEDED = _reason(
    "concurrency_exceeded",
    Group.POLICY,
    429,
    "There are too many requests at the same time",
    "A concurrency of `limits` is in use: a request must end before the next one of its kind may begin.",
)

# Ours -------------------------------------------------------------------------------------------

KEYS_UNAVAILABLE = _ours(
    "keys_unavailable",
    "The issuer's keys are not available at the moment",
    "The issuer's keys cannot be fetched: see `/readyz` and `gateway_jwks_refreshes_total`.",
)
ASSERTION_UNAVAILABLE = _ours(
    "assertion_unavailable",
    "The user's identity cannot be signed at the moment",
    "No key of `assertion` could be read yet: see `dependency_down` of `assertion_keys` in the log.",
)
INTROSPECTION_UNAVAILABLE = _ours(
    "introspection_unavailable",
    "The token cannot be checked at the moment",
    "The issuer's introspection endpoint fails: see `/readyz` and `gateway_introspections_total`.",
)
USER_STORE_UNAVAILABLE = _ours(
    "user_store_unavailable",
    "The user store is not available at the moment",
    "Neither Postgres nor a cached entry could answer: see `/readyz`.",
)
REVOCATION_UNAVAILABLE = _ours(
    "revocation_unavailable",
    "Revocations cannot be checked at the moment",
    "Neither Redis nor Postgres could answer. `revocation.on_unavailable` decides whether to deny.",
)
OVERLOADED = _ours(
    "overloaded",
    "The gateway is overloaded",
    "All connections are in use, and too many requests wait or waited too long: see"
    " `gateway_upstream_connections`.",
)

INTERNAL_ERROR = _ours(
    "internal_error",
    "The gateway failed to handle this request",
    "A bug in the gateway: the log has a traceback with this request id. Please report it.",
)

# Proxy ------------------------------------------------------------------------------------------

ROUTE_NOT_FOUND = _reason(
    "route_not_found",
    Group.PROXY,
    404,
    "Nothing is served here",
    "No route matches host and path: `gateway check` lists the routes.",
)
FRONT_NOT_TRUSTED = _reason(
    "front_not_trusted",
    Group.PROXY,
    403,
    "Decisions are not for this peer",
    "The decision listener answers only the proxies in `decision.trusted_proxies`.",
)
METHOD_NOT_ALLOWED = _reason(
    "method_not_allowed",
    Group.PROXY,
    405,
    "This method is not served here",
    "A route matches the path but not the method.",
)
METHOD_NOT_IMPLEMENTED = _reason(
    "method_not_implemented",
    Group.PROXY,
    501,
    "This method is not known here",
    "The method is an unusual one: it is forwarded where the route's `match.methods` names it.",
)
REQUEST_MALFORMED = _reason(
    "request_malformed",
    Group.PROXY,
    400,
    "The request is malformed",
    "Not HTTP as in RFC 9112, or an ambiguous path (dot segments, `%2f`, `;`, `//`: see `match.allow`).",
)
REQUEST_TOO_LARGE = _reason(
    "request_too_large",
    Group.PROXY,
    431,
    "The request's head is too large",
    "See `field_size`, `header_count` and `head_size` of `server.limits`. Cookies are the usual cause.",
)
TARGET_TOO_LONG = _reason(
    "target_too_long",
    Group.PROXY,
    414,
    "The request's target is too long",
    "Path and query exceed `server.limits.target_length`.",
)
BODY_TOO_LARGE = _reason(
    "body_too_large",
    Group.PROXY,
    413,
    "The request's body is too large",
    "It exceeds the route's `max_body`, or `server.limits.body_size` if the route has none.",
)
REQUEST_TIMEOUT = _reason(
    "request_timeout",
    Group.PROXY,
    408,
    "The request did not arrive in time",
    "See `server.limits`: `header_timeout` limits the head, `body_min_rate` the body.",
)
CONNECTIONS_EXCEEDED = _reason(
    "connections_exceeded",
    Group.PROXY,
    429,
    "There are too many connections from this address",
    "See `server.limits.connections_per_client`. List a proxy in front in `server.trusted_proxies`.",
    retry_after=5,
)
UPSTREAM_UNREACHABLE = _reason(
    "upstream_unreachable",
    Group.PROXY,
    502,
    "The service behind the gateway cannot be reached",
    "The connection to the upstream failed: check that it runs, and its URL.",
)
UPSTREAM_TIMEOUT = _reason(
    "upstream_timeout",
    Group.PROXY,
    504,
    "The service behind the gateway did not answer in time",
    "No response head within `response_timeout`, or no connection within `connect_timeout`.",
)
UPSTREAM_PROTOCOL_ERROR = _reason(
    "upstream_protocol_error",
    Group.PROXY,
    502,
    "The service behind the gateway answered with something that is not HTTP",
    "The upstream's response could not be parsed, or it ended in the middle.",
)


class Denial(Exception):
    """The refusal of a request, with exactly one reason.

    `detail` is for operators (log, `explain`). A client sees it only with `errors.detail: full`. It never
    contains a token, a secret or a raw subject.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str | None = None,
        *,
        issuer: str | None = None,
        subject: str | None = None,
        tier: Tier | None = None,
        route: Route | None = None,
        allow: frozenset[str] = frozenset(),
        claim: str | None = None,
        realm: str | None = None,
    ) -> None:
        super().__init__(reason.code if detail is None else f"{reason.code}: {detail}")
        self.reason = reason
        self.detail = detail
        self.issuer = issuer
        """The configured name of the issuer, once known; never a string from a token."""
        self.subject = subject
        """The subject of a verified token."""
        self.claims: Claims | None = None
        """The verified claims of the token, once it was verified."""
        self.resolution: Resolution | None = None
        """What was found out about the token's user, once it was looked up."""
        self.user_id: str | None = None
        """The id of the user who was found behind the token."""
        self.tier = tier
        self.route = route
        self.allow = allow
        """The methods served at the target, for the Allow field of a 405 (RFC 9110 §15.5.6)."""
        self.realm = realm or issuer
        """The name of the issuer's keys (`Issuer.realm`): in no label and no answer."""
        self.claim = claim
        """The path of the claim that is missing or not accepted."""
        self.retry_after: int | None = None
        """Seconds until another try makes sense, if this denial knows better than its reason."""
        self.fields: tuple[tuple[str, str], ...] = ()
        """More header fields of the answer: names and values."""
