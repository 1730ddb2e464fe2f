"""The path that is matched is the path that is forwarded."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.model import Route
from gateway.core.reasons import Denial
from gateway.core.requests.methods import COMMON
from gateway.core.routes import _NORMAL, RouteTable, Target, normal_path, path_of, read_target

HOST = (b"api.example.com",)


def refused(target: str, hosts: tuple[bytes, ...] = HOST) -> None:
    with pytest.raises(Denial) as caught:
        read_target(target, hosts)
    assert caught.value.reason.code == "request_malformed"


# Targets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/orders/7", "/orders/7", ""),
        ("/orders/", "/orders/", ""),
        ("/orders?", "/orders", "?"),
        ("/orders?a=1&b=%2f%2E%2e//;#"[:-1], "/orders", "?a=1&b=%2f%2E%2e//;"),
        ("/orders?next=/a?b", "/orders", "?next=/a?b"),
        ("/%6frders/%7Ejo", "/orders/~jo", ""),
        ("/caf%c3%a9", "/caf%C3%A9", ""),
        ("/a%20b/c%2Cd", "/a%20b/c%2Cd", ""),
        ("/.well-known/x", "/.well-known/x", ""),
        ("/%2ewell-known", "/.well-known", ""),
        ("/a../..b/.../x.", "/a../..b/.../x.", ""),
        ("/a:b@c!$&'()*+,=~_-", "/a:b@c!$&'()*+,=~_-", ""),
        ("http://api.example.com/orders?x", "/orders", "?x"),
        ("HTTPS://API.example.com", "/", ""),
        ("http://api.example.com?x=1", "/", "?x=1"),
    ],
)
def test_a_target_has_one_spelling(target: str, path: str, query: str) -> None:
    read = read_target(target, HOST)

    assert (read.host, read.path, read.query) == ("api.example.com", path, query)


@pytest.mark.parametrize(
    "target",
    [
        # dot segments
        "/.", "/..", "/./", "/../", "/a/..", "/a/../b", "/a/./b", "/a/.", "/../../etc/passwd",
        # encoded dots
        "/%2e", "/%2e%2e", "/a/%2E%2e/b", "/a/.%2e/b", "/a/%2e./b", "/%2E/",
        # encoded slashes, backslashes, NUL, controls
        "/a%2fb", "/a%2Fb", "/..%2f", "/a%5cb", "/a%5Cb", "/a%00", "/a%0d%0aX:%201", "/a%0a", "/a%7f", "/%09",
        # double encoding, also in disguise
        "/a%252fb", "/%252e%252e/", "/%2525", "/%25%32%66", "/%25%32e", "/%2%35", "/%%32%65",
        # empty segments
        "//", "//a", "/a//b", "/a//", "///",
        # path parameters, fragments, backslashes
        "/a;b", "/a;/../b", "/..;/b", "/a#b", "/#", "/a\\b", "\\a", "/\\..\\a",
        "/a?b#c", "/?#",
        # stray percent signs
        "/%", "/a%", "/a%2", "/a%zz", "/a%2g", "/a%u002f", "/a%-1",
        # bytes that are not visible ASCII
        "/a b", "/a\tb", "/a\x00b", "/a\r\nX: 1", "/a\n", "/ü", "/a\x7f", "/\u2024\u2024/", "/\uff0e\uff0e/",
        "/a?b c", "/a?\x00", "/a?ü", "/a?\r\nX: 1",
        # other forms
        "", "*", "a", "orders", "?a", "#", "api.example.com:443", "api.example.com",
        # absolute-form for another host, scheme or user
        "http://evil.example.com/", "http://api.example.com.evil.example.com/", "http://api.example.com:81/",
        "http://user@api.example.com/", "http://api.example.com@evil.example.com/", "ftp://api.example.com/",
        "http:///orders", "http:/orders", "http:orders", "file:///etc/passwd",
        "http://api.example.com/a/../b", "http://api.example.com//", "http://api.example.com#x",
        "http://api.example.com\\@evil.example.com/", "http://api.example.com;/",
    ],
)  # fmt: skip
def test_an_ambiguous_path_is_refused(target: str) -> None:
    refused(target)


@pytest.mark.parametrize(
    ("value", "host"),
    [
        (b"API.Example.COM", "api.example.com"),
        (b"api.example.com:8443", "api.example.com"),
        (b"api.example.com.", "api.example.com"),
        (b"API.example.com.:80", "api.example.com"),
        (b" api.example.com\t", "api.example.com"),
        (b"127.0.0.1:80", "127.0.0.1"),
        (b"[::1]:80", "[::1]"),
        (b"[2001:DB8::1]", "[2001:db8::1]"),
        (b"a" * 253 + b":65535", "a" * 253),
    ],
)
def test_the_host_is_matched_without_case_and_port(value: bytes, host: str) -> None:
    assert read_target("/", [value]).host == host


@pytest.mark.parametrize(
    "value",
    [
        b"", b"a b", b"a,b", b"a/b", b"a?b", b"a#b", b"user@a", b"a:b", b"a:80:80", b"[::1", b"::1",
        b"a\x00", b"a\r\nb", "ü.example.com".encode(), b"a%2eb", b"a\\b", b"a;b",
        b"a" * 254, b"a:" + b"1" * 6,
    ],
)  # fmt: skip
def test_a_text_that_is_no_host_is_refused(value: bytes) -> None:
    refused("/", (value,))


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a?token=secret", "/a"),
        ("http://host.example/a/b?token=secret", "/a/b"),
        ("http://ann:hunter2@host.example/a@b", "/a@b"),
        ("http://host.example", "/"),
        ("*", "*"),
        ("ann:hunter2@host.example:443", "host.example:443"),
        ("/a/http://b", "/a/http://b"),
    ],
)
def test_the_form_of_a_target_for_operators(target: str, path: str) -> None:
    assert path_of(target) == path


def test_there_is_exactly_one_host() -> None:
    refused("/", ())
    refused("/", (*HOST, *HOST))
    refused("/", (*HOST, b"other.example.com"))


# Properties -------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *("%2e", "%2E", "%2f", "%5c", "%00", "%25", "%32", "%65", "%41", "%3b", "%c3%a9", "//", "/./", ".."),
        *"/.%?;#\\ \t\né~:@aAfFcC0256",
    ]
)
TARGETS = st.one_of(
    st.lists(PIECES, max_size=12).map(lambda pieces: "/" + "".join(pieces)),
    st.text("".join(map(chr, range(256))) + "\u2024\uff0e\uff0f🦊", max_size=12),
)


def outcome(target: str) -> Target | Denial:
    try:
        return read_target(target, HOST)
    except Denial as denial:
        return denial


@given(TARGETS)
@example("/%25%34%31")
def test_whatever_passes_can_be_read_one_way_only(target: str) -> None:
    read = outcome(target)
    if isinstance(read, Denial):
        assert read.reason.code == "request_malformed"
        return
    path = read.path

    assert path.startswith("/")
    assert re.fullmatch(r"[!-~]*", path + read.query)
    assert not {".", ".."}.intersection(path.split("/"))
    assert "//" not in path
    assert not re.search(r"[;#?\\]|%2f|%5c|%00|%2e", path, re.IGNORECASE)
    assert normal_path(path) == path
    assert "#" not in read.query
    # Whoever decodes once more than we did still sees neither a new slash nor a new dot segment.
    for decoded in (unquote(path), unquote(unquote(path))):
        assert decoded.count("/") == path.count("/")
        assert not {".", ".."}.intersection(decoded.split("/"))
        assert "\\" not in decoded
        assert "\x00" not in decoded


@given(TARGETS)
def test_decoding_unreserved_characters_changes_no_meaning(target: str) -> None:
    read = outcome(target)
    if isinstance(read, Target) and target.startswith("/"):
        path, mark, query = target.partition("?")
        assert unquote(read.path) == unquote(path)
        assert read.query == mark + query


# Routes -----------------------------------------------------------------------------------------


def route(name: str, path: str, *, methods: str = "", hosts: str = "") -> Route:
    return Route(name, path, "u", frozenset(methods.split()), frozenset(hosts.split()))


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/", ["/"], ["/a"]),
        ("/**", ["/", "/a", "/a/b/", "/.well-known"], []),
        ("/orders", ["/orders"], ["/orders/", "/order", "/Orders", "/orders/7", "/x/orders", "/"]),
        ("/orders/", ["/orders/"], ["/orders", "/orders/7"]),
        ("/orders/**", ["/orders", "/orders/", "/orders/7", "/orders/7/items/"], ["/orders7", "/order", "/"]),
        ("/orders/*", ["/orders/7"], ["/orders", "/orders/", "/orders/7/", "/orders/7/8"]),
        ("/*/items", ["/a/items", "/%20/items"], ["/items", "/a/b/items", "//items"]),
        ("/*/items/**", ["/a/items", "/a/items/1/2"], ["/items/1", "/a/item"]),
        ("/a.b/c+d", ["/a.b/c+d"], ["/aXb/c+d", "/a.b/ccd"]),
        ("/(a|b)", ["/(a|b)"], ["/a", "/b"]),
        ("/a%20b", ["/a%20b"], ["/a b"]),
        ("/caf%c3%a9", ["/caf%C3%A9"], ["/caf%c3%a9"]),
        ("/%61dmin", ["/admin"], []),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    table = RouteTable([route("r", pattern)])

    for path in matching:
        assert table.match("GET", "h", path).name == "r", path
    for path in others:
        with pytest.raises(Denial) as caught:
            table.match("GET", "h", path)
        assert caught.value.reason.code == "route_not_found", path


@pytest.mark.parametrize("pattern", ["/a/../b", "/a;b", "/a#b", "/a%2fb"])
def test_a_pattern_that_no_request_can_match_is_refused(pattern: str) -> None:
    with pytest.raises(Denial):
        RouteTable([route("r", pattern)])


def test_the_first_route_that_matches_wins() -> None:
    table = RouteTable([route("first", "/a/*"), route("second", "/a/b"), route("rest", "/**")])

    assert table.match("GET", "h", "/a/b").name == "first"
    assert table.match("GET", "h", "/c").name == "rest"


def test_hosts_choose() -> None:
    table = RouteTable(
        [route("one", "/**", hosts="a.example b.example"), route("two", "/x", hosts="c.example")]
    )

    assert table.match("GET", "b.example", "/x").name == "one"
    assert table.match("GET", "c.example", "/x").name == "two"
    with pytest.raises(Denial) as caught:
        table.match("GET", "d.example", "/x")
    assert caught.value.reason.code == "route_not_found"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.example.com", "below"),
        ("a.b.example.com", "below"),
        ("example.com", "itself"),
        # The first route wins, not the longest host.
        ("exact.example.com", "below"),
        ("badexample.com", "rest"),
        ("a.example.com.evil.test", "rest"),
        ("[::1]", "rest"),
    ],
)
def test_a_wildcard_is_one_or_more_labels_below_a_name(host: str, name: str) -> None:
    table = RouteTable(
        [
            route("below", "/**", hosts="other.test *.example.com"),
            route("exact", "/**", hosts="exact.example.com"),
            route("itself", "/**", hosts="example.com"),
            route("rest", "/**"),
        ]
    )

    assert table.match("GET", host, "/x").name == name


@pytest.mark.parametrize("host", [b".example.com", b"a..example.com", b"..", b"a..", b"*.example.com"])
def test_no_host_has_an_empty_label_or_a_wildcard(host: bytes) -> None:
    refused("/", (host,))


@pytest.mark.parametrize(
    ("base", "prefix", "path", "forwarded"),
    [
        ("", "", "/", "/?q"),
        ("", "/api", "/api", "/?q"),
        ("", "/api", "/api/", "/?q"),
        ("", "/api", "/api/x", "/x?q"),
        ("/base", "", "/", "/base/?q"),
        ("/base", "", "/x", "/base/x?q"),
        ("/base", "/api", "/api", "/base?q"),
        ("/base", "/api", "/api/", "/base/?q"),
        ("/base/b", "/api", "/api/x/", "/base/b/x/?q"),
    ],
)
def test_a_path_goes_below_the_base_path_with_one_slash(
    base: str, prefix: str, path: str, forwarded: str
) -> None:
    assert Target("h", path, "?q").below(base, prefix) == forwarded


def test_methods_choose_the_route_and_a_405_lists_them() -> None:
    table = RouteTable(
        [
            route("read", "/a", methods="GET HEAD"),
            route("write", "/a", methods="POST"),
            route("elsewhere", "/a", methods="PUT", hosts="other"),
            route("other", "/b", methods="DELETE"),
        ]
    )

    assert table.match("POST", "h", "/a").name == "write"
    for method in ("DELETE", "PUT", "TRACE"):
        with pytest.raises(Denial) as caught:
            table.match(method, "h", "/a")
        assert caught.value.reason.code == "method_not_allowed"
        assert caught.value.allow == {"GET", "HEAD", "POST"}
        assert caught.value.route is not None
        assert caught.value.route.name == "read"
    for method in ("get", "LABEL", ""):
        with pytest.raises(Denial) as caught:
            table.match(method, "h", "/a")
        assert caught.value.reason.code == "method_not_implemented"


def test_a_route_for_any_method_is_for_the_usual_ones() -> None:
    table = RouteTable([route("any", "/a"), route("named", "/**", methods="TRACE LABEL")])

    assert table.match("PROPFIND", "h", "/a").name == "any"
    # A later route that names it.
    assert table.match("TRACE", "h", "/a").name == "named"
    assert table.match("LABEL", "h", "/a").name == "named"
    with pytest.raises(Denial) as caught:
        table.match("FOO", "h", "/a")
    assert caught.value.reason.code == "method_not_implemented"
    with pytest.raises(Denial) as caught:
        RouteTable([route("any", "/a")]).match("TRACE", "h", "/a")
    assert "GET" in caught.value.allow


def test_a_route_without_an_upstream_serves_decisions_alone() -> None:
    decided = Route("decided", "/a/**", None, methods=frozenset({"GET"}))
    routes = [decided, route("later", "/a/b"), route("write", "/a/c", methods="POST")]
    asked, forwarding = RouteTable(routes), RouteTable(routes, forwards=True)

    assert asked.match("GET", "h", "/a/b") is decided
    # What it takes is not served by a later route, which may ask for less.
    for path in ("/a/b", "/a/x"):
        with pytest.raises(Denial) as caught:
            forwarding.match("GET", "h", path)
        assert caught.value.reason.code == "route_not_found"
    assert forwarding.match("PUT", "h", "/a/b").name == "later"
    with pytest.raises(Denial) as caught:
        forwarding.match("PUT", "h", "/a/c")
    assert caught.value.allow == {"POST"}


def test_no_route_takes_a_tunnel_or_a_path_of_the_gateway_itself() -> None:
    table = RouteTable([Route("all", "/**", "u", methods=frozenset({"CONNECT", "GET"}))], reserved="/healthz")
    with pytest.raises(Denial, match="method_not_allowed") as caught:
        table.match("CONNECT", "a.test", "/x")
    assert caught.value.allow == COMMON
    with pytest.raises(Denial, match="route_not_found"):
        table.match("GET", "a.test", "/healthz")
    assert table.match("GET", "a.test", "/healthz/x").name == "all"


def test_an_empty_table_lets_nothing_through() -> None:
    with pytest.raises(Denial) as caught:
        RouteTable([]).match("GET", "h", "/")
    assert caught.value.reason.code == "route_not_found"


@given(TARGETS, TARGETS)
def test_a_protected_tree_has_no_side_door(target: str, tail: str) -> None:
    """Whatever a lenient upstream would take for something below /admin has matched /admin/**."""
    table = RouteTable([route("admin", "/admin/**"), route("public", "/**")])
    for candidate in (target, f"/admin{tail}", f"/%61dmin{tail}", f"/x/..{tail}/admin"):
        read = outcome(candidate)
        if isinstance(read, Target):
            seen = unquote(unquote(read.path)).split("/")[1]
            assert table.match("GET", "h", read.path).name == ("admin" if seen == "admin" else "public")


@pytest.mark.parametrize("path", ["/a/%c0%ae%c0%ae/b", "/a/%C0%AF", "/%c1%9c"])
def test_overlong_utf8_is_refused(path: str) -> None:
    with pytest.raises(Denial) as refused:
        normal_path(path)
    assert refused.value.reason.code == "request_malformed"


# As it was first written: whatever has none of these is its own normal form.
_SUSPECT = re.compile(r"[^!$&'()*+,\-./0-9:=@A-Z_a-z~]|//|/\.")


@given(st.text("/.%;#aZ0-_~!\\ \x7f\x00é|", max_size=12))
def test_a_path_without_suspect_characters_is_already_normal(tail: str) -> None:
    path = f"/{tail}"
    if _SUSPECT.search(path) is None:
        assert normal_path(path) == path
    else:
        assert _NORMAL.fullmatch(path) is None


@given(st.text(st.characters(max_codepoint=300), max_size=4))
def test_a_query_is_visible_ascii_without_a_fragment(query: str) -> None:
    if all("!" <= character <= "~" and character != "#" for character in query):
        assert read_target(f"/x?{query}", HOST).query == f"?{query}"
    else:
        refused(f"/x?{query}")
