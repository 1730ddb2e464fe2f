"""Spellings that servers read in different ways, where a route allows them."""

import pytest

from gateway.core.model import Route
from gateway.core.reasons import Denial
from gateway.core.routes import LIBERTIES, RouteTable, Target, read_target, readings

HOST = [b"a.test"]
ALL = frozenset(LIBERTIES)


def read(path: str) -> Target:
    return read_target(path, HOST, ALL)


@pytest.mark.parametrize(
    ("path", "normal", "taken"),
    [
        ("/a%2fb", "/a%2Fb", {"encoded_slash"}),
        ("/a;v=1", "/a;v=1", {"semicolon"}),
        ("/a//b", "/a//b", {"empty_segment"}),
        ("/%61//b;c%2f", "/a//b;c%2F", {"encoded_slash", "semicolon", "empty_segment"}),
        ("/a%7eb", "/a~b", set()),
    ],
)
def test_the_liberties_of_a_path_are_known(path: str, normal: str, taken: set[str]) -> None:
    target = read(path)
    assert target.path == normal
    assert set(target.liberties) == taken


@pytest.mark.parametrize(
    "path",
    [
        "/a/..;x/b",
        "/a/..%2fb",
        "/a/%2e%2e;/b",
        "/a/.;v/b",
        "/a%2f../b",
        "/a//../b",
        "/..;",
        "/a%5cb",
        "/a%252fb",
    ],
)
def test_dot_segments_and_backslashes_are_refused_in_any_reading(path: str) -> None:
    with pytest.raises(Denial):
        read(path)


def test_all_readings_are_found() -> None:
    assert readings("/a") == set()
    assert readings("/a%2Fb") == {"/a/b"}
    assert readings("/a;v%2Fb//c") >= {"/a/b/c", "/a;v%2Fb/c", "/a//c"}


TABLE = RouteTable(
    [
        Route("elsewhere", "/**", "u", hosts=frozenset({"b.test"})),
        Route("admin", "/files/admin/**", "u", methods=frozenset({"GET"})),
        Route("files", "/files/**", "u", allow=ALL, hosts=frozenset({"a.test"})),
        Route("plain", "/**", "u"),
    ],
    forwards=True,
)


def check(path: str, method: str = "GET") -> None:
    target = read(path)
    TABLE.check(TABLE.match(method, target.host, target.path), method, target)


def test_a_liberty_that_leads_nowhere_else_passes() -> None:
    check("/files/group%2Fproject;v=1")
    check("/files//x")
    # The other route takes no such request.
    check("/files/admin%2Fx", "POST")


@pytest.mark.parametrize("path", ["/files/admin%2Fx", "/files//admin/x", "/files;v/x"])
def test_a_path_that_some_servers_read_as_another_routes_is_refused(path: str) -> None:
    with pytest.raises(Denial) as caught:
        check(path)
    assert caught.value.route is not None


def test_a_route_of_other_methods_has_it_too() -> None:
    files = Route("files", "/files/*", "u", allow=ALL)
    for methods in (frozenset[str](), frozenset({"POST"})):
        other = Route("b", "/files/x/y", "u", methods=methods)
        with pytest.raises(Denial):
            RouteTable([files, other]).check(files, "GET", read("/files/x%2Fy"))
    # No other route has it.
    RouteTable([files]).check(files, "GET", read("/files/x%2Fy"))


def test_the_spelling_that_is_not_allowed_is_named() -> None:
    with pytest.raises(Denial, match="the route does not allow semicolon") as caught:
        check("/other;x")
    assert caught.value.route is not None


def test_a_forwarded_path_never_begins_with_two_slashes() -> None:
    route = Route("files", "/files/**", "u", allow=ALL, strip_prefix="/files")
    table = RouteTable([route], forwards=True)
    with pytest.raises(Denial, match="would begin with two slashes"):
        table.check(route, "GET", read("/files//evil.test/x"))
