"""The catalogue of denial reasons."""

import re

import pytest

from gateway.core import reasons
from gateway.core.reasons import CATALOGUE, Denial, Group, Reason

TOKEN = """
    credentials_missing credentials_malformed credentials_multiple token_malformed token_too_large
    token_type_invalid algorithm_not_allowed critical_header_unsupported issuer_missing issuer_untrusted
    key_unknown signature_invalid token_expired token_not_yet_valid token_issued_in_future
    token_lifetime_too_long audience_mismatch claim_missing claim_not_accepted
    id_token_not_accepted claim_malformed subject_missing
    subject_malformed token_inactive token_revoked origin_not_allowed
"""
USER = """
    user_not_found user_deleted user_suspended user_locked user_pending tokens_revoked_before
    tenant_mismatch account_not_linked
"""
POLICY = """
    scope_insufficient role_missing condition_not_met condition_failed
    rate_limited quota_exceeded concurrency_exceeded
"""
OURS = """
    keys_unavailable introspection_unavailable user_store_unavailable revocation_unavailable overloaded
    internal_error assertion_unavailable
"""
PROXY = """
    route_not_found method_not_allowed method_not_implemented front_not_trusted request_malformed
    request_too_large target_too_long body_too_large request_timeout connections_exceeded upstream_unreachable
    upstream_timeout upstream_protocol_error
"""
EVERY_REASON = pytest.mark.parametrize("reason", CATALOGUE.values(), ids=CATALOGUE)


@pytest.mark.parametrize(
    ("group", "codes"),
    [
        (Group.TOKEN, TOKEN),
        (Group.USER, USER),
        (Group.POLICY, POLICY),
        (Group.OURS, OURS),
        (Group.PROXY, PROXY),
    ],
)
def test_the_codes_are_the_published_ones(group: Group, codes: str) -> None:
    assert {code for code, reason in CATALOGUE.items() if reason.group is group} == set(codes.split())


@EVERY_REASON
def test_a_reason_is_a_constant_of_its_own_name(reason: Reason) -> None:
    assert CATALOGUE[reason.code] is reason
    assert getattr(reasons, reason.code.upper()) is reason
    assert re.fullmatch("[a-z_]+", reason.code)


@EVERY_REASON
def test_a_fault_of_ours_is_never_blamed_on_the_client(reason: Reason) -> None:
    if reason.group is Group.OURS:
        assert (reason.status, reason.challenge, reason.concealed) == (503, None, False)
        assert reason.retry_after is not None
        assert reason.retry_after > 0
    elif reason.code.startswith("upstream_"):
        assert reason.status in {502, 504}
        assert reason.challenge is None
    else:
        # A method that no part of the gateway knows: RFC 9110 §15.6.2.
        assert 400 <= reason.status < 500 or reason.code == "method_not_implemented"


@EVERY_REASON
def test_a_401_is_always_a_challenge(reason: Reason) -> None:
    """RFC 9110 §15.5.2; the errors are those of RFC 6750 §3.1, each with its status."""
    statuses = {"": {401}, "invalid_request": {400}, "invalid_token": {401, 403}, "insufficient_scope": {403}}
    if reason.status == 401:
        assert reason.challenge is not None
    if reason.challenge is not None:
        assert reason.status in statuses[reason.challenge]


@EVERY_REASON
def test_only_reasons_about_users_are_concealed(reason: Reason) -> None:
    assert reason.concealed is (reason.group is Group.USER)


@EVERY_REASON
def test_texts_fit_where_they_are_shown(reason: Reason) -> None:
    assert reason.title
    assert reason.hint
    # The title stands in a quoted string of WWW-Authenticate (RFC 6750 §3).
    assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", reason.title)


def test_a_denial_says_its_code_and_detail() -> None:
    assert str(Denial(reasons.TOKEN_EXPIRED)) == "token_expired"
    assert str(Denial(reasons.TOKEN_EXPIRED, "9 s ago")) == "token_expired: 9 s ago"
