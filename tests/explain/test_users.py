"""The user behind a token: the causes about users, subjects and tenants."""

import time
from uuid import uuid4

import pytest

from tests.explain.scene import denied, failed, outcomes
from tests.explain.world import World
from tests.harness import SECOND_ISSUER, token

UUID_TEXT = "0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01"


async def test_a_good_token_passes_every_step(world: World) -> None:
    await world.add()
    explanation = await world.explain(token("ann"))
    assert (explanation.decision, explanation.reason, explanation.cause, explanation.fix) == (
        "allow", None, None, None,
    )  # fmt: skip
    assert set(outcomes(explanation).values()) == {"pass", "skipped"}
    assert [name for name, outcome in outcomes(explanation).items() if outcome == "skipped"] == [
        "identity.local", "identity.primary", "policy",
    ]  # fmt: skip


class TestStatus:
    async def test_a_deleted_user_since_when(self, world: World) -> None:
        await world.add()
        await world.sql("UPDATE users SET deleted_at = '2026-01-31 12:00Z'")
        explanation = await denied(world, token("ann"), "user_deleted", "user_deleted")
        assert "2026-01-31T12:00:00Z" in explanation.summary
        assert failed(explanation) == ["user"]

    @pytest.mark.parametrize("status", ["suspended", "locked", "pending"])
    async def test_a_user_who_is_not_active(self, world: World, status: str) -> None:
        await world.add()
        await world.sql("UPDATE users SET status = $1", status)
        await denied(world, token("ann"), f"user_{status}", f"user_{status}")


class TestUnknown:
    async def test_no_user_anywhere(self, world: World) -> None:
        await world.add("somebody else")
        await denied(world, token("ann", tenant_id="acme"), "user_not_found", "user_unknown")

    @pytest.mark.parametrize(
        ("subject", "held", "cause"),
        [
            ("Ann.Smith", "ann.smith", "subject_case_differs"),
            ("straße", "STRASSE", "subject_case_differs"),
            (" ann", "ann", "subject_spacing_or_encoding"),
            ("ann", "ann ", "subject_spacing_or_encoding"),
            ("auth0%7Cann", "auth0|ann", "subject_spacing_or_encoding"),
            ("auth0|ann", "auth0%7Cann", "subject_spacing_or_encoding"),
            ("auth0|ann", "ann", "subject_prefix_differs"),
            ("ann", "auth0|ann", "subject_prefix_differs"),
            (UUID_TEXT.upper(), UUID_TEXT, "subject_uuid_spelling"),
            (UUID_TEXT.replace("-", ""), UUID_TEXT, "subject_uuid_spelling"),
            (UUID_TEXT, f"{{{UUID_TEXT}}}", "subject_uuid_spelling"),
        ],
    )
    async def test_another_spelling_of_the_subject(
        self, world: World, subject: str, held: str, cause: str
    ) -> None:
        owner = await world.add(held)
        explanation = await denied(world, token(subject), "user_not_found", cause)
        assert owner in str(explanation.fix)

    async def test_a_spelling_whose_first_owner_was_deleted(self, world: World) -> None:
        await world.add("ANN")
        await world.sql("UPDATE users SET status = 'deleted'")
        owner = await world.add("ann")
        explanation = await denied(world, token("Ann"), "user_not_found", "subject_case_differs")
        assert owner in str(explanation.fix)

    async def test_the_same_subject_under_another_issuer(self, world: World) -> None:
        owner = await world.add("ann", iss=SECOND_ISSUER)
        await world.add("ANN")
        explanation = await denied(world, token("ann"), "user_not_found", "subject_under_other_issuer")
        assert owner in str(explanation.fix)
        assert SECOND_ISSUER in explanation.summary

    async def test_two_persons_with_one_number_are_not_taken_for_each_other(self, world: World) -> None:
        await world.add("github|7")
        await denied(world, token("auth0|7"), "user_not_found", "user_unknown")

    async def test_an_address_for_a_subject(self, world: World) -> None:
        owner = await world.add("auth0|7", email="Ann@example.com")
        explanation = await denied(world, token("ann@example.com"), "user_not_found", "subject_is_email")
        assert owner in str(explanation.fix)

    async def test_an_address_whose_first_owner_was_deleted(self, world: World) -> None:
        await world.add("auth0|7", email="ann@example.com")
        await world.sql("UPDATE users SET status = 'deleted'")
        owner = await world.add("auth0|8", email="ann@example.com")
        explanation = await denied(world, token("ann@example.com"), "user_not_found", "subject_is_email")
        assert owner in str(explanation.fix)

    async def test_an_id_for_a_subject(self, world: World) -> None:
        owner = await world.add("auth0|7")
        await denied(world, token(owner), "user_not_found", "subject_is_user_id")

    async def test_a_number_for_a_subject(self, world: World) -> None:
        await world.add("1234")
        explanation = await denied(
            world, token(sub=1234), "subject_malformed", "subject_not_a_string", fixed=False
        )
        # Its user would be there, had it come as a string.
        assert failed(explanation) == ["claims"]

    async def test_a_subject_with_a_line_end(self, world: World) -> None:
        await world.add("ann")
        await denied(world, token("ann\n"), "subject_malformed", "subject_spacing_or_encoding", fixed=False)

    @pytest.mark.parametrize("subject", ["$(reboot)'\"; --", "-rf", "--help", "a`b`\\", "O'Hara"])
    async def test_a_command_holds_a_subject_as_it_is(self, world: World, subject: str) -> None:
        await denied(world, token(subject), "user_not_found", "user_unknown")
        rows = await world.sql("SELECT subject FROM identities")
        assert [row["subject"] for row in rows] == [subject]

    async def test_control_characters_are_in_no_command(self, world: World) -> None:
        explanation = await denied(
            world, token("ann\u202egnp"), "user_not_found", "user_unknown", fixed=False
        )
        assert explanation.fix is not None
        assert explanation.fix.command is None
        assert "\u202e" not in explanation.summary


