"""A denial as bytes: problem+json (RFC 9457) and its challenge (RFC 6750 §3)."""

import json
from typing import Literal

import pytest

from gateway.core.model import JSON, Requirement, Route
from gateway.core.reasons import (
    CATALOGUE,
    METHOD_NOT_ALLOWED,
    SCOPE_INSUFFICIENT,
    TENANT_MISMATCH,
    TOKEN_EXPIRED,
    USER_SUSPENDED,
    Denial,
    Reason,
)
from gateway.proxy.errors import Responder
from tests.sockets import fields_of, values


def render(
    denial: Denial,
    *,
    detail: Literal["generic", "full"] = "generic",
    head_only: bool = False,
    keep_alive: bool = True,
) -> tuple[int, bytes, bytes]:
    status, response = Responder(detail).render(denial, "the-id", head_only=head_only, keep_alive=keep_alive)
    head, mark, body = response.partition(b"\r\n\r\n")
    return status, head + mark, body


def problem(denial: Denial, detail: Literal["generic", "full"] = "generic") -> dict[str, JSON]:
    document = json.loads(render(denial, detail=detail)[2])
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("detail", ["generic", "full"])
@pytest.mark.parametrize("reason", CATALOGUE.values(), ids=CATALOGUE)
def test_every_reason_is_a_well_formed_response(reason: Reason, detail: Literal["generic", "full"]) -> None:
    status, head, body = render(Denial(reason), detail=detail)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert values(fields_of(head), b"content-length") == [b"%d" % len(body)]
    assert values(fields_of(head), b"cache-control") == [b"no-store"]
    assert head.isascii()
    challenges = values(fields_of(head), b"www-authenticate")
    assert (status == 401) <= (len(challenges) == 1)
    # A quoted-string contains no other quote (RFC 9110 §5.6.4).
    assert all(challenge.count(b'"') % 2 == 0 for challenge in challenges)
    waits = values(fields_of(head), b"retry-after")
    assert (status == 503) <= (len(waits) == 1)
    assert all(int(seconds) > 0 for seconds in waits)


@pytest.mark.parametrize("reason", [reason for reason in CATALOGUE.values() if reason.concealed])
def test_concealed_reasons_look_alike(reason: Reason) -> None:
    one = render(Denial(USER_SUSPENDED, "the detail"))
    assert render(Denial(reason, "another detail", subject="alice", issuer="main")) == one
    assert reason.code.encode() not in one[1] + one[2]


def test_full_detail_shows_everything() -> None:
    assert problem(Denial(TENANT_MISMATCH, "the detail"), "full") == {
        "type": "urn:gateway:problem:tenant_mismatch",
        "title": TENANT_MISMATCH.title,
        "status": 403,
        "code": "tenant_mismatch",
        "detail": "the detail",
        "request_id": "the-id",
    }
    assert problem(Denial(TENANT_MISMATCH), "full")["detail"] == TENANT_MISMATCH.hint


def test_generic_detail_keeps_the_operators_detail() -> None:
    assert "the detail" not in str(problem(Denial(TOKEN_EXPIRED, "the detail")))


def test_an_answer_to_head_has_the_length_of_one_to_get() -> None:
    status, head, body = render(Denial(TOKEN_EXPIRED), head_only=True)
    assert (status, body) == (401, b"")
    assert head == render(Denial(TOKEN_EXPIRED))[1]


@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_connection_that_ends_is_announced(*, keep_alive: bool) -> None:
    head = render(Denial(TOKEN_EXPIRED), keep_alive=keep_alive)[1]
    assert values(fields_of(head), b"connection") == ([] if keep_alive else [b"close"])


def test_allow_lists_the_methods() -> None:
    head = render(Denial(METHOD_NOT_ALLOWED, allow=frozenset({"POST", "GET"})))[1]
    assert values(fields_of(head), b"allow") == [b"GET, POST"]


def test_a_missing_scope_is_named() -> None:
    route = Route("orders", "/orders", "orders", require=Requirement(scopes=frozenset({"b", "a"})))
    head = render(Denial(SCOPE_INSUFFICIENT, route=route))[1]
    (challenge,) = values(fields_of(head), b"www-authenticate")
    assert challenge.endswith(
        b'error="insufficient_scope", error_description="%b", scope="a b"' % SCOPE_INSUFFICIENT.title.encode()
    )


@pytest.mark.parametrize(
    ("reason", "detail", "code"),
    [
        (USER_SUSPENDED, "generic", "invalid_token"),
        (USER_SUSPENDED, "full", "user_suspended"),
        (TOKEN_EXPIRED, "generic", "token_expired"),
    ],
)
def test_a_code_hides_concealed_reasons(
    reason: Reason, detail: Literal["generic", "full"], code: str
) -> None:
    assert Responder(detail).code(Denial(reason)) == code


@pytest.mark.parametrize("detail", ["generic", "full"])
@pytest.mark.parametrize("reason", CATALOGUE.values(), ids=CATALOGUE)
@pytest.mark.parametrize("head_only", [False, True])
@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_response_does_not_depend_on_earlier_ones(
    reason: Reason, detail: Literal["generic", "full"], head_only: bool, keep_alive: bool
) -> None:
    """Ids of 32 characters are inserted into a rendered response; others are not."""
    responder = Responder(detail, clock=lambda: 1_700_000_000.0)
    rendered = [
        responder.render(Denial(reason), request_id, head_only=head_only, keep_alive=keep_alive)
        for request_id in ("0" * 32, "f" * 32, "1" * 31)
    ]
    (status, first), (_, second), (_, short) = rendered
    assert second == first.replace(b"0" * 32, b"f" * 32)
    length = first.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
    shorter = first.replace(b"0" * 32, b"1" * 31).replace(
        b"Content-Length: " + length, b"Content-Length: %d" % (int(length) - 1)
    )
    assert short == shorter
    assert first.count(b"0" * 32) == (1 if head_only else 2)
    assert {each for each, _ in rendered} == {status}
    told = responder.render(
        Denial(reason, "the detail"), "0" * 32, head_only=head_only, keep_alive=keep_alive
    )[1]
    assert (b"the detail" in told) is (detail == "full" and not head_only)
