"""Header fields between client, gateway and upstream."""

import ipaddress
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.headers import HeaderPolicy, HeaderRules, fold, read_response
from gateway.core.model import JSON, Claims, Header, Request, User, UserStatus
from gateway.core.text.field_values import encode_value

IDENTITY = {
    "X-User-Id": "user.id",
    "X-User-Roles": "user.roles",
    "X-User-Tenant": "user.tenant",
    "X-Auth-Issuer": "claims.iss",
    "X-Auth-Subject": "claims.sub",
    "X-Auth-Scopes": "claims.scopes",
}
CLAIMS = Claims(
    "https://i/", "main", "member", ("api",), 9.0, 1.0, "j-1", "t", ("r", "w"), ("token-role",), {"acr": "2"}
)
USER = User(
    "u-1", UserStatus.ACTIVE, "t", "m@example.com", "Mem Ber", ("admin", "owner"), {"team": {"lead": True}}
)
PROXY, STRANGER = "10.0.0.7", "203.0.113.9"
RULES = HeaderRules(
    IDENTITY, trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
)
POLICY = HeaderPolicy(RULES)
HOST: Header = (b"Host", b"api.example.com")


def admit(
    *fields: Header,
    peer: str = STRANGER,
    policy: HeaderPolicy = POLICY,
    claims: Claims | None = CLAIMS,
    user: User | None = USER,
    forwarding: bool = False,
) -> list[Header]:
    request = Request("GET", "/", (HOST, *fields), peer, "https", "r-1")
    return sent(policy, request, claims, user, forwarding=forwarding)


def sent(
    policy: HeaderPolicy,
    request: Request,
    claims: Claims | None,
    user: User | None,
    *,
    prefix: str = "",
    forwarding: bool = False,
) -> list[Header]:
    """Return the fields that an upstream is sent, Host first."""
    read = policy.read(request)
    lines = policy.forwarded(request, read, prefix)
    if forwarding:
        lines += policy.credentials(request, read)
    if claims is not None:
        lines += policy.identity(claims, user)
    assert lines.endswith(b"\r\n")
    fields = [line.partition(b": ") for line in lines.removesuffix(b"\r\n").split(b"\r\n")]
    return [(b"Host", read.hosts[0]), *((name, value) for name, _, value in fields)]


def seen(fields: list[Header], name: str) -> list[bytes]:
    """Return what an upstream reads that folds names as CGI and WSGI do."""
    return [value for field, value in fields if fold(field) == fold(name.encode())]


# Identity ---------------------------------------------------------------------------------------


def test_identity_headers_are_added() -> None:
    fields = dict(admit())

    assert fields[b"X-User-Id"] == b"u-1"
    assert fields[b"X-User-Roles"] == b"admin,owner"
    assert fields[b"X-User-Tenant"] == b"t"
    assert fields[b"X-Auth-Issuer"] == b"https://i/"
    assert fields[b"X-Auth-Subject"] == b"member"
    assert fields[b"X-Auth-Scopes"] == b"r,w"
    assert b"X-Auth-Stale" not in fields


def test_only_the_gateway_marks_an_answer_as_stale() -> None:
    assert seen(admit((b"X-Auth-Stale", b"false")), "X-Auth-Stale") == []


@pytest.mark.parametrize(
    "spelling",
    [
        b"X-User-Id",
        b"x-user-id",
        b"X_User_Id",
        b"X.User.Id",
        b"x_user-ID",
        b"X~User!Id",
        b"X-User\xffId",
        b"X User Id",
    ],
)
@pytest.mark.parametrize("authenticated", [True, False], ids=["authenticated", "public"])
def test_an_identity_header_of_the_client_is_stripped_in_every_spelling(
    spelling: bytes, authenticated: bool
) -> None:
    forged = [(spelling, b"root"), (spelling, b"root")]
    fields = admit(*forged, claims=CLAIMS if authenticated else None, user=USER if authenticated else None)

    assert seen(fields, "X-User-Id") == ([b"u-1"] if authenticated else [])


def test_the_status_is_sent_where_users_need_not_be_active() -> None:
    locked = replace(USER, status=UserStatus.LOCKED)
    plain, told = (POLICY.identity(CLAIMS, locked, with_status=on) for on in (False, True))

    assert told == plain + b"X-User-Status: locked\r\n"


