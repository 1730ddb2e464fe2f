"""Mistakes of the token itself: shape, issuer, key, signature, times, audience, claims."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from gateway import translation
from gateway.core.model import JSON
from gateway.explain import Explainer
from tests import tokens
from tests.explain.scene import denied, failed, outcomes
from tests.explain.world import World, keeps_inside
from tests.harness import STRICT_ISSUER, token, write_jwks
from tests.issuer_keys.issuer import Answer, IssuerServer, serving


@pytest.fixture(autouse=True)
async def ann(world: World) -> None:
    await world.add()
    await world.add(iss=STRICT_ISSUER)


def signed(key: tokens.SigningKey | bytes, **changes: JSON) -> bytes:
    return tokens.sign({**tokens.claims("ann"), **changes}, key)


class TestShape:
    @pytest.mark.parametrize(
        ("bad", "advice"),
        [
            (b"0123456789abcdef0123", "opaque token or an API key"),
            (b"a.b.c.d.e", "encrypted token"),
            (b"eyJhbGciOi.eyJzdWIi", "Copy the complete token"),
            (b"a.b.c", "Copy the complete token"),
        ],
    )
    async def test_no_token(self, world: World, bad: bytes, advice: str) -> None:
        explanation = await denied(world, bad, "token_malformed", "token_malformed", fixed=False)
        assert advice in str(explanation.fix)
        assert set(outcomes(explanation)) - {"shape"} == {
            name for name, outcome in outcomes(explanation).items() if outcome == "skipped"
        }

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (b"", "credentials_malformed"),
            (b"\xff.\xff", "credentials_malformed"),
            (b"a" * 17_000, "token_too_large"),
        ],
    )
    async def test_no_credential(self, world: World, bad: bytes, reason: str) -> None:
        await denied(world, bad, reason, "token_malformed", fixed=False)

    async def test_a_token_of_another_type(self, world: World) -> None:
        bad = tokens.sign(tokens.claims("ann"), tokens.rsa_key("main"), typ="dpop+jwt")
        explanation = await denied(world, bad, "token_type_invalid", "token_malformed", fixed=False)
        assert failed(explanation) == ["header"]

    async def test_no_algorithm_of_ours(self, world: World) -> None:
        bad = tokens.unsigned({"alg": "none"}, tokens.claims("ann"), b"x")
        await denied(world, bad, "algorithm_not_allowed", "algorithm_not_allowed", fixed=False)


class TestAlgorithm:
    async def test_one_that_is_not_configured(self, world: World) -> None:
        world.config["issuers"][0]["algorithms"] = ["ES256"]
        await denied(world, token("ann"), "algorithm_not_allowed", "algorithm_not_allowed", fixed=False)

    async def test_a_secret_where_there_is_none(self, world: World) -> None:
        bad = signed(tokens.secret())
        explanation = await denied(world, bad, "algorithm_not_allowed", "algorithm_not_allowed", fixed=False)
        assert explanation.fix is not None
        assert explanation.fix.config is None

    async def test_one_that_does_not_fit_the_key(self, world: World) -> None:
        bad = tokens.sign(tokens.claims("ann"), tokens.ec_key("main-ec"), kid="main")
        await denied(world, bad, "algorithm_not_allowed", "algorithm_not_allowed", fixed=False)


class TestIssuer:
    async def test_an_unknown_one(self, world: World) -> None:
        bad = signed(tokens.rsa_key("main"), iss="https://elsewhere.example.org/")
        await denied(world, bad, "issuer_untrusted", "issuer_unknown", fixed=False)

    @pytest.mark.parametrize(
        "configured",
        [
            tokens.ISSUER.rstrip("/"),
            tokens.ISSUER.replace("https:", "http:"),
            tokens.ISSUER.replace("idp", "IDP"),
            tokens.ISSUER.replace(".com", ".com:443"),
        ],
    )
    async def test_one_that_is_spelt_differently(self, world: World, configured: str) -> None:
        world.config["issuers"][0]["issuer"] = configured
        explanation = await denied(world, token("ann"), "issuer_untrusted", "issuer_almost_configured")
        # Everything else was looked at as if the issuer were spelt right.
        assert failed(explanation) == ["issuer"]

    async def test_one_whose_identities_are_spelt_as_it_is_configured(self, world: World) -> None:
        configured = tokens.ISSUER.rstrip("/")
        world.config["issuers"][0]["issuer"] = configured
        await world.sql("UPDATE identities SET issuer = $1 WHERE issuer = $2", configured, tokens.ISSUER)
        await denied(world, token("ann"), "issuer_untrusted", "issuer_almost_configured")

    async def test_one_of_another_environment(self, world: World) -> None:
        bad = signed(tokens.rsa_key("main"), iss="https://idp.staging.example.com/")
        explanation = await denied(world, bad, "issuer_untrusted", "issuer_almost_configured", fixed=False)
        # It would be trusted with production's users.
        assert explanation.fix is not None
        assert explanation.fix.config is None

    async def test_none(self, world: World) -> None:
        bad = tokens.sign(tokens.without(tokens.claims("ann"), "iss"), tokens.rsa_key("main"))
        await denied(world, bad, "issuer_missing", "claim_missing", fixed=False)


class TestKeys:
    async def test_a_key_that_was_never_published(self, world: World) -> None:
        explanation = await denied(
            world, signed(tokens.rsa_key("other")), "key_unknown", "key_unknown", fixed=False
        )
        key = next(step for step in explanation.steps if step.name == "key")
        assert "loaded 0 s ago, no error since then" in str(key.detail)
        assert '"main-ec"' in str(key.found)
        assert outcomes(explanation)["signature"] == "skipped"
        assert outcomes(explanation)["user"] == "pass"

    async def test_a_key_that_is_another_issuers(self, world: World) -> None:
        await world.decide(token("ann", iss=STRICT_ISSUER))
        explanation = await denied(
            world, signed(tokens.rsa_key("second")), "key_unknown", "key_unknown", fixed=False
        )
        assert explanation.fix is not None

    async def test_a_key_that_was_probably_rotated_out(self, world: World) -> None:
        bad = signed(tokens.rsa_key("old"), iat=int(time.time()) - 7200)
        explanation = await denied(world, bad, "key_unknown", "key_rotated_out", fixed=False)
        # What is known and what is inferred are told apart.
        assert 'The key set of issuer main has no key "old".' in explanation.summary
        assert "probably" in explanation.summary
        assert "Only the token's age indicates that: its unverified `iat` is 2 h old" in explanation.summary
        assert "If a new one is refused, too, the key was never there" in str(explanation.fix)

    async def test_a_key_that_was_seen_to_leave(self, world: World, tmp_path: Path) -> None:
        write_jwks(tmp_path / "main.json", tokens.rsa_key("old"))
        bad = signed(tokens.rsa_key("old"))
        async with world.parts() as parts:
            await parts.keys.start()
            write_jwks(tmp_path / "main.json", tokens.rsa_key("main"))
            await parts.keys.reload("main")
            setup = translation.setup(parts.settings)
            explanation = await Explainer(setup, parts.keys, parts.postgres, parts.redis).explain(bad)
        assert (explanation.reason, explanation.cause) == ("key_unknown", "key_rotated_out")
        assert "this process had the key, and the issuer withdrew it 0 s ago" in explanation.summary
        assert "probably" not in explanation.summary

    async def test_a_key_that_may_be_new_while_its_issuer_cannot_be_asked(
        self, world: World, tmp_path: Path
    ) -> None:
        new = signed(tokens.rsa_key("new"))
        async with world.parts() as parts:
            await parts.keys.start()
            (tmp_path / "main.json").unlink()
            setup = translation.setup(parts.settings)
            explanation = await Explainer(setup, parts.keys, parts.postgres, parts.redis).explain(new)
        assert (explanation.reason, explanation.cause) == ("keys_unavailable", "keys_unavailable")
        assert 'has no key "new"' in explanation.summary
        assert "cannot be asked" in explanation.summary
        assert "No such file" in explanation.summary

    async def test_a_key_that_this_process_has_yet_to_fetch(self, world: World, tmp_path: Path) -> None:
        new = signed(tokens.rsa_key("new"))
        async with world.parts() as parts:
            await parts.keys.start()
            write_jwks(tmp_path / "main.json", tokens.rsa_key("new"))
            before = parts.keys.status()["main"].keys, parts.keys.current("main")
            setup = translation.setup(parts.settings)
            explanation = await Explainer(setup, parts.keys, parts.postgres, parts.redis).explain(new)
            assert (parts.keys.status()["main"].keys, parts.keys.current("main")) == before
        assert (explanation.decision, explanation.cause) == ("allow", None)
        key = next(step for step in explanation.steps if step.name == "key")
        assert "fetched for this explanation" in str(key.detail)

    async def test_keys_that_cannot_be_had(self, world: World, tmp_path: Path) -> None:
        await world.add(iss="https://keyless.example.com")
        good = signed(tokens.rsa_key("second"), iss="https://keyless.example.com")
        explanation = await denied(world, good, "keys_unavailable", "keys_unavailable", fixed=False)
        assert "missing.json" in explanation.summary
        assert outcomes(explanation)["user"] == "pass"
        write_jwks(tmp_path / "missing.json", tokens.rsa_key("second"))
        assert await world.decide(good) is None

    async def test_a_signature_that_another_key_made(self, world: World) -> None:
        bad = tokens.sign(tokens.claims("ann"), tokens.rsa_key("stranger"), kid="main")
        explanation = await denied(world, bad, "signature_invalid", "signature_invalid", fixed=False)
        assert failed(explanation) == ["signature"]

    async def test_a_signature_of_the_key_beside(self, world: World, tmp_path: Path) -> None:
        write_jwks(tmp_path / "main.json", tokens.rsa_key("main"), tokens.rsa_key("next"))
        bad = tokens.sign(tokens.claims("ann"), tokens.rsa_key("next"), kid="main")
        explanation = await denied(world, bad, "signature_invalid", "signature_invalid", fixed=False)
        assert 'key "next" of issuer main did' in explanation.summary


class TestTimes:
    @pytest.mark.parametrize(
        ("times", "reason", "cause"),
        [
            ({"exp": -3600, "iat": -7200}, "token_expired", "token_expired"),
            ({"exp": -61, "iat": -400}, "token_expired", "token_expired"),
            ({"nbf": 3600}, "token_not_yet_valid", "token_not_yet_valid"),
            ({"iat": 3600, "exp": 7200}, "token_issued_in_future", "token_issued_in_future"),
        ],
    )
    async def test_a_token_out_of_its_time(
        self, world: World, times: dict[str, int], reason: str, cause: str
    ) -> None:
        changes: dict[str, JSON] = {name: int(time.time()) + offset for name, offset in times.items()}
        explanation = await denied(world, token("ann", **changes), reason, cause, fixed=False)
        assert failed(explanation) == ["times"]

    @pytest.mark.parametrize(
        ("times", "reason"),
        [
            ({"exp": -40, "iat": -400}, "token_expired"),
            ({"nbf": 90}, "token_not_yet_valid"),
            ({"iat": 250, "exp": 600}, "token_issued_in_future"),
        ],
    )
    async def test_a_clock_that_is_off(self, world: World, times: dict[str, int], reason: str) -> None:
        changes: dict[str, JSON] = {name: int(time.time()) + offset for name, offset in times.items()}
        await denied(world, token("ann", **changes), reason, "clock_skew", fixed=False)

    async def test_too_long_a_life(self, world: World) -> None:
        changes: dict[str, JSON] = {"iss": STRICT_ISSUER, "tenant_id": "acme", "exp": int(time.time()) + 3600}
        await world.sql("UPDATE users SET tenant = 'acme'")
        bad = signed(tokens.rsa_key("second"), **changes)
        await denied(world, bad, "token_lifetime_too_long", "token_lifetime_too_long", fixed=False)


class TestAudienceAndClaims:
    @pytest.mark.parametrize("aud", ["billing-api", ["billing-api", "other"]])
    async def test_another_audience(self, world: World, aud: JSON) -> None:
        await denied(world, token("ann", aud=aud), "audience_mismatch", "audience_mismatch", fixed=False)

    @pytest.mark.parametrize("mark", [{"nonce": "n"}, {"at_hash": "h"}, {"token_use": "id"}, {"typ": "ID"}])
    async def test_an_id_token(self, world: World, mark: dict[str, JSON]) -> None:
        bad = token("ann", aud="web-client", **mark)
        await denied(world, bad, "audience_mismatch", "id_token_used", fixed=False)

    async def test_an_id_token_without_scopes(self, world: World) -> None:
        bad = token("ann", nonce="n")
        await denied(world, bad, "id_token_not_accepted", "id_token_used", url="/orders/1", fixed=False)
        world.config["issuers"][0]["id_tokens"] = "allow"
        await denied(world, bad, "scope_insufficient", "id_token_used", url="/orders/1", fixed=False)

    @pytest.mark.parametrize(
        "mark", [{"nonce": "n"}, {"typ": "ID", "at_hash": "h"}, {"token_use": "refresh"}, {"events": {}}]
    )
    async def test_an_id_token_whose_audience_fits(self, world: World, mark: dict[str, JSON]) -> None:
        explanation = await denied(
            world, token("ann", **mark), "id_token_not_accepted", "id_token_used", fixed=False
        )
        assert failed(explanation) == ["claims"]

    async def test_the_token_of_another_client(self, world: World) -> None:
        world.config["issuers"][0] |= {"audiences": None, "expect": {"azp": "web", "token_use": "access"}}
        bad = token("ann", azp="cron", token_use="access")
        explanation = await denied(world, bad, "claim_not_accepted", "claim_not_accepted", fixed=False)
        assert "`azp`" in explanation.summary
        assert failed(explanation) == ["claims"]

    async def test_a_token_for_another_use(self, world: World) -> None:
        world.config["issuers"][0]["expect"] = {"token_use": "access"}
        for use in ({"token_use": "other"}, {}):
            bad = token("ann", **use)
            explanation = await denied(world, bad, "claim_not_accepted", "claim_not_accepted", fixed=False)
            assert "`token_use`" in explanation.summary

    async def test_a_token_that_is_bound_to_a_key(self, world: World) -> None:
        bad = token("ann", cnf={"jkt": "thumbprint"})
        explanation = await denied(world, bad, "claim_not_accepted", "claim_not_accepted", fixed=False)
        assert "`cnf`" in explanation.summary

    async def test_a_configured_tenant_that_is_not_there(self, world: World) -> None:
        world.config["issuers"][0]["claims"] = {"tenant": "tid"}
        explanation = await denied(world, token("ann"), "claim_missing", "claim_missing", fixed=False)
        assert "issuers[0].claims.tenant" in str(explanation.fix)

    async def test_a_subject_elsewhere(self, world: World) -> None:
        world.config["issuers"][0]["subject"] = "oid"
        explanation = await denied(world, token("ann"), "subject_missing", "subject_missing", fixed=False)
        assert "`oid`" in explanation.summary
        assert (await world.explain(token("other", oid="ann"))).decision == "allow"
        await denied(world, token("ann", oid=7), "subject_malformed", "subject_not_a_string", fixed=False)
        listed = await world.explain(token("ann", oid=["ann"]))
        assert "one string as `oid`, and not a list" in str(listed.fix)

    async def test_a_type_that_the_issuer_does_not_use(self, world: World) -> None:
        world.config["issuers"][0]["token_types"] = ["application/AT+jwt"]
        explanation = await denied(world, token("ann"), "token_type_invalid", "token_malformed", fixed=False)
        assert failed(explanation) == ["header"]
        good = tokens.sign(tokens.claims("ann"), tokens.rsa_key("main"), typ="at+JWT")
        assert (await world.explain(good)).decision == "allow"

    async def test_a_role_that_the_token_lacks(self, world: World) -> None:
        (orders,) = (route for route in world.config["routes"] if route["name"] == "orders")
        orders["require"] = {"token_roles": ["auditor"], "scopes": ["audit"]}
        bad = token("ann", roles=["admin"], scope="audit")
        explanation = await denied(world, bad, "role_missing", "role_missing", url="/orders/1", fixed=False)
        assert "issuers[0].claims.roles" in str(explanation.fix)
        good = token("ann", roles="x auditor", scope="audit")
        assert (await world.explain(good, url="/orders/1")).decision == "allow"

    async def test_a_claim_that_is_not_there(self, world: World) -> None:
        bad = signed(tokens.rsa_key("second"), iss=STRICT_ISSUER)
        await denied(world, bad, "claim_missing", "claim_missing", fixed=False)

    async def test_no_subject(self, world: World) -> None:
        bad = tokens.sign(tokens.without(tokens.claims(), "sub"), tokens.rsa_key("main"))
        explanation = await denied(world, bad, "subject_missing", "subject_missing", fixed=False)
        assert failed(explanation) == ["claims"]

    @pytest.mark.parametrize("role", ["anon", "service_role"])
    @pytest.mark.parametrize(
        ("iss", "reason"),
        [(tokens.ISSUER, "subject_missing"), ("backend", "issuer_untrusted"), (None, "issuer_missing")],
    )
    async def test_an_api_key(self, world: World, role: str, iss: JSON, reason: str) -> None:
        claims = tokens.without(tokens.claims(role=role, iss=iss), "sub", "aud")
        bad = tokens.sign(claims, tokens.rsa_key("main"))
        await denied(world, bad, reason, "api_key_used", fixed=False)

    async def test_a_claim_of_another_type(self, world: World) -> None:
        bad = token("ann", exp="tomorrow")
        explanation = await denied(world, bad, "claim_malformed", "token_malformed", fixed=False)
        assert failed(explanation) == ["claims"]


class TestTenants:
    """An issuer of several tenants, whose keys are fetched for the explanation."""

    @pytest.fixture
    async def server(self, world: World) -> AsyncIterator[IssuerServer]:
        async with serving() as server:
            for tenant in ("acme", "globex"):
                base = f"{server.url}/{tenant}"
                metadata: JSON = {"issuer": base, "jwks_uri": f"{base}/keys"}
                server.answers[f"/{tenant}/.well-known/openid-configuration"] = Answer(orjson.dumps(metadata))
                keys: JSON = {"keys": [tokens.rsa_key(tenant).jwk()]}
                server.answers[f"/{tenant}/keys"] = Answer(orjson.dumps(keys))
                await world.add(iss=base, tenant=tenant)
            world.config["issuers"].append(
                {
                    "name": "entra",
                    "issuer": f"{server.url}/{{tenant}}",
                    "tenants": "any",
                    "audiences": [tokens.AUDIENCE],
                }
            )
            yield server

    async def test_a_token_of_a_tenant(self, world: World, server: IssuerServer) -> None:
        explanation = await world.explain(signed(tokens.rsa_key("acme"), iss=f"{server.url}/acme"))
        assert explanation.decision == "allow"
        assert "issuer entra/acme" in str(explanation.steps)

    async def test_a_tenant_that_the_issuer_does_not_have(self, world: World, server: IssuerServer) -> None:
        bad = signed(tokens.rsa_key("acme"), iss=f"{server.url}/invented")
        explanation = await denied(world, bad, "issuer_untrusted", "issuer_unknown", fixed=False)
        assert 'Issuer entra has no tenant "invented"' in explanation.summary
        assert failed(explanation)[0] == "key"

    async def test_a_tenant_that_is_not_configured(self, world: World, server: IssuerServer) -> None:
        world.config["issuers"][-1]["tenants"] = ["acme"]
        bad = signed(tokens.rsa_key("globex"), iss=f"{server.url}/globex")
        explanation = await denied(world, bad, "issuer_untrusted", "issuer_unknown", fixed=False)
        assert "another tenant of issuer entra" in explanation.summary
        place = len(world.config["issuers"]) - 1
        assert f"issuers[{place}].tenants" in str(explanation.fix)

    async def test_the_key_of_another_tenant(self, world: World, server: IssuerServer) -> None:
        bad = signed(tokens.rsa_key("globex"), iss=f"{server.url}/acme")
        explanation = await denied(world, bad, "key_unknown", "key_unknown", fixed=False)
        assert "issuer entra/acme" in explanation.summary

    async def test_a_user_who_is_missing_is_added_in_its_tenant(
        self, world: World, server: IssuerServer
    ) -> None:
        bad = signed(tokens.rsa_key("acme"), iss=f"{server.url}/acme", sub="nobody-like-this")
        explanation = await denied(world, bad, "user_not_found", "user_unknown")
        assert "--issuer=entra/acme" in str(explanation.fix)
        assert "--tenant=acme" in str(explanation.fix)


class TestDates:
    @pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
    @pytest.mark.parametrize("written", ["milliseconds", "text"])
    async def test_a_date_that_is_not_in_seconds(self, world: World, name: str, written: str) -> None:
        date = int(time.time()) + (300 if name == "exp" else -5)
        value: JSON = date * 1000 if written == "milliseconds" else str(date)
        explanation = await denied(
            world, token("ann", **{name: value}), "claim_malformed", "token_malformed", fixed=False
        )
        assert f"`{name}` is {'in ' if written == 'milliseconds' else ''}{written}" in explanation.summary
        assert f"seconds since 1970: {date}, not " in str(explanation.fix)
        # The explanation goes on.
        assert (failed(explanation), outcomes(explanation)["user"]) == (["claims"], "pass")

    async def test_one_that_has_passed_even_in_seconds(self, world: World) -> None:
        past = (int(time.time()) - 3600) * 1000
        explanation = await denied(
            world, token("ann", exp=past), "claim_malformed", "token_malformed", fixed=False
        )
        assert outcomes(explanation)["times"] == "fail"


ODD: tuple[JSON, ...] = (
    None, True, 0, -1, 1.5, 10**400, -(10**400), 1e308, "", " ", "x" * 300, "a\x00b", "\ud800", "7", [],
    [None], [[[]]], {}, {"a": {"a": 1}}, ["x" * 300] * 50,
)  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "scope",
        "roles",
        "tenant_id",
        "email",
        "role",
        "nonce",
    ],
)
async def test_no_claim_is_too_odd_to_be_explained(world: World, name: str) -> None:
    async with world.explainer() as explainer:
        for value in ODD:
            for key in (tokens.rsa_key("main"), tokens.rsa_key("other")):
                odd = tokens.sign({**tokens.claims("ann"), name: value}, key)
                explanation = await explainer.explain(odd, url="/orders/1")
                assert explanation.decision == ("allow" if explanation.reason is None else "deny")
                keeps_inside(odd, explanation)


async def test_a_document_is_what_programs_are_promised(world: World) -> None:
    document = (await world.explain(token("ann", aud="other"))).to_json()
    assert list(document) == ["decision", "reason", "cause", "summary", "fix", "steps"]
    assert isinstance(document["fix"], dict)
    assert list(document["fix"]) == ["text", "command", "config", "change"]
    assert isinstance(document["steps"], list)
    steps = [step for step in document["steps"] if isinstance(step, dict)]
    assert [step["name"] for step in steps] == [
        "shape", "header", "issuer", "key", "signature", "times", "audience", "claims", "revocation",
        "identity.local", "identity.redis", "identity.postgres", "identity.primary",
        "user", "tenant", "policy",
    ]  # fmt: skip
    assert {tuple(step) for step in steps} == {("name", "outcome", "expected", "found", "detail")}
    assert json.loads(json.dumps(document)) == document
