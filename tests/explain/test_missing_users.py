"""Tokens without a user, and users who are not active, on routes that take them."""

import time

import asyncpg
import pytest

from gateway.core.model import UserStatus
from gateway.explain import Explanation
from tests.explain.scene import denied, failed, outcomes
from tests.explain.world import World
from tests.harness import JOINING_ISSUER, newcomer, token
from tests.stores.examples import claims


async def allowed(world: World, raw: bytes, url: str) -> Explanation:
    """Have a request explained without a problem, then admitted."""
    explanation = await world.explain(raw, url=url)
    assert await world.decide(raw, url=url) is None
    assert (explanation.decision, explanation.cause, explanation.fix) == ("allow", None, None)
    assert failed(explanation) == []
    return explanation


def step(explanation: Explanation, name: str) -> str:
    (found,) = [each for each in explanation.steps if each.name == name]
    return f"{found.outcome}; {found.expected}; {found.found}; {found.detail}"


@pytest.mark.parametrize("status", UserStatus)
async def test_a_user_of_any_status_on_a_route_for_all(world: World, status: UserStatus) -> None:
    await world.add()
    await world.sql("UPDATE users SET status = $1", status.value)
    explanation = await allowed(world, token("ann"), "/leave/x")
    assert f"; {status.value}" in step(explanation, "user")
    if status is not UserStatus.ACTIVE:
        await denied(world, token("ann"), f"user_{status}", f"user_{status}", url="/private/x", fixed=False)


class TestForward:
    async def test_without_a_user(self, world: World) -> None:
        explanation = await allowed(world, token("ann"), "/welcome/x")
        assert "the route forwards it without one" in explanation.summary
        assert "X-User-Missing: true" in step(explanation, "user")

    async def test_without_a_route(self, world: World) -> None:
        explanation = await denied(world, token("ann"), "user_not_found", "user_unknown", fixed=False)
        assert '"welcome"' in explanation.summary

    async def test_a_memory_that_is_old(self, world: World) -> None:
        """It is admitted as missing, and should not be."""
        await world.add("ann")
        await world.remember(claims(), None, await world.guard())
        raw = token("ann", iat=int(time.time()) - 100)
        explanation = await world.explain(raw, url="/welcome/x")
        assert (explanation.decision, explanation.cause) == ("allow", "negative_cache_entry")

    async def test_a_scope_that_is_missing(self, world: World) -> None:
        world.config["routes"].append(
            {
                "name": "scoped", "match": {"path": "/scoped"}, "upstream": "raw", "missing_user": "forward",
                "require": {"scopes": ["sign-up"]},
            }
        )  # fmt: skip
        bad = token("ann")
        await denied(world, bad, "scope_insufficient", "scope_insufficient", url="/scoped", fixed=False)

    async def test_a_role_that_the_token_lacks(self, world: World) -> None:
        world.config["routes"].append(
            {
                "name": "staff", "match": {"path": "/staff"}, "upstream": "raw", "missing_user": "forward",
                "require": {"token_roles": ["staff"]},
            }
        )  # fmt: skip
        explanation = await denied(
            world, token("ann"), "role_missing", "role_missing", url="/staff", fixed=False
        )
        assert failed(explanation) == ["policy"]


