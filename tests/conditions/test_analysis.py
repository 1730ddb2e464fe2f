"""What is known of an expression before it is evaluated: its mistakes, and what it reads."""

import json
from typing import Final

import pytest

from gateway.conditions import engine, patterns
from gateway.conditions.analysis import analysed
from gateway.conditions.constants import never_in_time
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
    ("size(user.roles,) == 1", 16, "there is `)`"),
    ("user.roles.exists(r, r == 'a',)", 30, "there is `)`"),
    ('not user.id == "a"', 4, "there is `user`"),
    ("user.id == “a”", 11, "`“` has no meaning"),
    ('usér.id == "a"', 2, "`é` has no meaning"),
    ('user.id == "\\ud800"', 11, "cannot be read"),
    ('user.id == r"a" + r"b\\\\" + "c', 27, "does not end"),
    ("-9223372036854775809 == claims.x", 1, "-9223372036854775809 cannot be read"),
    ("1_000 == claims.x", 1, "there is `_000`"),
    ('user["id"] == "a" ? 1 : true ? 2', 32, "where `:` must be"),
    ('user.roles.exists("a", true)', 11, "takes a name and an expression"),
    # Names
    ('usr.id == "a"', 0, "there is no `usr`"),
    ('user.mail == "a"', 5, "there is no `user.mail`"),
    ('request.header["x"] == "a"', 14, "there is no `request.header`"),
    ("client.port == 1", 7, "there is no `client.port`"),
    ("claims.roles.exists(r, role == r)", 23, "there is no `role`"),
    ("foo(user.id)", 0, "there is no function foo()"),
    ("claims.admin == True", 16, "there is no `True`"),
    ("request.headers.x-a == 'b'", 18, "there is no `a`"),
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
    ('user.roles == ["a", 1]', 20, "never among items that are a text"),
    ("[now] == claims.scopes", 1, "never among items that are a text"),
    ("user.id in [1, null]", 8, "never equal to one of these"),
    ("user.id in {1: true}", 8, "never equal to one of these"),
    ('(has(claims.a) ? 1 : "b") == true', 26, "never equal"),
    ('(has(claims.a) ? 1 : "b") && true', 17, "where true or false must be"),
    ("claims.exp < now", 11, "a number and an instant have no order"),
    ("now == claims.iat", 4, "never equal"),
    ('claims.exp == "5"', 11, "never equal"),
    ('claims.nbf.startsWith("a")', 0, "does not take a number"),
    ("user.roles[1.5] == 'a'", 10, "the place in a list"),
    ("user.roles[-1] == 'a'", 10, "begin with 0"),
    ("[1, 2][2] == claims.a", 6, "the list has 2 items"),
    ('{"a": 1}["b"] == claims.a', 8, "there is no 'b'"),
    ('{"a": 1}.b == claims.a', 9, "there is no 'b'"),
    ('{"a": 1, "a": 2}[user.id] == 1', 9, "is given twice"),
    ('user.id.all(c, c == "a")', 8, "needs a list or a mapping, and not a text"),
    ("(user.roles + user.roles).all(r, r > 1)", 35, "have no order"),
    ("(user.roles + user.roles)[0] > 1", 29, "have no order"),
    ("claims.a / 0 == 1", 11, "divides by zero"),
    ("claims.a % 0u == 1u", 11, "divides by zero"),
    ("1 + 9223372036854775807 > 0", 0, "has no value"),
    ("uint(-1) == claims.a", 5, "cannot read this"),
    ("int(now) > 1", 4, "does not take an instant"),
    # Values that never occur
    ('user.status == "activ"', 15, "no user has the status"),
    ('user.status in ["active", "lockd"]', 26, "no user has the status"),
    ('request.method == "get"', 18, "no method is"),
    ('request.host == "Example.com"', 16, "no host is"),
    ('request.path == "orders"', 16, "no path is"),
    ('client.ip == "10.0.0.0/8"', 13, "no address is"),
    ('client.ip in ["::1", "2001:DB8::1"]', 21, "no address is written"),
    ('"::ffff:10.0.0.1" != client.ip', 0, "no address is written"),
    ("now.getMonth() == 12", 18, "is never 12"),
    ("now.getDayOfWeek() in [1, 7]", 26, "is never 7"),
    ("0 == now.getDate()", 0, "is never 0"),
    ('now > timestamp("2026")', 16, "cannot read this"),
    ('now - now > duration("5 minutes")', 21, "cannot read this"),
    # Time without a bound
    ('user.email.matches("(")', 19, "cannot be read"),
    ("user.email.matches(claims.pattern)", 19, "must be written here"),
    ('user.email.matches("' + "a" * 300 + '")', 19, "longer than"),
    ('user.email.matches("((a{100}){100}){100}")', 19, "cannot be read"),
    ('user.email.matches("a{9999}")', 19, "too large"),
    ('user.email.matches("[^/]{2,300}")', 19, "too large"),
    ('user.email.matches("\\\\p{L}{1,20}")', 19, "too large"),
    ('user.email.matches("(?i)([a-z]{30}[0-9]{30}){9}")', 19, "too large"),
    ('user.email.matches("\\\\p{Foo}")', 19, "cannot be read"),
    ('user.email.matches("(?=a)b")', 19, "cannot be read"),
    ('user.email.matches(b"a")', 19, "does not take bytes"),
    ('user.email.matches("a" + "b")', 19, "must be written here"),
    ("user.roles.exists(r, claims.scopes.exists(s, s == r))", 35, "a loop in a loop"),
    ("[1, 2].all(a, " * 10 + "claims.x == a" + ")" * 10, 133, "loops too often"),
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
    "(user.roles + [1]).all(r, r > 1)": "user.roles",
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
    r"user.id == r'\d\' || user.id.matches(r'^\d+$')": "user.id",
    'claims.a == b"x" || claims.a == br"\\x" || claims.a == """x "y" z"""': "claims.a",
    "-9223372036854775808 < claims.a && -0x1 < claims.a && --1 < claims.a": "claims.a",
    "claims.exp - claims.iat < 3600 && claims.exp + 1 > claims.nbf * 2.5 && int(claims.exp) % 2 == 0":
        "claims.exp claims.iat claims.nbf",
    'timestamp("1970-01-01T00:00:00Z") + duration(string(int(claims.exp)) + "s") > now': "claims.exp now",
    'claims.n in [1, "a", null, 2.5] && user.id in ["a", claims.x,] && user.roles == ["a"]':
        "claims.n user.id claims.x user.roles",
    '{"pro": 100, "free": 10}[user.attributes.plan] > 5 && {"a": [1]}["a"][0] == claims.n':
        "user.attributes.plan claims.n",
    'user.roles.all(r, claims.a == 1) && [1, 2].exists(x, user.id == "a")': "user.roles claims.a user.id",
    'has(claims.a) ? claims.b : user.id == "a" ? true : false': "claims.a claims.b user.id",
    '(has(claims.a) ? 1 : "b") == 1 && claims.a / 2 == 1': "claims.a",
    'user.id == "😀é漢\\u00e9\\x41\\101\\U0001F600"': "user.id",
    r'user.email.matches(r"^[\w.+-]{1,64}@[\w-]+(\.[\w-]+){1,9}$") && user.id.matches("(?i)^[a-z]{1,99}$")':
        "user.email user.id",
    "double(claims.score) > 0.5 && claims.n == 0x1F && claims.u == 1u": "claims.score claims.n claims.u",
}  # fmt: skip