@pytest.mark.parametrize("name", ["X-User-Status", "x_user_status"])
def test_a_configured_status_is_sent_once_and_everywhere(name: str) -> None:
    policy = HeaderPolicy(HeaderRules({name: "user.status"}))
    expected = name.encode() + b": active\r\n"

    assert [policy.identity(CLAIMS, USER, with_status=on) for on in (False, True)] == [expected, expected]


@pytest.mark.parametrize(
    ("status", "own"), [({}, {b"X-User-Status": b""}), ({"x_user_status": "user.status"}, {})]
)
def test_a_front_is_told_every_name_once(status: dict[str, str], own: dict[bytes, bytes]) -> None:
    policy = HeaderPolicy(HeaderRules({**IDENTITY, **status}, tells_fronts=True, assertion="X-Signed"))
    told = policy.told(policy.identity(CLAIMS, replace(USER, tenant=None)))
    lines = [line.partition(b": ") for line in told.removesuffix(b"\r\n").split(b"\r\n")]
    assert len(lines) == len(policy.told_names)
    assert {name: value for name, _, value in lines} == {
        b"X-User-Id": b"u-1", b"X-User-Roles": b"admin,owner", b"X-User-Tenant": b"",
        b"X-Auth-Issuer": b"https://i/", b"X-Auth-Subject": b"member", b"X-Auth-Scopes": b"r,w",
        b"X-User-Missing": b"", b"X-Auth-Stale": b"", b"X-Signed": b"",
        **{name.encode(): b"active" for name in status}, **own,
    }  # fmt: skip
    assert policy.tells_fronts


def test_without_a_user_the_id_is_there_and_empty() -> None:
    fields = admit(user=None)

    assert seen(fields, "X-User-Id") == [b""]
    assert seen(fields, "X-User-Missing") == [b"true"]
    assert seen(fields, "X-Auth-Subject") == [b"member"]
    for name in ("X-User-Roles", "X-User-Tenant", "X-User-Status"):
        assert seen(fields, name) == []


def test_with_a_user_nothing_says_that_it_is_missing() -> None:
    assert seen(admit((b"X-User-Missing", b"true")), "X-User-Missing") == []


@given(
    st.sampled_from(
        [
            *IDENTITY,
            "X-User-Status",
            "X-User-Missing",
            "X-Auth-Stale",
            "X-Request-Id",
            "X-Real-IP",
            "Forwarded",
            "X-Original-URL",
        ]
    ),
    st.lists(st.booleans(), min_size=16, max_size=16),
    st.lists(st.sampled_from("-_.~!#$%&'*+^`| \t\x00\xff"), min_size=4, max_size=4),
    st.sampled_from([PROXY, STRANGER]),
)
def test_no_case_and_no_separator_brings_a_forged_name_through(
    name: str, upper: list[bool], separators: list[str], peer: str
) -> None:
    parts = iter(separators)
    spelt = "".join(
        next(parts) if letter == "-" else letter.upper() if up else letter.lower()
        for letter, up in zip(name, upper, strict=False)
    )
    fields = admit((spelt.encode("latin-1"), b"forged"), peer=peer)

    assert b"forged" not in [value for _, value in fields]


FORGED = (
    *IDENTITY, "X-User-Status", "X-User-Missing", "X-Auth-Stale", "X-Request-Id", "X-Signed", "X-Real-IP",
    "Forwarded", "X-Original-URL", "X-Original-URI", "X-Original-Method", "X-Rewrite-URL", "X-Original-For",
    "X-Original-Forwarded-For", "X-Original-Host", "X-Original-Proto", "Proxy", "Remote-User",
    "X-Remote-User", "X-HTTP-Method-Override",
)  # fmt: skip


VOUCHED = {"X-Original-For", "X-Original-Forwarded-For", "X-Original-Host", "X-Original-Proto"}
"""Fields of a trusted proxy, in this spelling."""


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("peer", [PROXY, STRANGER])
def test_no_field_that_upstreams_may_believe_comes_from_a_client(name: str, peer: str) -> None:
    policy = HeaderPolicy(replace(RULES, assertion="X-Signed"))
    for spelling in (name, name.lower(), name.replace("-", "_"), name.replace("-", ".")):
        if peer == PROXY and spelling.title() in VOUCHED:
            continue
        fields = admit((spelling.encode(), b"forged"), policy=policy, peer=peer)
        assert b"forged" not in [value for _, value in fields]


