"""Envoy's gRPC: what it describes, and what it gets."""

from collections.abc import Callable

import pytest

from gateway.core.admission import Admission
from gateway.core.model import Request
from gateway.decision.grpc import service
from gateway.memo import Memo
from tests.decision.asking import NAMES
from tests.decision.by_grpc import CheckRequest, ask, headers_of, question
from tests.harness import KEYLESS_ISSUER, House, token
from tests.pipelines import request
from tests.test_shadow import FORGED, Scene
from tests.tokens import ISSUER

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_success_sets_every_identity_header_and_removes_every_other_spelling(door: House) -> None:
    forged = {"x_user_id": "admin", "x-user.id": "admin", "x-user_roles": "admin"}
    answer = await ask(door, question(token=token(), headers=forged))
    assert answer.status.code == 0
    headers, removed = headers_of(answer), set(answer.ok_response.headers_to_remove)
    assert headers.keys() == {name.decode().lower() for name in NAMES} | {"x-request-id"}
    assert (headers["x-auth-issuer"], headers["x-auth-subject"]) == (ISSUER, "member")
    assert headers["x-user-roles"] == "reader,writer"
    assert headers["x-user-tenant"] == headers["x-user-missing"] == headers["x-auth-stale"] == ""
    assert {"x_user_id", "x-user.id", "x-user_roles", "x_auth_subject", "x.auth.subject"} <= removed
    assert {"authorization", "x-forwarded-uri", "x-original-uri", "x-original-forwarded-for"} <= removed
    assert not removed & headers.keys()
    for option in answer.ok_response.headers:
        assert option.append_action == 2, "OVERWRITE_IF_EXISTS_OR_ADD"


async def test_forged_headers_are_removed_in_every_spelling(door: House) -> None:
    """`headers.strip`, and fields that name another request."""
    odd = ("x_original_url", "x-rewrite_url", "x.forwarded.uri", "x-remote_user", "x_http_method_override")
    answer = await ask(door, question(token=token(), headers=dict.fromkeys(odd, "/forged")))
    removed = set(answer.ok_response.headers_to_remove)
    assert {*odd, "proxy", "remote-user", "x-remote-user", "x-http-method-override"} <= removed


async def test_headers_that_envoy_sends_as_they_came_are_read_like_others(door: House) -> None:
    """`encode_raw_headers`: they are in `header_map`, and `headers` is empty."""
    forged = {"x-user_id": "admin", "x-forwarded-for": "203.0.113.9"}
    answer = await ask(door, question(token=token(), headers=forged, raw=True))
    assert headers_of(answer)["x-auth-subject"] == "member"
    assert "x-user_id" in answer.ok_response.headers_to_remove
    both = question(token=token(), headers={"Authorization": f"Bearer {token().decode()}"}, raw=True)
    assert (await ask(door, both)).denied_response.status.code == 400


async def test_the_token_stays_where_the_route_forwards_it(door: House) -> None:
    answer = await ask(door, question(path="/forwarding/x", token=token()))
    assert "x_user_id" in answer.ok_response.headers_to_remove
    assert "authorization" not in answer.ok_response.headers_to_remove


