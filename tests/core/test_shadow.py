"""Which denials shadow covers."""

from dataclasses import replace

import pytest

from gateway.core.model import Requirement, Route, Tier
from gateway.core.reasons import CATALOGUE, Denial, Group
from gateway.core.shadow import Shadow, Shadowed

ROUTE = Route("r", "/**", "u")
NEVER = {"origin_not_allowed", "internal_error", "overloaded"}
# A client without a signed token of the issuer must not profit from its shadow.
UNSIGNED = {
    "credentials_missing", "credentials_malformed", "credentials_multiple", "token_malformed",
    "token_too_large", "token_type_invalid", "algorithm_not_allowed", "critical_header_unsupported",
    "issuer_missing", "issuer_untrusted", "key_unknown", "signature_invalid", "token_inactive",
    "origin_not_allowed",
}  # fmt: skip


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_route_in_shadow_covers_all_but_protective_denials(code: str) -> None:
    reason = CATALOGUE[code]
    expected = reason.group is not Group.PROXY and code not in NEVER
    assert Shadow().covers(reason, replace(ROUTE, shadow=True), None) is expected
    assert not Shadow().covers(reason, ROUTE, "main")


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_issuer_in_shadow_covers_signed_tokens(code: str) -> None:
    reason = CATALOGUE[code]
    signed = reason.group in {Group.TOKEN, Group.USER, Group.POLICY} and code not in UNSIGNED
    shadow = Shadow(frozenset({"main"}))
    assert shadow.covers(reason, ROUTE, "main") is signed
    assert not shadow.covers(reason, ROUTE, "other")
    assert not shadow.covers(reason, ROUTE, None)


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_condition_in_shadow_covers_itself(code: str) -> None:
    route = replace(ROUTE, require=Requirement(condition_shadow=True))
    expected = code in {"condition_not_met", "condition_failed"}
    assert Shadow().covers(CATALOGUE[code], route, "main") is expected


def test_a_denial_is_kept_whole() -> None:
    denial = Denial(CATALOGUE["role_missing"], "why", issuer="main", subject="ann", tier=Tier.REDIS)
    denial.user_id = "7"
    again = Shadowed.of(denial).denial(ROUTE)
    for name in ("reason", "detail", "issuer", "subject", "tier", "user_id"):
        assert getattr(again, name) == getattr(denial, name)
    assert again.route is ROUTE
