"""A denial is explained without its token, and says how far."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from gateway.core.model import Issuer, StoreUnavailable, Tier, User, UserStatus
from gateway.core.reasons import CATALOGUE
from gateway.core.requests.token_marks import TokenMarks
from gateway.core.tokens.jws import KeySet, VerificationKey
from gateway.explain.answer import Explanation, Step
from gateway.explain.evidence.issuer_clocks import IssuerClocks
from gateway.explain.kept_denials import DenialExplainer
from gateway.explain.setup import Setup
from gateway.stores.postgres.directory.user_rows import UserNotFound, UserRecord
from gateway.telemetry.denials import DenialRecord

MAIN = Issuer("main", "https://idp.example.com/", frozenset({"api"}), frozenset({"RS256"}))
NOW = 1_790_000_000.0
DENIAL = DenialRecord(
    id="1",
    at=NOW - 3600,
    reason="user_suspended",
    status=401,
    route="orders",
    issuer="main",
    subject_hash="0123456789abcdef",
    method="GET",
    path="/orders/1",
    client="192.0.2.1",
    request_id="the-id",
    detail=None,
    tier="redis",
    user_id="u1",
    token=TokenMarks(
        "fedcba9876543210",
        "RS256",
        "k1",
        "JWT",
        "https://idp.example.com/",
        "api",
        exp := NOW - 7200,
        None,
        exp,
    ),
)


class Users:
    def __init__(self, users: Mapping[str, UserStatus] | None) -> None:
        self._users = users

    async def get(self, user_id: str) -> UserRecord:
        if self._users is None:
            raise StoreUnavailable(Tier.POSTGRES, "db.example.com:5432: it is away")
        if user_id not in self._users:
            raise UserNotFound(user_id)
        return UserRecord(User(user_id, self._users[user_id]), (), None, None, None)


class Keys:
    def current(self, _: str, /) -> KeySet | None:
        return KeySet([VerificationKey("k2", frozenset({"RS256"}), "", {})])


async def explained(
    denial: DenialRecord, users: Mapping[str, UserStatus] | None = None
) -> tuple[Explanation, dict[str, Step]]:
    setup = Setup([MAIN], [], config="g.yaml")
    found = await DenialExplainer(setup, Keys(), Users(users), lambda: NOW).explain(denial)
    return found, {step.name: step for step in found.steps}


async def test_a_request_that_passed_in_shadow_was_not_denied() -> None:
    found, _ = await explained(replace(DENIAL, shadow=True), {"u1": UserStatus.SUSPENDED})

    assert (found.decision, found.reason) == ("allow", "user_suspended")
    assert found.summary.startswith("GET /orders/1 passed ")
    assert "Else: 401, " in found.summary


async def test_a_suspended_user_is_activated_only_if_that_is_so_now() -> None:
    found, steps = await explained(DENIAL, {"u1": UserStatus.SUSPENDED})

    assert (found.reason, found.cause) == ("user_suspended", "user_suspended")
    assert found.fix is not None
    assert found.fix.command == "gateway users activate u1 --config g.yaml"
    assert steps["user"].detail == "now it is suspended"
    assert "GET /orders/1 was denied 60 min ago with 401" in found.summary

    for now, text in ((UserStatus.ACTIVE, "active now"), (UserStatus.DELETED, "deleted now")):
        found, _ = await explained(DENIAL, {"u1": now})
        assert found.fix is not None
        assert text in found.fix.text
        assert found.fix.command is None


@pytest.mark.parametrize(("users", "detail"), [({}, "it has been removed since"), (None, "is not known now")])
async def test_a_user_who_cannot_be_seen_gets_no_command_about_it(
    users: dict[str, UserStatus] | None, detail: str
) -> None:
    found, steps = await explained(DENIAL, users)

    assert detail in (steps["user"].detail or "")
    assert found.fix is not None
    assert "users activate" not in (found.fix.command or "")


async def test_the_explanation_names_what_was_not_kept() -> None:
    found, steps = await explained(
        replace(DENIAL, reason="signature_invalid", user_id=None, subject_hash=None)
    )

    assert found.cause is None
    assert steps["token"].outcome == "skipped"
    assert found.fix is not None
    assert found.fix.command == "gateway explain - --method GET --url /orders/1 --config g.yaml"
    assert (steps["key"].outcome, steps["times"].outcome) == ("skipped", "skipped")


async def test_an_unknown_key_is_compared_with_the_keys_of_now() -> None:
    unknown = replace(DENIAL, reason="key_unknown", user_id=None, subject_hash=None)
    _, steps = await explained(unknown)
    assert steps["key"].detail == 'now the issuer has "k2"'

    assert DENIAL.token is not None
    _, steps = await explained(replace(unknown, token=replace(DENIAL.token, key="k2")))
    assert "may pass now" in (steps["key"].detail or "")


async def test_an_issuer_that_is_not_configured_is_shown_beside_those_that_are() -> None:
    assert DENIAL.token is not None
    _, steps = await explained(
        replace(
            DENIAL, reason="issuer_untrusted", issuer="untrusted", user_id=None, subject_hash=None,
            token=replace(DENIAL.token, issuer="https://other/"),
        )
    )  # fmt: skip

    assert steps["issuer"].outcome == "fail"
    assert steps["issuer"].found == '`iss` "https://other/"'
    assert "https://idp.example.com/" in (steps["issuer"].expected or "")


@pytest.mark.parametrize("code", CATALOGUE)
@pytest.mark.parametrize("kept", ["all", "little"])
async def test_every_reason_has_an_explanation(code: str, kept: str) -> None:
    denial = replace(DENIAL, reason=code)
    if kept == "little":
        denial = replace(
            denial, token=None, user_id=None, subject_hash=None, issuer="none", route="unmatched"
        )

    found, _ = await explained(denial, {"u1": UserStatus.ACTIVE})

    assert found.reason == code
    assert found.fix is not None
    assert found.fix.text


async def test_a_time_is_compared_with_the_tokens_before() -> None:
    clocks = IssuerClocks(lambda: NOW)
    for place in range(9):
        clocks.saw("main", {"iat": NOW + 42}, bytes([place]) * 8)
    setup = Setup([MAIN], [], config="g.yaml")
    explainer = DenialExplainer(setup, Keys(), Users({}), lambda: NOW, clocks=clocks)
    found = await explainer.explain(replace(DENIAL, reason="token_expired", user_id=None))
    (times,) = [step for step in found.steps if step.name == "times"]
    assert times.detail is not None
    assert "the issuer's clock is 42 s ahead of ours, as of its last 9 tokens" in times.detail