@pytest.mark.parametrize(("text", "reads"), GOOD.items(), ids=GOOD)
def test_a_good_expression_has_no_mistake(text: str, reads: str) -> None:
    found = analysed(text)
    assert found.faults == ()
    assert [".".join(path) for path in found.reads] == reads.split()


@pytest.mark.parametrize(
    ("pattern", "compiled"),
    [
        (r"^\d+\.\w*$", r"^[0-9]+\.[0-9A-Za-z_]*$"),
        (r"[\d.-]\D[^\w]", r"[0-9.-][^0-9][^0-9A-Za-z_]"),
        (r"[\S]\s", r"[[^\t\n\f\r\x20]][\t\n\f\r\x20]"),
        (r"\\d\[\d\]", r"\\d\[[0-9]\]"),
        (r"[]\d]|[^]\d]|[[:alpha:]\d]", r"[]0-9]|[^]0-9]|[[:alpha:]0-9]"),
        (r"\ba\B", r"(?-u:\b)a(?-u:\B)"),
        (r"\pL\p{Greek}\PN", r"\pL\p{Greek}\PN"),
        (r"(?P<n>\d)(?:a)(?i:b)", r"(?P<n>[0-9])(?:a)(?i:b)"),
        ("^[a-z]+$", "^[a-z]+$"),
    ],
)
def test_a_pattern_has_the_meaning_of_re2(pattern: str, compiled: str) -> None:
    assert patterns.as_re2(pattern) == compiled
    assert engine.failure(f'"".matches({json.dumps(compiled)})') is None


@pytest.mark.parametrize(
    ("pattern", "weight"),
    [
        ("abc", 3), ("a{3}", 3), ("a{2,5}?", 5), ("a{3,}", 4), ("(ab{2}){3}c", 10), ("[a-z]{4}|x", 5),
        (".{2}[^a]", 30), (r"\p{L}{2}", 2000), ("(?i)ab", 8), ("(?i:a)b", 8), (r"\{a{2}", 3), (r"a\){2}", 3),
        ("é", 2), ("a{0}b", 2), ("", 0), ("[", 1), ("a)b", 3), ("((((a{9}){9}){9}){9}){9}", 9**5),
        ("a{" + "9" * 99 + "}", 999_999_999), ("a{9}{9}", 81),
    ],
)  # fmt: skip
def test_the_weight_of_a_pattern(pattern: str, weight: int) -> None:
    assert patterns.weight(pattern) == weight


def test_compiled_patterns_are_those_that_the_library_reads() -> None:
    found = analysed(r"""user.id.matches(r'\d') && user.email.matches("\\w\"") || user.id.matches('[a]')""")
    assert found.faults == ()
    assert found.program == (
        r"""user.id.matches("[0-9]") && user.email.matches("[0-9A-Za-z_]\"") || user.id.matches('[a]')"""
    )


def test_the_analysis_knows_what_depends_on_the_request() -> None:
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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1 / 0", "it divides by zero"),
        ("[1][2]", "the list is too short"),
        ("{'a': 1}.b", "the field b is missing"),
        ("'a' > 1", "the types do not fit"),
        ("9223372036854775807 + 1", "a number is too large"),
        ("1 + 1", None),
    ],
)
def test_why_an_expression_has_no_value(text: str, told: str | None) -> None:
    assert engine.failure(text) == told


@pytest.mark.parametrize(
    ("function", "least", "greatest"),
    [
        ("getMonth", 0, 11), ("getDayOfWeek", 0, 6), ("getDate", 1, 31), ("getDayOfMonth", 0, 30),
        ("getDayOfYear", 0, 365), ("getMilliseconds", 0, 999),
    ],
)  # fmt: skip
def test_the_parts_of_an_instant_have_bounds(function: str, least: int, greatest: int) -> None:
    assert never_in_time(function, least) is never_in_time(function, greatest) is None
    for value in (least - 1, greatest + 1):
        assert never_in_time(function, value) is not None
