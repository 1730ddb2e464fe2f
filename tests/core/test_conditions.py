"""The place of a condition among the requirements of a route, and what it sees of a request."""

from dataclasses import dataclass, field, replace

import pytest

from gateway.core.conditions import Reading, RequestCheck
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import (
    JSON,
    Auth,
    Claims,
    CredentialSources,
    Identity,
    MissingUser,
    Provisioning,
    Request,
    Requirement,
    Route,
    User,
    UserStatus,
)
from gateway.core.policy import authorize, authorize_without_user, check_once, claims_read, request_check
from gateway.core.provisioning import claims_read as of_provisioning
from gateway.core.provisioning import new_user
from gateway.core.reasons import CONDITION_NOT_MET, Denial
from gateway.core.requests.asked import Asked, asked
from gateway.core.routes import RouteTable
from tests.core.test_policy import claims, user
from tests.pipelines import MAIN


@dataclass
class Fake:
    """`gateway.core.conditions.Condition` and `Computed`, as they are told to be."""

    true: bool = True
    per_request: bool = False
    reads_now: bool = False
    text: str = "fake"
    reads: tuple[tuple[str, ...], ...] = ()
    claims_read: frozenset[str] = frozenset({"plan"})
    seen: list[tuple[Claims | None, User | None]] = field(default_factory=list)

    def check(self, claims: Claims | None, user: User | None) -> None:
        self.seen.append((claims, user))
        if not self.true:
            raise Denial(CONDITION_NOT_MET, "fake")

    def prepare(self, claims: Claims | None, user: User | None) -> RequestCheck:
        def check(request: Request, route: Route) -> None:
            self.check(claims, user)

        return check

    def readings(self, _: Claims | None, __: User | None, ___: Asked | None) -> tuple[Reading, ...]:
        return ()

    def header(self, _: Claims, user: User | None) -> JSON:
        return None if user is None else user.status.value


def route(condition: Fake, **changes: object) -> Route:
    return Route("r", "/**", "u", require=Requirement(condition=condition), **changes)  # type: ignore[arg-type]


def test_a_condition_is_asked_last() -> None:
    condition, who = Fake(true=False), user(UserStatus.SUSPENDED)
    with pytest.raises(Denial, match="user_suspended"):
        authorize(route(condition), who, claims())
    assert condition.seen == []
    with pytest.raises(Denial, match="condition_not_met"):
        authorize(route(condition), user(), claims())
    authorize(route(Fake()), user(), claims())


def test_a_condition_holds_without_a_user_too() -> None:
    condition = Fake(true=False)
    forward = MissingUser.FORWARD
    with pytest.raises(Denial, match="condition_not_met"):
        authorize_without_user(route(condition, missing_user=forward), claims())
    assert condition.seen == [(claims(), None)]
    authorize_without_user(route(Fake(), missing_user=forward), claims())


def test_a_condition_on_requests_is_not_part_of_the_decision() -> None:
    condition = Fake(true=False, per_request=True)
    authorize(route(condition), user(), claims())
    check = request_check(route(condition), claims(), user())
    assert check is not None
    with pytest.raises(Denial, match="condition_not_met"):
        check(Request("GET", "/", (), "", "http", "r"), route(condition))
    assert request_check(route(Fake()), claims(), user()) is None
    assert request_check(Route("r", "/**", "u"), claims(), user()) is None


@pytest.mark.parametrize("per_request", [False, True])
def test_a_condition_is_checked_for_one_request_alone(*, per_request: bool) -> None:
    asking = Request("GET", "/", (), "", "http", "r")
    condition = Fake(true=False, per_request=per_request)
    with pytest.raises(Denial, match="condition_not_met"):
        check_once(condition, asking, route(condition), None, user())
    assert condition.seen == [(None, user())]
    check_once(Fake(per_request=per_request), asking, route(condition), claims(), None)


def test_claims_that_conditions_read_are_kept() -> None:
    assert claims_read([route(Fake()), Route("x", "/", "u")]) == {"plan"}
    assert HeaderPolicy(HeaderRules({"X-Status": Fake()})).claims_read == {"plan"}
    issuer = MAIN.__class__("i", "https://i/", None, frozenset(), provisioning=Provisioning(condition=Fake()))
    assert of_provisioning([issuer]) == {"plan"}


def test_a_header_is_computed() -> None:
    policy = HeaderPolicy(HeaderRules({"X-Status": Fake()}))
    assert policy.identity(claims(), user()) == b"X-Status: active\r\n"
    assert b"X-Status" not in policy.identity(claims(), None)


def test_a_condition_decides_which_users_are_created() -> None:
    assert new_user(claims(), Provisioning(condition=Fake())).identity == Identity("https://i/", "member")
    with pytest.raises(Denial, match="user_not_found: no user is created: fake"):
        new_user(claims(), Provisioning(condition=Fake(true=False)))


@pytest.mark.parametrize(
    ("condition", "auth", "expected"),
    [
        (None, Auth.REQUIRED, False),
        (Fake(), Auth.REQUIRED, False),
        (Fake(per_request=True), Auth.REQUIRED, True),
        (Fake(), Auth.OPTIONAL, True),
        (Fake(per_request=True), Auth.NONE, True),
    ],
)
def test_a_table_knows_whether_requests_must_be_checked(
    condition: Fake | None, auth: Auth, *, expected: bool
) -> None:
    require = Requirement(condition=condition)
    assert RouteTable([Route("r", "/", "u", auth=auth, require=require)]).conditional is expected


def test_the_fields_of_a_request() -> None:
    headers = ((b"Host", b"A.example:80"), (b"X-A", b"1"), (b"x-a", b"\xff"), (b"X-B", b"3"))
    request = Request("GET", "/%61?q=1&%74oken=x&token=y", headers, "192.0.2.1", "https", "r")
    plain = Route("r", "/**", "u")
    found = asked(request, plain)
    assert (found.path, found.host, found.client) == ("/a", "a.example", "192.0.2.1")
    assert found.query == "q=1&%74oken=x&token=y"
    assert found.named({"x-a", "x-c"}) == {"x-a": "1, \ufffd"}
    assert asked(request, plain, target=False) == replace(found, path="", host="", query="")
    by_query = Route("r", "/**", "u", credentials=CredentialSources(query="token"))
    assert asked(request, by_query).query == "q=1"
