"""What is known of an expression before it is evaluated: its mistakes, and what it reads."""

from typing import Final

import pytest

from gateway.conditions.analysis import analysed
from gateway.conditions.syntax import DEEPEST, LONGEST
from gateway.conditions.words import DYN

MISTAKES: Final = [
    # Syntax
    ("user.id ==", 10, "the expression ends"),
    ('user.tenant = "a"', 12, "`=` has no meaning"),
    ('user.id == "a" & true', 15, "`&` has no meaning"),
    ('user.id == "a" and true', 15, "there is `and`"),
    ('user.id == "a', 11, "does not end"),
    ('user..id == "a"', 5, "the name of a field"),
    ('(user.id == "a"', 15, "where `)` must be"),
    ('user.id == "a")', 14, "there is `)`"),
    ('user.id == "a" "b"', 15, 'there is `"b"`'),
    ('"\\q" == user.id', 0, "cannot be read"),
    ("claims.if == 1", 7, "is a word of CEL"),
    ("claims.?plan == 1", 7, "there is `?`"),
    ("a.b{c: 1} == 1", 3, "there is `{`"),
    ("9999999999999999999 == claims.x", 0, "cannot be read"),
    ("(" * 60 + "claims.a" + ")" * 60, 40, "nested more than"),
    ("has(user)", 0, "has() takes a field"),
    ('user.roles.exists("a", true)', 11, "takes a name and an expression"),
    # Names
    ('usr.id == "a"', 0, "there is no `usr`"),
    ('user.mail == "a"', 5, "there is no `user.mail`"),
    ('request.header["x"] == "a"', 14, "there is no `request.header`"),
    ("client.port == 1", 7, "there is no `client.port`"),
    ("claims.roles.exists(r, role == r)", 23, "there is no `role`"),
    ("foo(user.id)", 0, "there is no function foo()"),
    ('user.email.startswith("a")', 11, "there is no function startswith()"),
    ('matches(user.email, "a")', 0, "stands behind a value"),
    ("now.hours() > 1", 4, "there is no function hours()"),
    ("user.roles.all(user, true)", 11, "has a meaning"),
    # Fields that cannot be read
    ("size(claims) > 1", 5, "must be read by name"),
    ('user[claims.x] == "a"', 0, "must be read by name"),
    ('request.headers[claims.x] == "a"', 8, "must be read by name"),
    ('request.headers["cookie"] == "a"', 15, "may hold a token"),
    ('request.headers.authorization == "a"', 16, "may hold a token"),
    ('"proxy-authorization" in request.headers', 0, "may hold a token"),
    ('request.headers["x-forwarded-for"] == "a"', 15, "may be forged"),
    ('request.headers["x_real_ip"] == "a"', 15, "may be forged"),
    ('request.headers["connection"] == "a"', 15, "is for one connection"),
    ('request.headers["X-A"] == "a"', 15, "lower case"),
    ("now.year == 2026", 4, "an instant has no fields"),
    ("user.email.size > 1", 11, "has no `size`"),
    ('user.roles[0].name == "a"', 14, "has no fields"),
    # Types
    ("user.id == 1", 8, "never equal"),
    ('user.roles == "admin"', 11, "never equal"),
    ("user.email == null", 11, "never equal"),
    ('"admin" in user.email', 8, "needs a list"),
    ("1 in claims.scopes", 2, "never among"),
    ("user.email > 1", 11, "have no order"),
    ('now > "2026-01-01"', 4, "have no order"),
    ("now > 1700000000", 4, "have no order"),
    ("now - now > 5", 10, "have no order"),
    ('user.email + 1 == "a1"', 11, "does not fit"),
    ("user.email && true", 0, "where true or false must be"),
    ("!user.email", 1, "where true or false must be"),
    ("user.email ? true : false", 0, "where true or false must be"),
    ("-user.email == 1", 0, "needs a number"),
    ('user.roles.contains("a")', 0, "does not take a list"),
    ("user.id.startsWith()", 8, "takes 1 argument"),
    ('user.roles["a"] == "b"', 10, "has no `a`"),
    ("user.roles.exists(r, r)", 21, "where true or false must be"),
    # Values that never occur
    ('user.status == "activ"', 15, "no user has the status"),
    ('user.status in ["active", "lockd"]', 26, "no user has the status"),
    ('request.method == "get"', 18, "no method is"),
    ('request.host == "Example.com"', 16, "no host is"),
    ('request.path == "orders"', 16, "no path is"),
    ('now > timestamp("2026")', 16, "cannot read this"),
    ('now - now > duration("5 minutes")', 21, "cannot read this"),
    # Time without a bound
    ('user.email.matches("(")', 19, "cannot be read"),
    ("user.email.matches(claims.pattern)", 19, "must be written here"),
    ('user.email.matches("' + "a" * 300 + '")', 19, "longer than"),
    ('user.email.matches("((a{100}){100}){100}")', 19, "cannot be read"),
    ("user.roles.exists(r, claims.scopes.exists(s, s == r))", 35, "a loop in a loop"),
    ('claims.a == "' + "a" * LONGEST + '"', LONGEST, "longer than"),
]
"""An expression, where it is wrong, and a part of what is said."""


