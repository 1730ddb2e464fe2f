"""The values of expressions, with everything that a token, a user and a request may have."""

from dataclasses import replace
from typing import Final

import pytest

from gateway.conditions import engine
from gateway.conditions.effort import MOST_CUBED, MOST_ITEMS, MOST_SQUARED
from gateway.conditions.expression import MOST_CHARACTERS, Expression, NotUsable
from gateway.core.conditions import Missing
from gateway.core.model import JSON, Claims, CredentialSources, Request, Route, User, UserStatus
from gateway.core.reasons import Denial
from gateway.core.requests.asked import asked

CLAIMS: Final = Claims(
    "https://i/", "main", "ann", ("api",), 200.0, 100.0, "j", "acme", ("orders:read",), ("r",), {}
)
USER: Final = User(
    "7", UserStatus.ACTIVE, email="ann@example.org", roles=("admin",), attributes={"plan": "pro", "n": None}
)
ROUTE: Final = Route("r", "/**", "u", credentials=CredentialSources(query="access_token"))


def request(target: str = "/orders/7?a=b&access_token=secret", recurring: object | None = None) -> Request:
    headers = ((b"Host", b"API.example.com:8080"), (b"X-A", b"1"), (b"x-a", b"2"), (b"Cookie", b"c=1"))
    return Request("GET", target, headers, "192.0.2.1", "https", "r-1", recurring=recurring)


def verdict(text: str, claims: Claims | None = CLAIMS, user: User | None = USER, **payload: JSON) -> str:
    """Return `true`, or the code of the denial."""
    condition = Expression(text, lambda: 1_700_000_000.0)
    claims = None if claims is None else replace(claims, payload=payload)
    try:
        if condition.per_request:
            condition.prepare(claims, user)(request(), ROUTE)
        else:
            condition.check(claims, user)
    except Denial as denial:
        return denial.reason.code
    return "true"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('user.attributes.plan == "pro" && "orders:read" in claims.scopes', "true"),
        ('user.attributes.plan == "free"', "condition_not_met"),
        ('user.id == "7" && user.status == "active" && "admin" in user.roles', "true"),
        ('claims.sub == "ann" && claims.aud == ["api"] && claims.roles[0] == "r"', "true"),
        ('claims.tenant == "acme" && claims.iss == "https://i/" && claims.jti == "j"', "true"),
        # What is missing: an error, unless it is asked for, or does not matter.
        ('claims.plan == "pro"', "condition_failed"),
        ('user.tenant == "acme"', "condition_failed"),
        ('user.attributes.none == "a"', "condition_failed"),
        ('!has(claims.plan) && !("plan" in claims) && !has(user.tenant)', "true"),
        ('claims.plan == "pro" || user.id == "7"', "true"),
        ('claims.plan == "pro" && user.id == "8"', "condition_not_met"),
        ("user.attributes.n == null && has(user.attributes.n)", "true"),
        ('size(user.attributes) == 2 && "plan" in user.attributes', "true"),
        # Types that only the values show
        ("user.attributes.plan > 1", "condition_failed"),
        ("user.attributes.plan", "condition_failed"),
        ("claims.a / claims.b > 0", "condition_failed"),
        # Patterns are those of RE2: digits and letters are ASCII
        (r'"7".matches(r"^\d$") && "x7_".matches("^\\w+$") && user.id == "7"', "true"),
        (r'"٣".matches(r"\d") || "é".matches("\\w") || user.id == "8"', "condition_not_met"),
        (r'"é".matches(r"\W") && "a\u00a0".matches("\\S$") && user.id == "7"', "true"),
        # The request
        ('request.method == "GET" && request.path == "/orders/7"', "true"),
        ('request.host == "api.example.com" && request.query == "a=b"', "true"),
        ('request.path == "/orders/7"', "true"),
        ('request.host == "api.example.com"', "true"),
        ('request.query == "a=b"', "true"),
        ('request.headers["x-a"] == "1, 2" && !("x-b" in request.headers)', "true"),
        ('client.ip == "192.0.2.1" && now == timestamp("2023-11-14T22:13:20Z")', "true"),
        ("now.getHours() == 22 && user.id == '7'", "true"),
        ('request.path.startsWith("/admin")', "condition_not_met"),
        ('request.headers["x-b"] == "1"', "condition_failed"),
    ],
)
def test_an_expression_is_true_false_or_fails(text: str, expected: str) -> None:
    assert verdict(text) == expected


@pytest.mark.parametrize(
    ("claims", "user"), [(None, None), (CLAIMS, None)], ids=["without a token", "without a user"]
)
def test_a_missing_user_has_no_fields(claims: Claims | None, user: User | None) -> None:
    assert verdict('user.attributes.plan == "pro"', claims, user) == "condition_failed"
    assert verdict("!has(user.id) && request.method == 'GET'", claims, user) == "true"
    assert verdict("has(claims.sub)", claims, user) == ("true" if claims else "condition_not_met")


