"""The requirements beyond a valid token: route, scopes and roles; and revocations."""

import time

import pytest

from tests import tokens
from tests.explain.scene import denied, failed, outcomes
from tests.explain.world import World
from tests.harness import token


@pytest.fixture(autouse=True)
async def ann(world: World) -> str:
    return await world.add()


class TestRoutes:
    async def test_a_scope_that_is_missing(self, world: World) -> None:
        bad = token("ann", scope="a b")
        await denied(world, bad, "scope_insufficient", "scope_insufficient", url="/orders/1", fixed=False)

    async def test_a_role_that_is_missing(self, world: World) -> None:
        await denied(world, token("ann"), "role_missing", "role_missing", url="/admin/x")

    async def test_a_request_that_meets_the_requirements_is_allowed(self, world: World) -> None:
        explanation = await world.explain(
            token("ann", scope="orders:read"), url="https://gw.example.com/orders/1?a=b#c"
        )
        assert explanation.decision == "allow"
        assert outcomes(explanation)["policy"] == "pass"

    async def test_a_path_without_a_route(self, world: World) -> None:
        await denied(world, token("ann"), "route_not_found", "route_not_found", url="/invoices/7")

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("/order/1", "differ in one letter"),
            ("/Orders/1", "the case of the letters"),
            ("/api/orders/1", '"/api" stands before it'),
            ("/auth-request", "X-Original-URI"),
            ("/ext-authz/orders/1", "decision.listen"),
            ("/readyz", "admin.listen"),
            ("/host/x", "a path alone names none"),
        ],
    )
    async def test_a_path_that_was_meant_otherwise(self, world: World, url: str, says: str) -> None:
        """No further route is offered: it would need less than the one that was meant."""
        reason = "route_not_found"
        told = await denied(world, token("ann"), reason, reason, url=url, fixed=False)
        assert says in f"{told.summary} {told.fix}"
        assert told.fix is not None
        assert told.fix.config is None

    async def test_a_host_without_a_route(self, world: World) -> None:
        good = token("ann")
        await denied(world, good, "route_not_found", "route_not_found", url="http://other.example.com/host/x")
        assert (await world.explain(good, url="/host/x")).reason == "route_not_found"

    async def test_a_method_that_is_not_served(self, world: World) -> None:
        await denied(
            world, token("ann"), "method_not_allowed", "method_not_allowed", method="DELETE", url="/read/x"
        )

    async def test_a_method_that_is_not_known(self, world: World) -> None:
        reason, cause = "method_not_implemented", "method_not_allowed"
        await denied(world, token("ann"), reason, cause, method="LABEL", url="/read/x")

    async def test_an_unusual_method_on_a_route_that_names_none(self, world: World) -> None:
        """A fix that named it there would end all other methods."""
        cause = "method_not_allowed"
        for method, reason in (("LABEL", "method_not_implemented"), ("TRACE", "method_not_allowed")):
            told = await denied(
                world, token("ann"), reason, cause, method=method, url="/orders/7", fixed=False
            )
            assert told.fix is not None
            assert told.fix.config is None

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("/a/../b", "the path holds a dot segment"),
            ("/%2e%2e/x", "the path holds a dot segment"),
            ("//host/x", "the path holds an empty segment"),
            ("/ä", "outside ASCII"),
            ("/a?b=ä", "the query holds"),
            ("no path", "neither a path, which begins with `/`, nor a complete http or https URL"),
            ("orders/1", "neither a path"),
            ("", "neither a path"),
            ("localhost:8080/x", "neither a path"),
            ("http://", "neither a path"),
            ("ftp://gw.example.com/x", "its scheme is neither http nor https"),
            ("http://[::1/x", "it is not a URL: Invalid IPv6 URL"),
            ("http://gw.example.com:99999/x", "it is not a URL: Port out of range"),
            ("http://exa mple/x", "Host is not a host name"),
        ],
    )
    async def test_a_url_that_cannot_be_a_requests(self, world: World, url: str, why: str) -> None:
        bad = token("ann", aud="other")
        explanation = await denied(world, bad, "request_malformed", "request_malformed", url=url, fixed=False)
        assert explanation.summary.startswith("The `url` ")
        assert why in explanation.summary
        assert "`url`" in str(explanation.fix)
        # What is wrong with the token is found all the same.
        assert failed(explanation) == ["route", "audience"]

    @pytest.mark.parametrize("url", ["ws://gw.example.com/orders/1", "WSS://gw.example.com/orders/1"])
    async def test_the_url_of_a_websocket(self, world: World, url: str) -> None:
        assert (await world.explain(token("ann", scope="orders:read"), url=url)).decision == "allow"

    async def test_a_query_is_not_shown(self, world: World) -> None:
        """Tokens travel in it, where a route says so."""
        for url in ("/orders/1?access_token=hidden", "http://[::1/x?access_token=hidden", "x?hidden"):
            assert "hidden" not in str(await world.explain(token("ann"), url=url))

    async def test_a_route_that_asks_for_no_token(self, world: World) -> None:
        explanation = await world.explain(token("nobody"), url="/public/x")
        assert (explanation.decision, explanation.cause) == ("allow", None)
        assert "identity.postgres" in failed(explanation)

    async def test_a_route_that_may_be_used_without_a_token(self, world: World) -> None:
        await denied(world, token("nobody"), "user_not_found", "user_unknown", url="/optional/x")