class TestTenants:
    async def test_linked_to_a_user_of_another_tenant(self, world: World) -> None:
        await world.add(tenant="globex")
        await denied(
            world, token("ann", tenant_id="acme"), "tenant_mismatch", "identity_linked_to_other_tenant"
        )

    async def test_linked_to_ones_account_in_another_tenant(self, world: World) -> None:
        await world.add(tenant="globex", email="ann@example.com")
        right = await world.add("other", tenant="acme", email="ann@example.com")
        bad = token("ann", tenant_id="acme")
        await world.sql("UPDATE users SET status = 'suspended' WHERE id = $1::uuid", right)
        assert right not in str((await world.explain(bad)).fix)
        await world.sql("UPDATE users SET status = 'active' WHERE id = $1::uuid", right)
        explanation = await denied(world, bad, "tenant_mismatch", "identity_linked_to_other_tenant")
        assert right in str(explanation.fix)

    async def test_a_user_without_a_tenant(self, world: World) -> None:
        await world.add()
        await denied(world, token("ann", tenant_id="O'Hara \\ Sons"), "tenant_mismatch", "tenant_mismatch")

    async def test_a_route_for_one_tenant(self, world: World) -> None:
        await world.add(tenant="globex")
        explanation = await denied(
            world, token("ann"), "tenant_mismatch", "tenant_mismatch", url="/tenant/x", fixed=False
        )
        assert failed(explanation) == ["tenant"]


class TestRecreated:
    async def old(self, **changes: str) -> bytes:
        return token("ann", iat=int(time.time()) - 600, **changes)

    async def test_a_user_created_after_the_token(self, world: World) -> None:
        await world.add()
        explanation = await world.explain(await self.old())
        assert (explanation.decision, explanation.cause) == ("allow", "account_recreated")
        assert outcomes(explanation)["user"] == "warn"

    async def test_a_user_whose_older_tokens_are_revoked(self, world: World) -> None:
        await world.add()
        await world.sql("UPDATE users SET tokens_valid_after = created_at")
        await denied(world, await self.old(), "tokens_revoked_before", "account_recreated")

    async def test_a_user_whose_address_has_a_new_account(self, world: World) -> None:
        await world.add("new", email="ann@example.com")
        bad = await self.old(email="ann@example.com")
        await denied(world, bad, "user_not_found", "account_recreated")

    async def test_a_user_created_in_the_second_of_the_token(self, world: World) -> None:
        await world.add("new", email="ann@example.com")
        issued = int(time.time())
        await world.sql("UPDATE users SET created_at = to_timestamp($1)", issued + 0.9)
        await denied(
            world, token("ann", iat=issued, email="ann@example.com"), "user_not_found", "account_not_linked"
        )

    async def test_a_deleted_user_with_a_new_account(self, world: World) -> None:
        await world.add(email="ann@example.com")
        await world.sql("UPDATE users SET status = 'deleted'")
        heir = await world.add("new", email="ann@example.com")
        explanation = await denied(world, await self.old(), "user_deleted", "account_recreated")
        assert heir in str(explanation.fix)


class TestAtOnce:
    async def test_an_expired_token_without_a_user(self, world: World) -> None:
        past = int(time.time()) - 3600
        bad = token(str(uuid4()), iat=past - 300, exp=past)
        explanation = await denied(world, bad, "token_expired", "user_unknown", fixed=False)
        assert failed(explanation) == ["times", "identity.postgres", "user"]
        await world.apply(explanation.fix)
        assert (await world.explain(bad)).cause == "token_expired"

    async def test_all_that_is_wrong_is_shown(self, world: World) -> None:
        await world.add(tenant="globex")
        await world.sql("UPDATE users SET status = 'locked'")
        past = int(time.time()) - 3600
        bad = token("ann", aud="other", tenant_id="acme", iat=past, exp=past + 300)
        explanation = await world.explain(bad, url="/orders/1")
        assert failed(explanation) == ["times", "audience", "user", "tenant", "policy"]
        assert (explanation.reason, explanation.cause) == ("token_expired", "audience_mismatch")