@pytest.mark.parametrize("names", [b"X-User-Id", b"x-user-id, close", b"X_User_Id", b"close,X-USER-ID ,x"])
def test_connection_cannot_remove_what_the_gateway_adds(names: bytes) -> None:
    fields = admit((b"Connection", names), (b"X-User-Id", b"root"))

    assert seen(fields, "X-User-Id") == [b"u-1"]
    assert not seen(fields, "Connection")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("user.id", b"u-1"),
        ("user.status", b"active"),
        ("user.email", b"m@example.com"),
        ("user.display_name", b"Mem Ber"),
        ("user.attributes.team.lead", b"true"),
        ("user.attributes.team", None),
        ("user.attributes.none.of.it", None),
        ("claims.iss", b"https://i/"),
        ("claims.aud", b"api"),
        ("claims.jti", b"j-1"),
        ("claims.tenant", b"t"),
        ("claims.roles", b"token-role"),
        ("claims.acr", b"2"),
        ("claims.not.there", None),
    ],
)
def test_a_header_has_the_value_at_its_path(path: str, value: bytes | None) -> None:
    policy = HeaderPolicy(HeaderRules({"X-Who": path}))

    assert dict(admit(policy=policy)).get(b"X-Who") == value


def test_a_token_without_a_user_has_no_attributes() -> None:
    policy = HeaderPolicy(HeaderRules({"X-A": "user.attributes.team", "X-B": "user.id", "X-C": "claims.sub"}))
    fields = dict(admit(policy=policy, user=None))

    assert (fields.get(b"X-A"), fields.get(b"X-B"), fields.get(b"X-C")) == (None, b"", b"member")


@pytest.mark.parametrize(
    "path", ["", "user", "user.", "user.name", "user.attributes", "claims", "claims.", "token.x"]
)
def test_a_path_that_names_nothing_is_a_mistake(path: str) -> None:
    with pytest.raises(ValueError, match="neither a field of the user nor a claim"):
        HeaderPolicy(HeaderRules({"X-Who": path}))


# Values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("member", b"member"),
        ('a b, c;d="e"', b'a b, c;d="e"'),
        ("a\r\nX-User-Id: root", b"a%0D%0AX-User-Id: root"),
        ("a\nb", b"a%0Ab"),
        ("a\x00b\x7f\t", b"a%00b%7F%09"),
        ("50%", b"50%25"),
        ("%0d%0a", b"%250d%250a"),
        ("Zoë 🦊", b"Zo%C3%AB %F0%9F%A6%8A"),
        (" a ", b"%20a%20"),
        ("   ", b"%20%20%20"),
        (" \n", b"%20%0A"),
        ("", None),
        (None, None),
        (True, b"true"),
        (False, b"false"),
        (0, b"0"),
        (1.5, b"1.5"),
        ({"a": 1}, None),
        ([], None),
        (["a,b", "c"], b"a%2Cb,c"),
        (["a", None, "", {"b": 1}, ["c"], 7, False], b"a,7,false"),
        (("admin", "a\r\nb"), b"admin,a%0D%0Ab"),
        ([""], None),
    ],
)
def test_values_cannot_end_the_field_or_the_item(
    value: "JSON | tuple[str, ...]", encoded: bytes | None
) -> None:
    assert encode_value(value) == encoded


ODD_TEXT = st.text('aZ,%2C \t\r\n\x00\x7f\x80\xff:;"é\u2028中🦊', max_size=12)


@given(ODD_TEXT)
def test_one_percent_decoding_gives_a_text_back(text: str) -> None:
    encoded = encode_value(text) or b""

    assert unquote_to_bytes(encoded).decode() == text
    assert printable(encoded)


@given(st.lists(ODD_TEXT))
def test_splitting_and_decoding_gives_a_list_back(items: list[str]) -> None:
    encoded = encode_value(tuple(items)) or b""

    assert [unquote_to_bytes(item).decode() for item in encoded.split(b",") if item] == [
        i for i in items if i
    ]
    assert printable(encoded)


def test_half_a_surrogate_pair_does_no_harm() -> None:
    assert encode_value("a\ud800b") == b"a?b"


@given(ODD_TEXT, st.lists(ODD_TEXT), st.dictionaries(st.sampled_from(["acr", "x"]), ODD_TEXT))
def test_no_header_of_ours_holds_anything_but_printable_ascii(
    text: str, items: list[str], extra: Mapping[str, JSON]
) -> None:
    policy = HeaderPolicy(
        replace(RULES, identity={**IDENTITY, "X-Acr": "claims.acr", "X-Name": "user.display_name"})
    )
    claims = replace(CLAIMS, subject=text, issuer=text, scopes=tuple(items), payload=extra)
    user = replace(USER, id=text, tenant=text, display_name=text, roles=tuple(items))

    for name, value in admit(policy=policy, claims=claims, user=user):
        assert printable(name)
        assert printable(value)
        assert value == value.strip()


