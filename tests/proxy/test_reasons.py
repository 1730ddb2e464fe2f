"""Every reason of the catalogue, from a request on the wire to response, metrics and log."""

import asyncio
import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from gateway.core.model import JSON
from gateway.core.reasons import CATALOGUE, Group
from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis
from gateway.memo import Memo
from gateway.telemetry.logs import hash_subject
from tests import tokens
from tests.harness import KEYLESS_ISSUER, STRICT_ISSUER, USERS, House, newcomer, open_house, token
from tests.sockets import RawUpstream, Response, request_bytes

session = pytest.mark.asyncio(loop_scope="session")

MAIN: Final = tokens.rsa_key("main")


def get(
    target: str = "/private/x", *fields: bytes, method: str = "GET", **claims: JSON
) -> Callable[[], bytes]:
    """Return a request with a good token except for these claims."""
    return lambda: request_bytes(method, target, *fields, token=token(**claims))  # type: ignore[arg-type]  # `subject` is a string


def signed(
    claims: Callable[[], dict[str, JSON]], key: tokens.SigningKey | bytes = MAIN, **header: JSON
) -> Callable[[], bytes]:
    return lambda: request_bytes("GET", "/private/x", token=tokens.sign(claims(), key, None, **header))


def strict(**changes: JSON) -> dict[str, JSON]:
    return {**tokens.claims(iss=STRICT_ISSUER, tenant_id="acme"), **changes}


def _no_answer(upstream: RawUpstream) -> None:
    upstream.behave(_silent)


async def _silent(exchange: object) -> None:
    return


def _garbage(upstream: RawUpstream) -> None:
    upstream.answer(b"garbage\r\n\r\n", close=True)


def _good(upstream: RawUpstream) -> None:
    return


@dataclass(frozen=True)
class Row:
    """A request, and its expected denial."""

    send: Callable[[], bytes]
    issuer: str = "none"
    route: str = "private"
    subject: str | None = None
    prepare: Callable[[RawUpstream], None] = _good


FAR: Final = 10_000_000_000

