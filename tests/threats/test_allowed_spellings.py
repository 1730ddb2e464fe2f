"""Threats: path and host: what a route allows is read in one way, or by no other route's leave.

Two servers read each spelling below differently. What the first takes for one resource is for the second a
resource of another route. The gateway refuses the request, or both readings are the same route's.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.core.model import JSON, Route
from gateway.core.reasons import REQUEST_MALFORMED, Denial
from gateway.core.routes import LIBERTIES, RouteTable, read_target, readings
from tests.harness import House, open_house


class Pair(NamedTuple):
    """A path, and what the second of two servers takes it for."""

    path: str
    other: str
    servers: str


PAIRS = [
    # An encoded slash
    Pair("/open/x%2F..%2Fadmin", "/open/admin", "Kestrel keeps it; Django decodes before it routes"),
    Pair("/open/a%2Fb", "/open/a/b", "Express keeps it in a parameter; WSGI servers decode PATH_INFO"),
    Pair("/open/a%2fb", "/open/a/b", "Jetty keeps it; nginx with a URI in proxy_pass decodes it"),
    Pair("/open%2Fadmin/x", "/open/admin/x", "Tomcat with encodedSolidusHandling=passthrough; gunicorn"),
    Pair("/%2Fadmin/x", "//admin/x", "net/http keeps RawPath; PHP-FPM decodes PATH_INFO"),
    Pair("/open/%2Fadmin", "/open//admin", "Spring keeps it; uWSGI decodes it"),
    Pair("/open/..%2Fadmin", "/admin", "aiohttp keeps it; Apache with AllowEncodedSlashes On resolves it"),
    Pair("/open/%2e%2e%2fadmin", "/admin", "Go's RawPath; Apache with AllowEncodedSlashes On"),
    Pair("/open/.%2Fx", "/open/x", "Express; servers that decode and then resolve dot segments"),
    Pair("/open/x%2F.", "/open/x", "Express; servers that decode and then resolve dot segments"),
    # Parameters
    Pair("/open;v=1/x", "/open/x", "nginx keeps them; Tomcat cuts them off"),
    Pair("/open/x;jsessionid=1", "/open/x", "Flask keeps them; Jetty cuts them off"),
    Pair("/admin;x/y", "/admin/y", "nginx keeps them; Spring cuts them off"),
    Pair("/open/..;/admin", "/admin", "nginx keeps them; Tomcat cuts them off and resolves the dots"),
    Pair("/open/..;a=b/admin", "/admin", "Apache keeps them; Jetty cuts them off and resolves the dots"),
    Pair("/open/.;/x", "/open/x", "Express keeps them; Tomcat cuts them off"),
    Pair("/open/..%3Ba/admin", "/admin", "Flask decodes to a name; WebLogic decodes, then cuts off"),
    Pair("/open/;/x", "/open//x", "nginx keeps them; Tomcat leaves an empty segment"),
    Pair("/open/x;a%2Fadmin", "/open/x", "Kestrel; Tomcat cuts off before it decodes"),
    # Empty segments
    Pair("/open//x", "/open/x", "Express keeps them; nginx with merge_slashes joins them"),
    Pair("//admin/x", "/admin/x", "S3 keeps them; Go's ServeMux joins them"),
    Pair("/open//../admin", "/open/admin", "RFC 3986 removes one segment; nginx joins before it resolves"),
    Pair("/open//..//admin", "/admin", "S3 keeps them; nginx"),
    Pair("/admin//", "/admin/", "Rails keeps them; Apache joins them"),
    Pair("///evil.example.com/x", "//evil.example.com/x", "a browser follows a redirect to another host"),
    # Together
    Pair("/open/a%2F%2F..%2Fadmin", "/open/a/admin", "Express; uWSGI behind nginx"),
    Pair("/open/a;%2F../admin", "/open/admin", "nginx; Jetty"),
    Pair("/open/;a//admin", "/open/admin", "nginx; Tomcat behind Apache"),
]  # fmt: skip

ALL = frozenset(LIBERTIES)
ROUTES = (
    Route("admin", "/admin/**", "u"),
    Route("open-admin", "/open/admin/**", "u"),
    Route("open", "/open/**", "u", allow=ALL),
    Route("rest", "/**", "u", allow=ALL),
)


def taken_by(path: str) -> str | None:
    """Return the route that gets a path; None if the request is refused."""
    table = RouteTable(ROUTES)
    try:
        target = read_target(path, [b"h"], table.liberties)
        route = table.match("GET", target.host, target.path)
        table.check(route, "GET", target)
    except Denial as denial:
        return None if denial.reason is REQUEST_MALFORMED else denial.reason.code
    return route.name


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.path)
def test_two_readings_are_one_routes_or_refused(pair: Pair) -> None:
    taken = taken_by(pair.path)

    # What a route without liberties says of the other reading.
    plain = RouteTable(ROUTES).match("GET", "h", pair.other).name
    assert taken in {None, plain}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.path)
def test_no_pair_passes_where_nothing_is_allowed(pair: Pair) -> None:
    with pytest.raises(Denial) as refused:
        read_target(pair.path, [b"h"])
    assert refused.value.reason.code == "request_malformed"


@pytest.mark.parametrize(
    ("path", "forwarded"),
    [
        ("/open/@scope%2fname", "/open/@scope%2Fname"),
        ("/open/group%2Fproject/-/x", "/open/group%2Fproject/-/x"),
        ("/open/x;color=red;size=1/y", "/open/x;color=red;size=1/y"),
        ("/open/bucket//key", "/open/bucket//key"),
        ("/open/x%3Bv", "/open/x%3Bv"),
        ("/open/a%2f%2fb", "/open/a%2F%2Fb"),
        ("/open/...;v", "/open/...;v"),
    ],
)
def test_an_allowed_path_is_forwarded_in_one_spelling(path: str, forwarded: str) -> None:
    assert taken_by(path) == "open"
    assert read_target(path, [b"h"], ALL).path == forwarded


@pytest.mark.parametrize(
    "path",
    [
        *("/open/%2e%2e/x", "/open/..", "/open/a/./b", "/open/%252f", "/open/%5c", "/open/a\\b", "/open/%00"),
        *("/open/%c0%af", "/open/#", "/open/%2e;/x", "/open/x%2f%2e%2e", "/open/%u002f"),
    ],
)
def test_nothing_else_is_allowed_with_it(path: str) -> None:
    assert taken_by(path) is None


@pytest.mark.parametrize("liberty", LIBERTIES)
def test_each_is_allowed_by_itself(liberty: str) -> None:
    spellings = {"encoded_slash": "/x/a%2Fb", "semicolon": "/x/a;b", "empty_segment": "/x/a//b"}
    table = RouteTable(
        [Route("x", "/x/**", "u", allow=frozenset({liberty})), Route("all", "/y/**", "u", allow=ALL)]
    )
    for name, path in spellings.items():
        target = read_target(path, [b"h"], table.liberties)
        route = table.match("GET", "h", target.path)
        if name == liberty:
            table.check(route, "GET", target)
        else:
            with pytest.raises(Denial, match=f"the route does not allow {name}"):
                table.check(route, "GET", target)


def test_a_method_of_another_route_is_not_reached_either() -> None:
    allow = frozenset({"encoded_slash"})
    table = RouteTable(
        [
            Route("read", "/x/a/b", "u", methods=frozenset({"GET"})),
            Route("one", "/x/*", "u", allow=allow),
        ]
    )
    target = read_target("/x/a%2Fb", [b"h"], allow)
    for method in ("GET", "POST"):
        with pytest.raises(Denial, match="another route has this path"):
            table.check(table.match(method, "h", target.path), method, target)
    # No route has the other reading: the operator has said that it is one segment.
    other = read_target("/x/c%2Fd", [b"h"], allow)
    table.check(table.match("POST", "h", other.path), "POST", other)


def test_a_forwarded_path_never_begins_with_two_slashes() -> None:
    allow = frozenset({"empty_segment", "encoded_slash"})
    stripped = Route("x", "/x/**", "u", strip_prefix="/x", allow=allow)
    for path in ("/x//evil.example.com", "/x/%2Fevil.example.com"):
        target = read_target(path, [b"h"], allow)
        with pytest.raises(Denial, match="two slashes"):
            RouteTable([stripped]).check(stripped, "GET", target)
        based = Route("x", "/x/**", "u", strip_prefix="/x", base_path="/base", allow=allow)
        RouteTable([based]).check(based, "GET", target)
        assert target.below("/base", "/x").startswith("/base/")


def test_readings_are_few_whatever_is_asked() -> None:
    path = "/a" + "/%2F;a//b;c%3Bd" * 400
    assert len(readings(path)) < 20
    assert all(reading not in {path, ""} for reading in readings(path))


# Over a socket -------------------------------------------------------------------------------------


@pytest.fixture
async def lenient(tmp_path: Path, dsn: str, redis_url: str) -> AsyncIterator[House]:
    def route(name: str, path: str, auth: str, *allow: str) -> JSON:
        match: dict[str, JSON] = {"path": path, "allow": [*allow]}
        return {"name": name, "match": match, "upstream": "raw", "auth": auth}

    routes = [
        route("admin", "/open/admin/**", "required"),
        route("open", "/open/**", "none", *LIBERTIES),
        route("strict", "/strict/**", "none"),
    ]
    async with open_house(tmp_path, dsn, redis_url, routes=routes) as house:
        yield house


async def test_an_allowed_path_is_forwarded_as_it_is_matched(lenient: House) -> None:
    for target in ("/open/@scope%2fname", "/open/a;v=1/b", "/open/a//b"):
        # The second one is remembered.
        for _ in range(2):
            received = await lenient.forwarded(target)
            assert received.target.decode() == target.replace("%2f", "%2F")


@pytest.mark.parametrize(
    "target",
    [
        "/open//admin/x",
        "/open/%2Fadmin/x",
        "/open/admin;x/y",
        "/open/;/admin/x",
        "/open/..;/open/admin/x",
        "/open/a%2F..%2Fadmin/x",
        "/strict/a%2Fb",
        "/strict/a;b",
        "/strict/a//b",
    ],
)
async def test_no_spelling_evades_the_token_of_another_route(lenient: House, target: str) -> None:
    response = await lenient.request(target)
    assert (response.status, response.code) == (400, "request_malformed")
    assert lenient.upstream.wires == []
