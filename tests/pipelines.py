"""A pipeline and its memo with prepared stores, and requests for them."""

from collections import defaultdict
from dataclasses import dataclass, field, replace

from gateway.conditions.expression import Expression
from gateway.core.admission import Admission
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import (
    JSON,
    Auth,
    Cors,
    CredentialSources,
    Header,
    Identity,
    Issuer,
    MissingUser,
    Request,
    Requirement,
    Route,
    User,
    UserStatus,
)
from gateway.core.routes import RouteTable
from gateway.core.tokens.jws import KeySet
from gateway.core.tokens.key_material import key_from_jwk
from gateway.memo import Memo, Tokens
from gateway.pipeline import Pipeline
from gateway.verifier import TokenVerifier
from tests.fakes import FakeDirectory, FakeKeys, FakeProvisioner
from tests.tokens import AUDIENCE, ISSUER, claims, ec_key, sign

NOW = 1_700_000_000
MAIN = Issuer("main", ISSUER, frozenset({AUDIENCE}), frozenset({"ES256"}), max_lifetime=600.0)
BROWSER = CredentialSources("session", "access_token", "bearer", frozenset({"https://page.example"}))
PRO = Expression('"admin" in user.roles || claims.jti == "jti-again"')
"""Part of the decision."""
OFFICE = Expression('request.path == "/office" && (client.ip == "203.0.113.9" || "admin" in user.roles)')
"""Evaluated for each request."""
LOUNGE = Expression('has(claims.sub) || client.ip == "203.0.113.9"')
"""Holds for requests without a token, too."""
_ROUTES = (
    Route("public", "/public/**", "echo", auth=Auth.NONE),
    Route("optional", "/optional/**", "echo", auth=Auth.OPTIONAL),
    Route("admin", "/admin/**", "echo", require=Requirement(roles=frozenset({"admin"}))),
    Route("orders", "/orders/**", "echo", require=Requirement(scopes=frozenset({"orders:read"}))),
    Route("acme", "/acme/**", "echo", require=Requirement(tenant="acme")),
    Route("read", "/read", "echo", methods=frozenset({"GET"})),
    Route("echo", "/echo/**", "echo"),
    Route("browser", "/browser/**", "echo", credentials=BROWSER),
    Route("leave", "/leave/**", "echo", allow_inactive=True),
    Route("welcome", "/welcome/**", "echo", missing_user=MissingUser.FORWARD),
    Route(
        "welcome-admin",
        "/welcome-admin/**",
        "echo",
        missing_user=MissingUser.FORWARD,
        require=Requirement(roles=frozenset({"admin"})),
    ),
    Route("join", "/join/**", "echo", missing_user=MissingUser.PROVISION),
    Route("shared", "/shared/**", "echo", cors=Cors(frozenset({"https://app.example"}))),
    Route("pro", "/pro/**", "echo", require=Requirement(condition=PRO)),
    Route("office", "/office/**", "echo", require=Requirement(condition=OFFICE)),
    Route("lounge", "/lounge/**", "echo", auth=Auth.OPTIONAL, require=Requirement(condition=LOUNGE)),
    Route("guest", "/guest/**", "echo", auth=Auth.OPTIONAL, credentials=BROWSER),
)
ROUTES = RouteTable(_ROUTES)
FORWARDING = RouteTable(replace(route, forward_authorization=True) for route in _ROUTES)
"""The same routes, which forward Authorization."""


def _users() -> dict[Identity, User]:
    users = {
        subject: User(f"id-{subject}", UserStatus.ACTIVE)
        for subject in ("member", "admin", "tenant", "revoked")
    }
    users["admin"] = replace(users["admin"], roles=("admin",))
    users["tenant"] = replace(users["tenant"], tenant="acme")
    users["revoked"] = replace(users["revoked"], tokens_valid_after=float(NOW))
    users |= {status.value: User(f"id-{status.value}", status) for status in UserStatus}
    return {Identity(ISSUER, subject): user for subject, user in users.items()}


@dataclass
class World:
    """A pipeline and what stands around it."""

    keys: FakeKeys = field(default_factory=lambda: FakeKeys(main=KeySet([key_from_jwk(ec_key().jwk())])))
    directory: FakeDirectory = field(default_factory=lambda: FakeDirectory(_users()))
    now: float = NOW
    forward_authorization: bool = False
    provisioner: FakeProvisioner = field(init=False)
    pipeline: Pipeline = field(init=False)
    memo: Memo = field(init=False)
    """The same way, with a memory."""

    def __post_init__(self) -> None:
        verifier = TokenVerifier([MAIN], self.keys, clock=lambda: self.now)
        identity = {"X-User-Id": "user.id", "X-Auth-Subject": "claims.sub"}
        headers = HeaderPolicy(HeaderRules(identity))
        self.provisioner = FakeProvisioner(self.directory)
        routes = FORWARDING if self.forward_authorization else ROUTES
        self.pipeline = Pipeline(routes, verifier, self.directory, headers, self.provisioner)
        tokens = Tokens(self.keys, lambda: self.now, 100, defaultdict(int))
        self.memo = Memo(self.pipeline, verifier, tokens, self.directory)


def payload(subject: str = "member", **changes: JSON) -> dict[str, JSON]:
    return {**claims(subject, now=NOW), **changes}


def token(subject: str = "member", **changes: JSON) -> bytes:
    return sign(payload(subject, **changes), ec_key())


def request(
    target: str = "/echo", *tokens: bytes, method: str = "GET", headers: tuple[Header, ...] = ()
) -> Request:
    bearers = ((b"Authorization", b"Bearer " + raw) for raw in tokens)
    return Request(
        method, target, ((b"Host", b"a.example"), *headers, *bearers), "203.0.113.9", "https", "r-1"
    )


def sent(admission: Admission) -> list[Header]:
    """Return the fields that the upstream is sent, beside Host."""
    fields = admission.forwarding.fields + admission.fields
    lines = (line.partition(b": ") for line in fields.removesuffix(b"\r\n").split(b"\r\n"))
    return [(name, value) for name, _, value in lines]