ROWS: Final[dict[str, Row]] = {
    "credentials_missing": Row(lambda: request_bytes("GET", "/private/x")),
    "credentials_malformed": Row(lambda: request_bytes("GET", "/private/x", b"Authorization: Basic eDp5")),
    "credentials_multiple": Row(get("/private/x", b"Authorization: Bearer a")),
    "token_malformed": Row(lambda: request_bytes("GET", "/private/x", token=b"opaque")),
    "token_too_large": Row(lambda: request_bytes("GET", "/private/x", token=b"a" * 17_000)),
    "token_type_invalid": Row(signed(lambda: tokens.claims(), typ="dpop+jwt")),
    "algorithm_not_allowed": Row(signed(lambda: tokens.claims(), tokens.secret(), kid="main"), issuer="main"),
    "critical_header_unsupported": Row(signed(lambda: tokens.claims(), crit=["exp"])),
    "issuer_missing": Row(signed(lambda: tokens.without(tokens.claims(), "iss"))),
    "issuer_untrusted": Row(
        signed(lambda: tokens.claims(iss="https://elsewhere.example.com")), issuer="untrusted"
    ),
    "key_unknown": Row(signed(lambda: tokens.claims(), tokens.rsa_key("unknown")), issuer="main"),
    "signature_invalid": Row(
        signed(lambda: tokens.claims(), tokens.rsa_key("unknown"), kid="main"), issuer="main"
    ),
    "token_expired": Row(signed(lambda: tokens.claims(now=1_600_000_000)), issuer="main"),
    "token_not_yet_valid": Row(get(nbf=FAR), issuer="main"),
    "token_issued_in_future": Row(get(iat=FAR), issuer="main"),
    "token_lifetime_too_long": Row(
        signed(lambda: strict(exp=FAR), tokens.rsa_key("second")), issuer="strict"
    ),
    "audience_mismatch": Row(get(aud="other"), issuer="main"),
    "claim_missing": Row(
        signed(lambda: tokens.without(strict(), "tenant_id"), tokens.rsa_key("second")), issuer="strict"
    ),
    "claim_not_accepted": Row(get(cnf={"jkt": "thumbprint"}), issuer="main"),
    "id_token_not_accepted": Row(get(nonce="n"), issuer="main"),
    "claim_malformed": Row(get(nbf="soon"), issuer="main"),
    "subject_missing": Row(signed(lambda: tokens.without(tokens.claims(), "sub")), issuer="main"),
    "subject_malformed": Row(get(subject=""), issuer="main"),
    "token_revoked": Row(
        signed(lambda: tokens.claims(jti="row-token-revoked")), issuer="main", subject="member"
    ),
    "user_not_found": Row(get(subject="ghost"), issuer="main", subject="ghost"),
    "account_not_linked": Row(
        lambda: request_bytes("GET", "/join/x", token=newcomer("heir", email="member@example.org")),
        issuer="joining",
        route="join",
        subject="heir",
    ),
    "user_deleted": Row(get(subject="deleted"), issuer="main", subject="deleted"),
    "user_suspended": Row(get(subject="suspended"), issuer="main", subject="suspended"),
    "user_locked": Row(get(subject="locked"), issuer="main", subject="locked"),
    "user_pending": Row(get(subject="pending"), issuer="main", subject="pending"),
    "tokens_revoked_before": Row(get(subject="signed-out"), issuer="main", subject="signed-out"),
    "tenant_mismatch": Row(
        get("/tenant/x", subject="globex"), issuer="main", route="tenant", subject="globex"
    ),
    "scope_insufficient": Row(
        get("/orders/x", scope="orders:write"), issuer="main", route="orders", subject="member"
    ),
    "role_missing": Row(get("/admin/x"), issuer="main", route="admin", subject="member"),
    "condition_not_met": Row(get("/pro/x", plan="free"), issuer="main", route="pro", subject="member"),
    "condition_failed": Row(get("/pro/x"), issuer="main", route="pro", subject="member"),
    "origin_not_allowed": Row(
        lambda: request_bytes("POST", "/browser/x", b"Cookie: session=" + token(), body=b""), route="browser"
    ),
    "keys_unavailable": Row(signed(lambda: tokens.claims(iss=KEYLESS_ISSUER)), issuer="keyless"),
    "route_not_found": Row(get("/nowhere"), route="unmatched"),
    "method_not_allowed": Row(get("/read/x", method="POST"), route="read"),
    "method_not_implemented": Row(get("/read/x", method="LABEL"), route="read"),
    "request_malformed": Row(get("/private/../x"), route="unmatched"),
    "request_too_large": Row(get("/private/x", b"X-Large: " + b"x" * 40_000), route="unmatched"),
    "target_too_long": Row(get("/private/" + "x" * 10_000), route="unmatched"),
    "body_too_large": Row(
        get("/private/x", b"Content-Length: 5000000000", method="POST"), issuer="main", subject="member"
    ),
    "upstream_unreachable": Row(get("/gone/x"), route="gone"),
    "upstream_timeout": Row(get("/slow/x"), route="slow", prepare=_no_answer),
    "upstream_protocol_error": Row(get(), issuer="main", subject="member", prepare=_garbage),
}

ELSEWHERE: Final = {
    "assertion_unavailable": "needs keys that cannot be read: tests/assertion/test_signed_identity.py",
    "rate_limited": "needs limits: tests/limits/test_requests.py",
    "quota_exceeded": "needs limits: the same file",
    "concurrency_exceeded": "needs limits: the same file",
    "token_inactive": "needs an issuer that is asked: tests/test_introspection.py",
    "introspection_unavailable": "needs an issuer that does not answer: the same file",
    "front_not_trusted": "is for other proxies: tests/decision/test_decisions.py",
    "user_store_unavailable": "needs no Postgres: test_stores_that_are_down_cause_a_503_and_no_refusal",
    "revocation_unavailable": "needs no store: the same test",
    "internal_error": "needs a bug: test_a_bug_is_answered_counted_and_logged",
    "overloaded": "needs all connections to be taken: tests/proxy/downstream/test_limits.py",
    "request_timeout": "takes too long: tests/proxy/downstream/test_limits.py",
    "connections_exceeded": "needs connections: tests/proxy/downstream/test_limits.py",
}


def test_every_reason_has_a_row() -> None:
    assert ROWS.keys() | ELSEWHERE.keys() == CATALOGUE.keys()
    assert not ROWS.keys() & ELSEWHERE.keys()