def printable(octets: bytes) -> bool:
    return all(0x20 <= octet <= 0x7E for octet in octets)


# Credentials ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"Authorization", b"authorization", b"AUTHORIZATION"])
def test_the_token_is_forwarded_only_when_configured(name: bytes) -> None:
    assert not seen(admit((name, b"Bearer t")), "Authorization")
    assert seen(admit((name, b"Bearer t"), forwarding=True), "Authorization") == [b"Bearer t"]


def test_proxy_credentials_never_go_on() -> None:
    assert not seen(admit((b"Proxy-Authorization", b"Basic x"), forwarding=True), "Proxy-Authorization")


# Hop by hop -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "TE",
        "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "HTTP2-Settings",
    ],
)  # fmt: skip
def test_hop_by_hop_fields_are_dropped_in_every_spelling(name: str) -> None:
    for spelling in {name, name.lower(), name.replace("-", "_"), name.replace("-", ".")}:
        assert not seen(admit((spelling.encode(), b"1")), name)


@pytest.mark.parametrize("spell", [bytes.title, bytes.lower, bytes.upper])
def test_deciding_fields_are_found_in_any_case(spell: Callable[[bytes], bytes]) -> None:
    names = (b"host", b"Authorization", b"x-forwarded-for", b"connection", b"x-gone")
    values = (b"a.example", b"Bearer x", b"1.2.3.4", b"X-Gone", b"1")
    fields = tuple((spell(name), value) for name, value in zip(names, values, strict=True))
    read = POLICY.read(Request("GET", "/", fields, STRANGER, "https", "r-1"))

    assert (read.kept, read.hosts, read.authorizations) == (b"", [b"a.example"], [b"Bearer x"])
    # Others that end the same are not it.
    others = ((b"X-Authorization", b"Bearer a"), (b"Proxy-Authorization", b"Bearer b"))
    assert POLICY.read(Request("GET", "/", others, STRANGER, "https", "r-1")).authorizations == []
    assert [value for _, value in read.forwarding] == [b"1.2.3.4"]


def test_fields_that_connection_names_are_dropped() -> None:
    fields = admit(
        (b"Connection", b"x-a, X-B"), (b"X-A", b"1"), (b"x-b", b"2"), (b"X_B", b"2"), (b"X-C", b"3"),
        (b"connection", b" X-D\t,,"), (b"X-D", b"4"),
    )  # fmt: skip

    assert [seen(fields, name) for name in ("X-A", "X-B", "X-C", "X-D")] == [[], [], [b"3"], []]


@pytest.mark.parametrize("name", ["Content-Type", "Cookie", "Authorization"])
def test_connection_cannot_drop_headers_for_the_upstream(name: str) -> None:
    fields = admit((b"Connection", name.encode()), (name.encode(), b"v"), forwarding=True)

    assert b"v" in seen(fields, name)
    assert seen(admit((b"Connection", b"host")), "Host") == [b"api.example.com"]


def test_fields_that_connection_names_are_not_remembered() -> None:
    """However much it is, and however often a client names something else."""
    names = [b"x%d" % number for number in range(5000)]
    tracemalloc.start()
    try:
        for number in range(20):
            admit((b"Connection", b",".join([*names, b"y%d" % number])))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000


def test_names_of_response_fields_take_no_memory_afterwards() -> None:
    """However long they are, and however many."""
    tracemalloc.start()
    try:
        for number in range(20_000):
            read_response([(b"x%d" % number, b"v")])
        for number in range(100):
            read_response([(b"x%d-%b" % (number, b"y" * 60_000), b"v")])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000