def test_there_are_at_least_sixty_mistakes() -> None:
    assert len({text for text, _, _ in MISTAKES}) >= 60


@pytest.mark.parametrize(("text", "at", "message"), MISTAKES, ids=[text[:40] for text, _, _ in MISTAKES])
def test_a_mistake_is_found_at_its_place(text: str, at: int, message: str) -> None:
    found = analysed(text).faults
    assert [fault.at for fault in found][:1] == [at], found
    assert message in found[0].message


GOOD: Final = {
    'user.attributes.plan == "pro" && "orders:write" in claims.scopes': "user.attributes.plan claims.scopes",
    'request.method == "GET" || client.ip.startsWith("10.")': "request.method client.ip",
    'now < timestamp("2030-01-01T00:00:00Z")': "now",
    "now.getHours() >= 8 && now.getHours() < 18": "now",
    'now - timestamp(claims.since) < duration("24h")': "now claims.since",
    'has(claims.plan) && claims.plan in ["a", "b"]': "claims.plan",
    '"plan" in claims': "claims.plan",
    'user.roles.exists(r, r.startsWith("x"))': "user.roles",
    'claims["https://example.com/x"] == 1': "claims.https://example.com/x",
    'claims.realm_access.roles.exists(r, r == "x")': "claims.realm_access",
    'request.headers["x-env"] == "test"': "request.headers.x-env",
    '"x-a" in request.headers': "request.headers.x-a",
    '!has(user.id) || user.email.endsWith("@x.org")': "user.id user.email",
    "claims.level + 1 > 2 && size(user.roles) > 1": "claims.level user.roles",
    'request.path.matches("^/a/[0-9]+$")': "request.path",
    '["a", "b"].exists(x, claims.scopes.exists(s, s == x))': "claims.scopes",
    'user.status == "active" ? claims.a == 1 : false': "user.status claims.a",
    "user.attributes.limits.max > 10": "user.attributes.limits",
    "user.attributes.exists(k, k == 'x')": "user.attributes",
    "// a comment\nclaims.a == r'\\d' && claims.b == '''x\ny'''": "claims.a claims.b",
    "double(claims.score) > 0.5 && claims.n == 0x1F && claims.u == 1u": "claims.score claims.n claims.u",
}  # fmt: skip


@pytest.mark.parametrize(("text", "reads"), GOOD.items(), ids=GOOD)
def test_a_good_expression_has_no_mistake(text: str, reads: str) -> None:
    found = analysed(text)
    assert found.faults == ()
    assert [".".join(path) for path in found.reads] == reads.split()


def test_what_depends_on_the_request_is_known() -> None:
    assert not analysed('claims.request == "now" && user.attributes.client == 1').per_request
    for text in ('request.method == "GET"', 'client.ip == "10.0.0.1"', "now > now", "has(request.headers.a)"):
        assert analysed(text).per_request


def test_the_kind_of_a_value_is_known() -> None:
    kinds = {text: str(analysed(text).kind) for text in ("user.roles", "size(user.email)", "claims.a")}
    assert kinds == {"user.roles": "a list", "size(user.email)": "a whole number", "claims.a": str(DYN)}


def test_depth_is_bounded_in_every_way() -> None:
    """Deep expressions would overflow the stack of the parser, or of the library."""
    for text in (
        "!" * 500 + "claims.a", "-" * 500 + "claims.a", "[" * 500 + "]" * 500,
        "claims.a || " * 330 + "claims.b",
        "size(" * 300 + "claims.a" + ")" * 300, "claims.a ? " * 300, "{1: " * 300 + "1" + "}" * 300,
    ):  # fmt: skip
        assert analysed(text).faults, text[:20]
    assert analysed("(" * (DEEPEST - 1) + "claims.a" + ")" * (DEEPEST - 1)).faults == ()