class TestRevocations:
    async def revoke(self, world: World, kind: str, issuer: str, value: str) -> None:
        await world.sql(
            "INSERT INTO revocations (kind, issuer, value, revoked_at, expires_at, reason, revoked_by)"
            " VALUES ($1, $2, $3, now() + interval '1 s', '2999-01-01Z', 'left on a train', 'operator')",
            kind, issuer, value,
        )  # fmt: skip

    async def test_of_the_token(self, world: World) -> None:
        await self.revoke(world, "jti", "main", "-j'1")
        explanation = await denied(world, token("ann", jti="-j'1"), "token_revoked", "token_revoked")
        for told in ("left on a train", "operator", "2999-01-01"):
            assert told in explanation.summary

    async def test_of_the_user(self, world: World, ann: str) -> None:
        await self.revoke(world, "user", "", ann)
        await denied(world, token("ann"), "tokens_revoked_before", "user_tokens_revoked")

    async def test_of_the_issuer(self, world: World) -> None:
        await self.revoke(world, "issuer", "https://idp.example.com/", "")
        await denied(world, token("ann"), "tokens_revoked_before", "issuer_tokens_revoked")

    async def test_by_an_instant_of_the_user(self, world: World) -> None:
        await world.sql("UPDATE users SET tokens_valid_after = now() + interval '1 h'")
        await denied(world, token("ann"), "tokens_revoked_before", "user_tokens_revoked")

    async def test_by_an_instant_that_no_new_token_reaches(self, world: World, ann: str) -> None:
        """To sign in again does not help: the instant lies ahead, or the token tells no time."""
        await world.sql("UPDATE users SET tokens_valid_after = '2999-01-01Z'")
        reason, cause = "tokens_revoked_before", "user_tokens_revoked"
        told = await denied(world, token("ann"), reason, cause)
        assert "does not help" in str(told.fix)
        await world.sql(
            "INSERT INTO revocations (kind, issuer, value, revoked_at, expires_at)"
            " VALUES ('user', '', $1, '2998-01-01Z', '2999-01-01Z')",
            ann,
        )
        told = await denied(world, token("ann"), reason, cause)
        assert "does not help" in str(told.fix)
        await world.sql("UPDATE users SET tokens_valid_after = '2020-01-01Z'")
        undated = tokens.sign(tokens.without(tokens.claims("ann"), "iat"), tokens.rsa_key("main"))
        told = await denied(world, undated, reason, cause, fixed=False)
        assert "`iat`" in str(told.fix)

    async def test_of_older_tokens_alone(self, world: World, ann: str) -> None:
        await self.revoke(world, "user", "", ann)
        explanation = await world.explain(token("ann", iat=int(time.time()) + 20))
        assert (explanation.decision, explanation.cause) == ("allow", None)

    @pytest.mark.parametrize(
        ("key", "reason", "cause"),
        [
            ("revoked:jti:main:j", "token_revoked", "token_revoked"),
            ("revoked:user:{ann}", "tokens_revoked_before", "user_tokens_revoked"),
            ("revoked:issuer:main", "tokens_revoked_before", "issuer_tokens_revoked"),
        ],
    )
    async def test_by_a_key_in_redis_alone(
        self, world: World, ann: str, key: str, reason: str, cause: str
    ) -> None:
        await world.guard()
        await world.set_key(key.format(ann=ann), "99999999999")
        explanation = await denied(world, token("ann", jti="j"), reason, cause)
        assert "Redis" in explanation.summary

    async def test_a_revocation_that_redis_lacks(self, world: World) -> None:
        await world.guard()
        await self.revoke(world, "jti", "main", "j")
        explanation = await world.explain(token("ann", jti="j"))
        assert (explanation.decision, explanation.cause) == ("allow", "cache_stale")
        assert outcomes(explanation)["revocation"] == "warn"


class TestConditions:
    async def test_a_condition_that_is_false(self, world: World) -> None:
        bad = token("ann", plan="free")
        told = await denied(world, bad, "condition_not_met", "condition_not_met", url="/pro/x", fixed=False)
        assert 'claims.plan = "free"' in told.summary
        assert told.fix is not None
        assert "a token with the right" in told.fix.text
        assert (told.fix.command, told.fix.config) == (None, None)
        assert failed(told) == ["condition"]

    async def test_a_condition_that_reads_a_missing_field(self, world: World) -> None:
        told = await denied(
            world, token("ann"), "condition_failed", "condition_failed", url="/pro/x", fixed=False
        )
        assert "claims.plan is missing" in told.summary

    async def test_a_condition_on_the_request(self, world: World) -> None:
        told = await denied(
            world, token("ann"), "condition_failed", "condition_failed", url="/office/x", fixed=False
        )
        assert told.fix is not None
        assert "Send the request as the condition asks for it" in told.fix.text

    async def test_a_condition_that_holds(self, world: World) -> None:
        told = await world.explain(token("ann", plan="pro"), url="/pro/x")
        assert (told.decision, outcomes(told)["condition"]) == ("allow", "pass")
        assert "condition" not in outcomes(await world.explain(token("ann"), url="/orders/x"))

    async def test_without_a_request_it_is_skipped_with_the_route(self, world: World) -> None:
        assert "condition" not in outcomes(await world.explain(token("ann")))

    async def test_a_request_in_shadow_passes_and_is_explained(self, world: World) -> None:
        for route in world.config["routes"]:
            if route["name"] == "pro":
                route["require"]["condition_mode"] = "shadow"
        told = await world.explain(token("ann", plan="free"), url="/pro/x")
        assert (told.decision, told.reason, told.cause) == ("allow", "condition_not_met", "condition_not_met")
        assert told.summary.startswith("The request passes, because of `mode: shadow`")
        assert (await world.explain(token("ann"), url="/admin/x")).decision == "deny"
