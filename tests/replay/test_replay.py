"""Replay: what it says agrees with live verdicts; every flip is listed, and none is invented."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import orjson
import pytest

from gateway.conditions.expression import Expression
from gateway.core.model import JSON, Auth, Identity, Requirement, Route, User, UserStatus
from gateway.core.shadow import Shadow
from gateway.replay.comparison import Comparison, Configuration, compare
from gateway.replay.decider import RequestClock
from gateway.replay.records import Sample, Unreadable, decode, encode
from tests.pipelines import MAIN, NOW, token
from tests.pipelines import request as request_for
from tests.replay.live import ROUTES, SECRET, Live, requests
from tests.test_pipeline import ROWS
from tests.tokens import ISSUER

UNDECIDABLE: Final = "/mail"
"""Its condition reads the e-mail address, which no record has."""


def configuration(routes: tuple[Route, ...], shadow: Shadow | None = None) -> Configuration:
    return Configuration(routes, [MAIN], RequestClock(), shadow)


def changed(name: str, change: Callable[[Route], Route]) -> tuple[Route, ...]:
    return tuple(change(each) if each.name == name else each for each in ROUTES)


CHANGES: Final[dict[str, tuple[Route, ...]]] = {
    "nothing": ROUTES,
    "a scope": changed("echo", lambda each: replace(each, require=Requirement(frozenset({"orders:write"})))),
    "a role": changed("orders", lambda each: replace(each, require=Requirement(roles=frozenset({"admin"})))),
    "none needed": changed("admin", lambda each: replace(each, require=Requirement())),
    "a condition": changed(
        "admin",
        lambda each: replace(
            each, require=Requirement(condition=Expression('user.attributes.plan == "pro"'))
        ),
    ),
    "an address": changed(
        "echo",
        lambda each: replace(each, require=Requirement(condition=Expression('client.ip != "203.0.113.9"'))),
    ),
    "no such route": tuple(each for each in ROUTES if each.name != "orders"),
    "a method": changed("echo", lambda each: replace(each, methods=frozenset({"GET"}))),
    "open": changed("plan", lambda each: replace(each, auth=Auth.NONE, require=Requirement())),
    "inactive": changed("echo", lambda each: replace(each, allow_inactive=True)),
}


def flips(found: Comparison) -> Counter[tuple[str, str, str, str]]:
    return Counter(
        (each.method, each.path, each.before.verdict, each.after.verdict) for each in found.changes
    )


@pytest.mark.parametrize("change", CHANGES)
async def test_every_flip_is_listed_and_none_is_invented(change: str) -> None:
    old, new = Live(), Live(CHANGES[change])
    expected: Counter[tuple[str, str, str, str]] = Counter()
    records = []
    for request in requests(240):
        recorded = await old.recorded(request)
        assert recorded is not None
        records.append(recorded)
        before, after = await old.verdict(request), await new.verdict(request)
        assert recorded.verdict == before
        if before != after and not request.target.startswith(UNDECIDABLE):
            expected[request.method, recorded.case.target, before, after] += 1
    found = compare(records, configuration(CHANGES[change]), None)
    listed = flips(found)
    assert listed == expected
    assert bool(expected) is (change != "nothing")
    # The same between two configurations.
    again = compare(records, configuration(CHANGES[change]), configuration(ROUTES))
    assert flips(again) == listed
    assert found.requests == 240
    # Conditions on the e-mail address, on `jti` and on the subject.
    assert 0 < found.undecided < 72


@pytest.mark.parametrize("code", ROWS)
async def test_each_reason_is_replayed_as_it_was(code: str) -> None:
    """Nothing changes where nothing was changed, whatever the reason."""
    live, row = Live(), ROWS[code]
    row.arrange(live.world)
    recorded = await live.recorded(row.request)
    if recorded is None:
        assert code in {
            "keys_unavailable",
            "user_store_unavailable",
            "revocation_unavailable",
            "request_malformed",
            "method_not_implemented",
        }
        return
    assert recorded.verdict == await live.verdict(row.request)
    assert compare([recorded], configuration(ROUTES), None).changes == []


async def test_shadow_counts_as_allowed() -> None:
    live = Live()
    records = [recorded for each in requests(120) if (recorded := await live.recorded(each)) is not None]
    found = compare(
        records, configuration(changed("orders", lambda each: replace(each, shadow=True)), Shadow()), None
    )
    assert {each.after.verdict for each in found.changes} == {"allow"}
    assert {each.after.route for each in found.changes} == {"orders"}
    tried = compare(records, configuration(ROUTES, Shadow(frozenset({"main"}))), None)
    assert "role_missing" in {each.before.verdict for each in tried.changes}
    assert "token_malformed" not in {each.before.verdict for each in tried.changes}


async def test_nothing_secret_or_personal_is_kept() -> None:
    live = Live()
    lines = [line for each in requests(200) if (line := await live.line(each)) is not None]
    text = b"".join(lines).decode()
    sent = " ".join(value.decode("latin-1") for each in requests(200) for _, value in each.headers)
    for raw in {word for word in sent.split() if word.count(".") == 2 and len(word) > 100}:
        assert raw not in text
        assert raw.rpartition(".")[2] not in text
    for secret in (SECRET, "Anne", "@example.org", '"u1"', "j1"):
        assert secret not in text.replace("redacted@example.org", "")
    assert '"id":"id-u1"' in text


@pytest.mark.parametrize(
    ("path", "claim", "value"),
    [
        ("https://id.example/user", "https://id.example/user", "person-7"),
        ("/https:~1~1id.example~1user", "https://id.example/user", "person-7"),
        ("ids.user", "ids", {"user": "person-7", "since": 2020}),
        ("sub", "https://id.example/email", "person-7"),
        ("sub", "custom:nickname", "person-7"),
    ],
)
async def test_a_namespace_hides_no_claim(path: str, claim: str, value: JSON) -> None:
    asked = request_for("/echo", token("u1", **{claim: value}))
    sample = Sample(asked, float(NOW), await Live().pipeline.admit(asked), None, forwards=True)
    line = encode(sample, {"main": path})
    assert line is not None
    assert b"person-7" not in line
    assert f"claims.{claim}" in decode(line).redacted


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("phone", "+49 30 1", "redacted"),
        ("phoneNumber", "+49 30 1", "redacted"),
        ("custom:Given-Name", "Anne", "redacted"),
        ("user_metadata", {"full_name": "Anne", "plan": "pro"}, {"full_name": "redacted", "plan": "pro"}),
        (
            "firebase",
            {"identities": {"email": ["a@x.org"]}, "tenant": "t"},
            {"identities": {"email": "redacted"}, "tenant": "t"},
        ),
        ("accounts", [{"id": 7, "mail": "a"}], [{"id": 7, "mail": "redacted"}]),
        ("contact", "anne@example.com", "redacted"),
        ("groups", ["a", "anne@example.com"], ["a", "redacted"]),
        ("inner", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2ln", "redacted"),
        ("provider_token", "gho_16C7e42F292c6912E7710c838347Ae178B4a", "redacted"),
        ("address", {"street_address": "Way 7"}, "redacted"),
        ("email", None, None),
        ("email_verified", True, True),
        ("plan", "pro", "pro"),
        ("filename", "a", "a"),
        ("mailing", "weekly", "weekly"),
        ("version", "1.2.3", "1.2.3"),
    ],
)
async def test_no_claim_names_a_person(name: str, value: JSON, kept: JSON) -> None:
    """Nested, in a list, under another spelling, or told by its value alone."""
    asked = request_for("/echo", token("u1", **{name: value}))
    line = encode(Sample(asked, float(NOW), await Live().pipeline.admit(asked), None, forwards=True), {})
    assert line is not None
    recorded = decode(line)
    assert recorded.case.payload is not None
    assert recorded.case.payload[name] == kept
    assert (f"claims.{name}" in recorded.redacted) is (kept != value)


async def test_no_attribute_and_no_path_names_a_person() -> None:
    live = Live()
    plan = Expression('user.attributes.plan == "pro"')
    phone = Expression('user.attributes.phone != "x"')
    where = Expression('request.path != "/echo/x"')
    live.world.directory.users[Identity(ISSUER, "u1")] = User(
        "id-u1", UserStatus.ACTIVE, attributes={"plan": "pro", "phone": "+49 30 1"}
    )
    for path in (
        "/echo/anne@example.com/7",
        "/echo/anne%40example.com/7",
        "/echo/eyJhbGciOiJub25l.eyJ4.c2ln/7",
    ):
        line = await live.line(request_for(path, token("u1")))
        assert line is not None
        assert b'"path":"/echo/redacted/7"' in line
        assert b"+49" not in line
        recorded = decode(line)
        for condition, changes, undecided in ((plan, 0, 0), (phone, 0, 1), (where, 0, 1)):
            require = Requirement(condition=condition)
            routes = changed("echo", lambda each, require=require: replace(each, require=require))  # type: ignore[misc]
            found = compare([recorded], configuration(routes), None)
            assert (len(found.changes), found.undecided) == (changes, undecided)


async def test_a_line_that_is_no_record_is_reported() -> None:
    for line in (b"{}", b"[]", b"x", b"\x1f\x8b\x08\x00", b'{"verdict": "no_such_reason"}', b"null", b""):
        with pytest.raises(Unreadable, match="is no record"):
            decode(line)
    good = await Live().line(request_for("/echo", token("u1")))
    assert good is not None
    record = orjson.loads(good)
    decode(orjson.dumps(record))
    odd: list[JSON] = [None, 7, "x", [], [[]], {}, {"a": 1}]
    for name in record:
        for value in odd:
            try:
                recorded = decode(orjson.dumps({**record, name: value}))
            except Unreadable:
                continue
            # What can be read can be decided, whatever it is.
            compare([recorded], configuration(ROUTES), None)
        with pytest.raises(Unreadable, match=name):
            decode(orjson.dumps({key: each for key, each in record.items() if key != name}))


def test_groups_are_ordered_by_size() -> None:
    assert Comparison().groups() == []