class TestProvision:
    async def test_the_explanation_describes_the_user_who_would_be_created(self, world: World) -> None:
        """Without personal data; the world sees that nothing is created."""
        explanation = await allowed(world, newcomer("ann"), "/join/x")
        assert "the request creates one" in explanation.summary
        told = step(explanation, "user")
        for part in ("from `email`", "from `name`", 'tenant "acme"', 'roles "reader", "writer"'):
            assert part in told
        assert "ann@example.org" not in str(explanation.to_json())
        assert "New Comer" not in str(explanation.to_json())

    async def test_a_second_user_for_the_same_person(self, world: World) -> None:
        """The request passes, and would split the account."""
        owner = await world.add("ANN", iss=JOINING_ISSUER)
        explanation = await world.explain(newcomer("ann"), url="/join/x")
        assert (explanation.decision, explanation.cause) == ("allow", "subject_case_differs")
        assert "The request would create a second user, perhaps for the same person" in explanation.summary
        assert outcomes(explanation)["user"] == "warn"
        assert explanation.fix is not None
        assert (explanation.fix.command or "").startswith(f"gateway users link {owner}")
        await world.sql("UPDATE users SET status = 'deleted'")
        assert (await world.explain(newcomer("ann"), url="/join/x")).cause is None

    async def test_a_token_without_a_name(self, world: World) -> None:
        explanation = await allowed(world, newcomer("ann", name=None), "/join/x")
        assert "which the token lacks" in step(explanation, "user")

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"email_verified": False}, "`email_verified` does not meet `provisioning.when`"),
            ({"email": None}, "`email` is not an e-mail address"),
            ({"tid": 1.5}, "`tid` is not a tenant"),
        ],
    )
    async def test_a_token_that_may_create_none(
        self, world: World, changes: dict[str, bool | float | None], told: str
    ) -> None:
        raw = newcomer("ann", **changes)
        explanation = await denied(world, raw, "user_not_found", "user_unknown", url="/join/x")
        assert told in explanation.summary

    async def test_an_issuer_that_creates_none(self, world: World) -> None:
        explanation = await denied(world, token("ann"), "user_not_found", "user_unknown", url="/join/x")
        assert "has no `provisioning`" in explanation.summary

    async def test_an_address_of_another_user(self, world: World) -> None:
        owner = await world.add("old", email="Ann@Example.org", tenant="acme")
        raw = newcomer("ann")
        explanation = await denied(world, raw, "account_not_linked", "account_not_linked", url="/join/x")
        assert owner in explanation.summary
        assert "example.org" not in explanation.summary.lower()

    async def test_an_address_of_two_users_or_of_another_tenant_is_a_question(self, world: World) -> None:
        await world.add("old", email="ann@example.org", tenant="globex")
        raw = newcomer("ann")
        elsewhere = await world.explain(raw, url="/join/x")
        assert elsewhere.fix is not None
        assert elsewhere.fix.command is None
        assert "with a link, the request would still be refused" in elsewhere.fix.text
        await world.add("older", email="ann@example.org", tenant="acme")
        both = await world.explain(raw, url="/join/x")
        assert both.fix is not None
        assert both.fix.command is None
        assert "Find out which of the users" in both.fix.text

    async def test_an_address_of_a_deleted_user(self, world: World) -> None:
        owner = await world.add("old", email="ann@example.org", tenant="acme")
        await world.sql("UPDATE users SET status = 'deleted'")
        raw = newcomer("ann")
        explanation = await denied(world, raw, "user_deleted", "user_deleted", url="/join/x", fixed=False)
        assert owner in explanation.summary
        await world.apply(explanation.fix)
        await denied(world, raw, "account_not_linked", "account_not_linked", url="/join/x")

    async def test_a_user_who_could_not_use_the_route(self, world: World) -> None:
        explanation = await denied(
            world, newcomer("ann"), "role_missing", "role_missing", url="/join-admin/x", fixed=False
        )
        assert '"reader", "writer"' in explanation.summary

    async def test_a_role_that_may_not_create(self, world: World) -> None:
        connection = await asyncpg.connect(world.dsn)
        await connection.execute("DROP FUNCTION gateway_provision_user")
        await connection.close()
        raw = newcomer("ann")
        explanation = await world.explain(raw, url="/join/x")
        assert (explanation.reason, explanation.cause) == ("user_store_unavailable", "store_not_migrated")

    async def test_a_user_who_exists_is_a_user_like_any_other(self, world: World) -> None:
        """Also one who is younger than the token: that is what its first request makes."""
        await world.add("ann", iss=JOINING_ISSUER, tenant="acme")
        explanation = await allowed(world, newcomer("ann", iat=1_600_000_000), "/join/x")
        assert explanation.summary == "The token is valid, and its user is admitted."
        assert outcomes(explanation)["user"] == "pass"