def assert_told(response: Response, code: str) -> str:
    """Check the response (RFC 9457, RFC 6750 §3, RFC 9110 §10.2.3); return the request id."""
    reason = CATALOGUE[code]
    problem = response.problem
    assert problem.keys() == {"type", "title", "status", "code", "detail", "request_id"}
    assert (response.status, problem["status"], problem["code"]) == (reason.status, reason.status, code)
    assert problem["title"] == reason.title
    assert code in str(problem["type"])
    challenge = response.field(b"www-authenticate")
    if reason.status == 401:
        assert challenge is not None
        assert challenge.startswith(b"Bearer ")
    if reason.challenge:
        assert challenge is not None
        assert b'error="%b"' % reason.challenge.encode() in challenge
    elif challenge is not None:
        assert b"error" not in challenge
    assert (reason.status == 503) <= (response.field(b"retry-after") is not None)
    request_id = response.field(b"x-request-id")
    assert request_id is not None
    assert problem["request_id"] == request_id.decode()
    return request_id.decode()


def assert_logged(house: House, code: str, row: Row, request_id: str, raw: bytes) -> None:
    """Check the one line of the log."""
    (line,) = house.events("denied")
    assert (line["reason"], line["route"], line["issuer"]) == (code, row.route, row.issuer)
    assert line["request_id"] == request_id
    assert line.get("subject") == (None if row.subject is None else hash_subject(row.subject))
    if CATALOGUE[code].group in {Group.USER, Group.POLICY}:
        assert line.get("tier") in {"local", "redis", "postgres"}
    for secret in (raw, raw.rpartition(b".")[2], b"example.com/"):
        if len(secret) > 8:
            assert secret.decode("latin-1") not in house.log.getvalue()


@session
@pytest.mark.parametrize(("code", "row"), ROWS.items(), ids=ROWS)
async def test_a_denial_is_answered_counted_and_logged(house: House, code: str, row: Row) -> None:
    if code == "token_revoked":
        await house.sql(
            "INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'row-token-revoked')"
            " ON CONFLICT DO NOTHING"
        )
        await house.set_key("revoked:jti:main:row-token-revoked", "1")
    labels = {"route": row.route, "issuer": row.issuer, "reason": code}
    before = await house.metric("gateway_denials_total", **labels)
    row.prepare(house.upstream)
    sent = row.send()
    response = await house.exchange(sent)
    request_id = assert_told(response, code)
    assert await house.metric("gateway_denials_total", **labels) == before + 1
    raw = sent.partition(b"Bearer ")[2].partition(b"\r\n")[0]
    assert_logged(house, code, row, request_id, raw)
    if CATALOGUE[code].group is not Group.PROXY:
        assert house.upstream.wires == []


@session
async def test_a_denial_without_a_body_answers_head(house: House) -> None:
    async with house.connect() as client:
        await client.send(request_bytes("HEAD", "/private/x"))
        head = await client.response(to_head=True)
        assert head is not None
        assert head.status == 401
        await client.send(request_bytes("GET", "/private/x", token=token()))
        after = await client.response()
        assert after is not None
        assert after.status == 200


@session
async def test_method_not_allowed_names_the_methods(house: House) -> None:
    response = await house.request("/read/x", method="DELETE", token=token())
    assert response.field(b"allow") == b"GET, HEAD"


@session
async def test_scope_insufficient_names_the_scopes(house: House) -> None:
    response = await house.request("/orders/x", token=token())
    assert b'scope="orders:read"' in (response.field(b"www-authenticate") or b"")


@session
async def test_a_good_request_is_counted_and_logged(house: House) -> None:
    labels = {"route": "private", "method": "GET", "status": "200"}
    before = await house.metric("gateway_requests_total", **labels)
    response = await house.request("/private/x?secret=1", token=token())
    assert response.field(b"x-request-id") == house.upstream.requests[0].values(b"x-request-id")[0]
    assert await house.metric("gateway_requests_total", **labels) == before + 1
    (line,) = house.events("request")
    assert (line["path"], line["route"], line["status"]) == ("/private/x", "private", 200)
    assert house.events("denied") == []
    assert "secret=1" not in house.log.getvalue()