def test_all_other_headers_are_forwarded_in_their_order_and_spelling() -> None:
    mine = [
        (b"accept", b"*/*"),
        (b"Cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"X-ODD", b"\xff"),
        (b"Expect", b"x"),
    ]

    assert admit(*mine)[: len(mine) + 1] == [HOST, *mine]


def test_a_response_loses_its_hop_by_hop_fields() -> None:
    fields: list[Header] = [
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Content-Length", b"5"),
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
    ]

    read = read_response(fields)

    assert read.kept == b"Content-Length: 5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
    assert (read.lengths, read.codings) == ([b"5"], [b"chunked"])


@pytest.mark.parametrize("name", [b"Content-Length", b"Content-Type"])
def test_connection_cannot_drop_what_an_answer_means(name: bytes) -> None:
    read = read_response([(b"Connection", name + b", X-Hop"), (name, b"5"), (b"X-Hop", b"1")])

    assert read.kept == name + b": 5\r\n"


# Forwarding -------------------------------------------------------------------------------------

FORWARDING = ("Uri", "Method", "Proto", "Host", "Port", "Prefix", "For", "Server", "Access-Token")


@pytest.mark.parametrize("name", [f"X-Forwarded-{what}" for what in FORWARDING])
@pytest.mark.parametrize("separator", ["-", "_", "."])
def test_a_stranger_forwards_nothing(name: str, separator: str) -> None:
    fields = admit((name.replace("-", separator).encode(), b"forged"))

    assert b"forged" not in [value for _, value in fields]


def test_a_stranger_is_described_as_seen() -> None:
    fields = admit(
        (b"X-Forwarded-For", b"1.2.3.4"), (b"X-Forwarded-Proto", b"http"), (b"X-Request-Id", b"mine")
    )

    assert seen(fields, "X-Forwarded-For") == [STRANGER.encode()]
    assert seen(fields, "X-Forwarded-Proto") == [b"https"]
    assert seen(fields, "X-Forwarded-Host") == [b"api.example.com"]
    assert seen(fields, "X-Request-Id") == []


def test_a_trusted_proxy_is_believed_and_added_to_the_chain() -> None:
    fields = admit(
        (b"X-Forwarded-For", b"1.2.3.4"),
        (b"x-forwarded-for", b"5.6.7.8, 9.9.9.9"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"public.example.com"),
        (b"X-Forwarded-Prefix", b"/v1"),
        peer=PROXY,
    )

    assert seen(fields, "X-Forwarded-For") == [b"1.2.3.4, 5.6.7.8, 9.9.9.9, 10.0.0.7"]
    assert seen(fields, "X-Forwarded-Proto") == [b"http"]
    assert seen(fields, "X-Forwarded-Host") == [b"public.example.com"]
    assert seen(fields, "X-Forwarded-Prefix") == [b"/v1"]


def test_a_trusted_proxy_is_not_believed_nonsense() -> None:
    fields = admit(
        (b"X_Forwarded_For", b"6.6.6.6"), (b"X_Forwarded_Prefix", b"/x"), (b"X-Forwarded-Proto", b"gopher"),
        (b"X_Real_IP", b"6.6.6.6"), (b"X-Real-IP", b"<6.6.6.6>"), peer=PROXY,
    )  # fmt: skip

    assert seen(fields, "X-Forwarded-For") == [PROXY.encode()]
    assert seen(fields, "X-Forwarded-Proto") == [b"https"]
    assert not [value for _, value in fields if b"6.6.6.6" in value or value == b"/x"]


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.255.0.1", True),
        ("fd00::1", True),
        ("::ffff:10.0.0.1", True),
        ("11.0.0.1", False),
        ("::1", False),
        ("::ffff:11.0.0.1", False),
        ("", False),
        ("10.0.0.1.evil.example.com", False),
    ],
)
def test_only_configured_networks_are_trusted(peer: str, trusted: bool) -> None:
    assert POLICY.trusts(peer) is trusted
    assert HeaderPolicy(HeaderRules(IDENTITY)).trusts(peer) is False


@pytest.mark.parametrize(
    ("value", "peer", "request_id"),
    [
        (b"abc-123_.:/+=", PROXY, "abc-123_.:/+="),
        (b"a" * 128, PROXY, "a" * 128),
        (b"abc", STRANGER, None),
        (b"a" * 129, PROXY, None),
        (b"", PROXY, None),
        (b"a b", PROXY, None),
        (b"a\r\nb", PROXY, None),
        (b"a\n", PROXY, None),
        (b"\xff", PROXY, None),
    ],
)
def test_a_request_id_is_taken_from_a_trusted_proxy_if_it_is_sane(
    value: bytes, peer: str, request_id: str | None
) -> None:
    fields = [HOST, (b"X-Other", b"other"), (b"x-request-ID", value)]
    assert POLICY.vouched(fields, peer) == (request_id, None)
    if peer == PROXY:
        assert POLICY.acceptable_id(fields) == request_id


def test_the_claims_that_headers_read_are_named() -> None:
    rules = {"X-A": "claims.acr", "X-B": "claims.org.unit", "X-C": "claims.sub", "X-D": "user.attributes.x"}
    assert HeaderPolicy(HeaderRules(rules)).claims_read == {"acr", "org", "org.unit"}
