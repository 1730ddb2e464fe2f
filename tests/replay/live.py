"""Live verdicts, recorded as a gateway records them."""

from dataclasses import dataclass, field, replace
from typing import Final

from gateway.conditions.expression import Expression
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import JSON, Identity, Request, Requirement, Route, User, UserStatus
from gateway.core.reasons import Denial
from gateway.core.routes import RouteTable
from gateway.pipeline import Pipeline
from gateway.replay.records import Recorded, Sample, decode, encode
from gateway.verifier import TokenVerifier
from tests.pipelines import _ROUTES, MAIN, NOW, World, request, token
from tests.tokens import ISSUER

PLAN: Final = Expression('user.attributes.plan == "pro" && "orders:read" in claims.scopes')
ROUTES: Final = (
    *(each for each in _ROUTES if each.name not in {"office"}),
    Route("plan", "/plan/**", "echo", require=Requirement(condition=PLAN)),
    Route("mail", "/mail/**", "echo", require=Requirement(condition=Expression('user.email != "x"'))),
)


@dataclass
class Live:
    """The plain way, which keeps all claims, with the users of `World`."""

    routes: tuple[Route, ...] = ROUTES
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        users = self.world.directory.users
        for number in range(20):
            identity = Identity(ISSUER, f"u{number}")
            plan: JSON = "pro" if number % 3 else "free"
            roles = ("admin",) if number % 4 == 0 else ()
            users[identity] = User(
                f"id-u{number}", UserStatus.ACTIVE if number % 7 else UserStatus.SUSPENDED, None,
                f"u{number}@example.org", "U", roles, {"plan": plan},
            )  # fmt: skip
        verifier = TokenVerifier([MAIN], self.world.keys, clock=lambda: self.world.now, claims_read=None)
        self.pipeline = Pipeline(
            RouteTable(self.routes, forwards=True),
            verifier,
            self.world.directory,
            HeaderPolicy(HeaderRules({})),
            self.world.provisioner,
        )

    async def verdict(self, request: Request) -> str:
        try:
            await self.pipeline.admit(request)
        except Denial as denial:
            return denial.reason.code
        return "allow"

    async def line(self, request: Request) -> bytes | None:
        """Return the record of a request."""
        try:
            admission = await self.pipeline.admit(request)
        except Denial as denial:
            return encode(Sample(request, float(NOW), None, denial, forwards=True), {"main": "sub"})
        return encode(Sample(request, float(NOW), admission, None, forwards=True), {"main": "sub"})

    async def recorded(self, request: Request) -> Recorded | None:
        line = await self.line(request)
        return None if line is None else decode(line)


PATHS: Final = (
    "/echo",
    "/admin/x",
    "/orders/7",
    "/plan",
    "/public",
    "/optional",
    "/acme",
    "/pro",
    "/lounge",
    "/mail",
)
SECRET: Final = "Secret-In-Query"


def requests(number: int) -> list[Request]:
    """Return requests of many users on many routes, some without a good token."""
    found: list[Request] = []
    for index in range(number):
        path, subject = PATHS[index % len(PATHS)], f"u{index // 3 % 23}"
        scope = ("orders:read", "orders:write", "")[index % 5 % 3]
        raw = token(subject, scope=scope, email=f"{subject}@example.org", name="Anne Bell", jti=f"j{index}")
        query = f"?key={SECRET}" if index % 11 == 0 else ""
        tokens = () if index % 13 == 0 else (b"opaque",) if index % 17 == 0 else (raw,)
        asked = request(path + query, *tokens, method="POST" if index % 19 == 0 else "GET")
        found.append(replace(asked, peer="198.51.100.1") if index % 2 else asked)
    return found