async def test_a_token_that_is_refused_in_shadow_is_removed(
    door: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_through = await Scene(memo=True, routes=True).admitter.admit(request("/echo", FORGED))
    assert let_through.forwarding.route.forward_authorization

    async def in_shadow(_: Memo, __: Request) -> Admission:
        return let_through

    monkeypatch.setattr(Memo, "admit", in_shadow)
    answer = await ask(door, question(path="/forwarding/x", token=token()))
    assert "authorization" in answer.ok_response.headers_to_remove


async def test_successes_of_two_users_are_not_mixed(door: House) -> None:
    for _ in range(2):
        for subject in ("member", "admin"):
            assert headers_of(await ask(door, question(token=token(subject))))["x-auth-subject"] == subject
    anonymous = headers_of(await ask(door, question(path="/optional/x")))
    assert {value for name, value in anonymous.items() if name != "x-request-id"} == {""}


@pytest.mark.parametrize(
    ("check", "status", "code"),
    [
        (lambda: question(), 401, "credentials_missing"),
        (lambda: question(path="/both-admin/x", token=token()), 403, "role_missing"),
        (lambda: question(path="/nowhere"), 404, "route_not_found"),
        (lambda: question("DELETE", "/read/x", token=token()), 405, "method_not_allowed"),
        (lambda: question(path="/private/%2e%2e/x", token=token()), 400, "request_malformed"),
        (lambda: question("", token=token()), 400, "request_malformed"),
        (lambda: question("CONNECT", "", token=token()), 405, "method_not_allowed"),
        (lambda: question(host="", token=token()), 400, "request_malformed"),
        (lambda: question(token=token(iss=KEYLESS_ISSUER)), 503, "keys_unavailable"),
    ],
)
async def test_a_denial_is_that_of_its_reason(
    door: House, check: Callable[[], CheckRequest], status: int, code: str
) -> None:
    answer = await ask(door, check())
    denied, headers = answer.denied_response, headers_of(answer)
    assert (denied.status.code, answer.status.code) == (status, 16 if status == 401 else 7)
    assert f'"code":"{code}"' in denied.body
    assert (headers["X-Gateway-Reason-Status"], headers["X-Gateway-Reason-Code"]) == (str(status), code)
    assert headers["Content-Type"] == "application/problem+json"
    assert ("WWW-Authenticate" in headers) is (status == 401)
    assert headers.get("Retry-After") == ("5" if status == 503 else None)


async def test_two_tokens_are_refused(door: House) -> None:
    """Envoy joins fields of one name with a comma."""
    both = f"Bearer {token().decode()},Bearer {token('admin').decode()}"
    answer = await ask(door, question(headers={"authorization": both}))
    assert answer.denied_response.status.code == 401


async def test_the_fields_of_other_fronts_mean_nothing(door: House) -> None:
    forged = {
        "x-forwarded-uri": "/optional/x",
        "x-original-uri": "/optional/x",
        "host": "app.example.com",
    }
    assert (await ask(door, question(headers=forged))).denied_response.status.code == 401
    assert (await ask(door, question(host="app.example.com"))).HasField("ok_response")


@pytest.mark.parametrize(
    ("source", "chain", "client"),
    [
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),
        ("10.1.2.3", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "", "10.1.2.3"),
    ],
)
async def test_the_client_is_the_peer_of_envoy_or_the_one_that_a_trusted_peer_names(
    door: House, source: str, chain: str, client: str
) -> None:
    headers = {"x-forwarded-for": chain} if chain else {}
    before = await door.metric("gateway_decisions_total", front="grpc", status="401")
    await ask(door, question("POST", source=source, headers=headers))
    (event,) = door.events("denied")
    assert (event["client"], event["method"], event["route"]) == (client, "POST", "private")
    assert await door.metric("gateway_decisions_total", front="grpc", status="401") == before + 1


async def test_the_page_that_opens_a_websocket_with_a_cookie_is_checked(door: House) -> None:
    cookie = f"session={token().decode()}"
    own = {"cookie": cookie, "origin": "https://api.test", "sec-websocket-key": "x"}
    evil = {**own, "origin": "https://evil.test"}
    assert (await ask(door, question(path="/browser/x", headers=own))).HasField("ok_response")
    assert (await ask(door, question(path="/browser/x", headers=evil))).denied_response.status.code == 403


async def test_a_peer_that_is_not_trusted_is_denied(door: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "address", lambda _: "203.0.113.9")
    answer = await ask(door, question(token=token()))
    assert (answer.denied_response.status.code, "front_not_trusted" in answer.denied_response.body) == (
        403,
        True,
    )


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:5000", "10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::1"),
        ("unix:/run/x", "unknown"),
        ("", "unknown"),
    ],
)
async def test_theaddress_of_a_peer(peer: str, address: str) -> None:
    assert service.address(peer) == address