@session
async def test_a_log_that_cannot_be_written_fails_no_request(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(house.log, "write", full)
    async with house.connect() as client:
        for bearer, status in ((token(), 200), (None, 401), (token(), 200)):
            await client.send(request_bytes("GET", "/private/x", token=bearer))
            response = await client.response()
            assert response is not None
            assert response.status == status


@session
@pytest.mark.parametrize(
    ("subject", "status"), [("member", 200), ("suspended", 401), ("ghost", 401), (None, 200)]
)
async def test_optional_accepts_a_missing_token_but_no_bad_one(
    house: House, subject: str | None, status: int
) -> None:
    response = await house.request("/optional/x", token=None if subject is None else token(subject))
    assert response.status == status


@session
async def test_a_public_route_ignores_tokens(house: House) -> None:
    received = await house.forwarded("/public/x", token=b"anything")
    assert received.values(b"authorization") == []


@session
async def test_a_bug_is_answered_counted_and_logged(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Memo, request: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Memo, "admit", broken)
    before = await house.metric(
        "gateway_denials_total", route="unmatched", issuer="none", reason="internal_error"
    )
    response = await house.request("/private/x", token=token())
    request_id = assert_told(response, "internal_error")
    assert response.status == 503
    assert b"defect" not in response.body.replace(b"A defect of the gateway", b"")
    (line,) = house.events("internal_error")
    assert line["request_id"] == request_id
    assert "ZeroDivisionError" in str(line["exception"])
    after = await house.metric(
        "gateway_denials_total", route="unmatched", issuer="none", reason="internal_error"
    )
    assert after == before + 1
    assert house.upstream.wires == []


@session
async def test_a_request_whose_admission_is_cancelled_is_answered(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def given_up(self: Memo, request: object) -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    monkeypatch.setattr(Memo, "admit", given_up)
    async with asyncio.timeout(20):
        response = await house.request("/private/x", token=token())
    assert_told(response, "internal_error")
    assert response.status == 503


async def test_stores_that_are_down_cause_a_503_and_no_refusal(
    tmp_path: Path,
    dsn: str,
    redis_url: str,
    postgres_server: EmbeddedPostgres,
    redis_server: EmbeddedRedis,
) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:
        assert (await house.request("/private/x", token=token())).status == 200
        # Without every revocation in Redis, the first that is missed without Postgres is those.
        await house.filled()
        postgres_server.stop()
        unknown = get(subject="acme")()
        request_id = assert_told(await house.exchange(unknown), "user_store_unavailable")
        row = Row(get(), issuer="main", subject="acme")
        assert_logged(house, "user_store_unavailable", row, request_id, unknown)
        redis_server.stop()
        async with asyncio.timeout(5):
            # Memory answers until the worker notices that it receives no changes.
            while (response := await house.request("/private/x", token=token())).status == 200:  # noqa: ASYNC110 -- no event reports it
                await asyncio.sleep(0.01)
        # Both stores are down. The reason names the one that the request missed first.
        code = str(response.problem["code"])
        assert code in {"user_store_unavailable", "revocation_unavailable"}
        assert_told(response, code)
        told = Counter(["user_store_unavailable", code])
        for reason in ("user_store_unavailable", "revocation_unavailable"):
            labels = {"route": "private", "issuer": "main", "reason": reason}
            assert await house.metric("gateway_denials_total", **labels) == told[reason]


async def test_responses_do_not_reveal_whether_a_user_exists(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    """With `errors.detail: generic`, responses for all identity reasons differ only in id and date."""
    requests = {
        subject: get(subject=subject)()
        for subject in [*USERS, "ghost"]
        if subject not in {"member", "admin", "acme", "globex"}
    }
    heir = newcomer("heir", email="member@example.org")
    requests["heir"] = request_bytes("GET", "/join/x", token=heir)
    requests["tenant"] = get("/tenant/x", subject="globex")()
    requests["tenant of the token"] = get(subject="globex", tenant_id="acme")()
    async with open_house(tmp_path, dsn, redis_url, errors={"detail": "generic"}) as house:
        answers = set()
        for request in requests.values():
            response = await house.exchange(request)
            request_id = response.field(b"x-request-id") or b""
            assert response.code == "invalid_token"
            answer = (response.head + response.body).replace(request_id, b"")
            answers.add(answer.replace(response.field(b"date") or b"-", b""))
        assert len(answers) == 1
        # The log has each reason.
        reasons = {line["reason"] for line in house.events("denied")}
        assert reasons == {code for code, reason in CATALOGUE.items() if reason.group is Group.USER}