@pytest.mark.parametrize("value", [["x"] * (MOST_ITEMS + 1), "x" * (MOST_CHARACTERS + 1), [["x"] * 1001] * 2])
def test_the_values_that_an_evaluation_reads_are_bounded(value: JSON) -> None:
    """Each item takes time, and a client may choose the claims of its token at the issuer."""
    assert verdict('claims.big != "y"', big=value) == "condition_failed"
    assert verdict('claims.sub == "ann"', big=value) == "true"
    user = replace(USER, attributes={"plan": "pro", "big": value})
    assert verdict('user.attributes.plan == "pro"', user=user) == "true"
    assert verdict("size(user.attributes) == 2", user=user) == "condition_failed"


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ('claims.x.all(i, i != "a")', MOST_ITEMS),
        ('claims.x.all(i, i != "a") && "r" in claims.roles', MOST_ITEMS - 1),
        ('claims.x.all(i, i != user.id) && ["a"].all(j, !(j in claims.x))', MOST_ITEMS),
        ('claims.x.filter(i, i != "a").size() > 0', MOST_SQUARED),
        ("claims.x.map(i, i).size() > 0", MOST_SQUARED),
        ("claims.x.all(i, i in claims.x)", MOST_SQUARED),
        ('claims.x.all(i, claims.x[0] == "x")', MOST_SQUARED),
        ('claims.x.all(i, claims.sub != "")', MOST_ITEMS),
        ('claims.x.map(i, i + "a").size() > 0', MOST_SQUARED),
        ('claims.x.all(i, claims.sub + "a" != i)', MOST_ITEMS),
        # What is read becomes part of each item: 490 items took ten seconds.
        ("claims.x.map(i, claims.x + claims.x).size() > 0", MOST_CUBED),
        ("claims.x.map(i, {i: [claims.x]}).size() > 0", MOST_CUBED),
        ("claims.x.map(i, claims.sub + i).size() > 0", MOST_CUBED),
        ("claims.x.all(i, (claims.x + claims.x).size() > 0)", MOST_CUBED),
        # Many loops, or a list that is joined to itself.
        (" && ".join(['claims.x.all(i, i != "a")'] * 4), MOST_ITEMS),
        (" && ".join(['claims.x.all(i, i != "a")'] * 8), MOST_ITEMS // 2),
        ('(claims.x + claims.x).all(i, i != "a")', MOST_ITEMS // 2),
        ("(claims.x + claims.x + claims.x + claims.x).map(i, i).size() > 0", MOST_SQUARED // 4),
    ],
)
def test_quadratic_expressions_have_a_lower_bound(text: str, most: int) -> None:
    """The library copies a list wherever a loop reads it: 2000 items took a sixth of a second."""
    assert verdict(text, x=["x"] * most) == "true"
    assert verdict(text, x=["x"] * (most + 1)) == "condition_failed"


def test_an_expression_with_mistakes_is_not_usable() -> None:
    with pytest.raises(NotUsable, match="there is no `usr`"):
        Expression("usr.id == 1")


def test_a_defect_of_the_library_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic in Rust is a `BaseException`, which would otherwise end more than the request."""

    class Panic(BaseException):
        pass

    class Broken:
        def execute(self, _: object) -> object:
            raise Panic("index out of range")

    with pytest.raises(engine.EvaluationFailed, match="index out of range"):
        engine.evaluate(Broken(), engine.context({}))  # type: ignore[arg-type]  # broken on purpose


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_the_end_of_a_process_is_no_defect(end: type[BaseException]) -> None:
    class Ended:
        def execute(self, _: object) -> object:
            raise end

    with pytest.raises(end):
        engine.evaluate(Ended(), engine.context({}))  # type: ignore[arg-type]  # an evaluation that is ended


@pytest.mark.parametrize("value", ["\ud800", {"a": "\udfff"}, object(), 1j])
def test_a_value_that_the_library_does_not_take_denies(value: JSON) -> None:
    assert verdict('claims.odd != "x"', odd=value) == "condition_failed"
    assert verdict('claims.odd != "x" || request.method == "GET"', odd=value) == "condition_failed"


def test_a_prepared_condition_reads_each_request_anew() -> None:
    """Only the same head from the same client is not read again."""
    check = Expression('request.path == "/a" && client.ip == "192.0.2.1"').prepare(CLAIMS, USER)
    head = object()
    check(request("/a", head), ROUTE)
    check(request("/a", head), ROUTE)
    for other in (request("/b", object()), request("/b"), replace(request("/a", head), peer="192.0.2.2")):
        with pytest.raises(Denial):
            check(other, ROUTE)
        check(request("/a", head), ROUTE)


def test_the_claims_to_keep_are_those_that_are_no_fields_of_a_token() -> None:
    assert Expression('claims.acr == "2" && has(claims.org.unit) && claims.sub == "a"').claims_read == {
        "acr",
        "org",
    }


def test_now_moves_on() -> None:
    times = iter([1.0, 3.0])
    check = Expression('now < timestamp("1970-01-01T00:00:02Z")', lambda: next(times)).prepare(CLAIMS, USER)
    check(request(recurring=(head := object())), ROUTE)
    with pytest.raises(Denial):
        check(request(recurring=head), ROUTE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"admin" in user.roles ? "yes" : "no"', "yes"),
        ('user.roles.map(r, r + "!")', ["admin!"]),
        ("size(user.roles)", 1),
        ("claims.missing", None),
        ('timestamp("2026-01-01T00:00:00Z")', "2026-01-01T00:00:00Z"),
        ("user.attributes", None),
    ],
)
def test_the_value_of_a_header(text: str, expected: object) -> None:
    assert Expression(text).header(CLAIMS, USER) == expected


def test_readings_show_the_compared_values() -> None:
    condition = Expression('user.attributes.plan == claims.plan && request.method == "GET" || now > now')
    condition = replace(condition, clock=lambda: 0.0)
    found = condition.readings(CLAIMS, USER, asked(request(), ROUTE))
    assert [(each.path, each.value) for each in found] == [
        ("user.attributes.plan", "pro"), ("claims.plan", Missing.MISSING), ("request.method", "GET"),
        ("now", "1970-01-01T00:00:00+00:00"),
    ]  # fmt: skip
