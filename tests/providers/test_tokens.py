"""With its preset, the token that a provider issues passes, and those that it should not accept do not."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from gateway import translation
from gateway.core.model import JSON, Claims, Credential
from gateway.core.reasons import Denial
from gateway.core.tokens.jws import KeySet
from gateway.core.tokens.key_material import key_from_jwk, key_from_secret
from gateway.providers.catalogue import PROVIDERS
from gateway.providers.presets import filled
from gateway.providers.provider import Example, Provider
from gateway.settings import ConfigurationError, Settings, load
from gateway.settings.reading.shape import schema
from gateway.verifier import TokenVerifier
from tests import tokens
from tests.fakes import FakeKeys
from tests.providers.shapes import NOW, OTHER_TENANT, SHAPES, TENANT, Shape
from tests.providers.wrong import OF_PROVIDER, Wrong, of_any_provider

RSA, EC = tokens.rsa_key(), tokens.ec_key()
REST = {
    "postgres": {"dsn": "postgresql://gateway@127.0.0.1/gateway"},
    "redis": {"url": "redis://127.0.0.1:6379/0"},
    "upstreams": {"orders": {"urls": ["http://127.0.0.1:9000"]}},
    "routes": [{"name": "all", "match": {"path": "/**"}, "upstream": "orders"}],
}
WRONG = [
    pytest.param(shape, each, id=f"{shape.name}: {each.name}")
    for shape in SHAPES
    for each in (*of_any_provider(shape), *OF_PROVIDER[shape.name])
]


def loaded(folder: Path, *entries: Mapping[str, object]) -> Settings:
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump({"issuers": list(entries), **REST}))
    return load(file, {})


class SameKeys(FakeKeys):
    """All issuers, and all tenants of a pattern, have the same keys."""

    def __init__(self, keys: KeySet) -> None:
        super().__init__()
        self.keys = keys

    def current(self, issuer_name: str) -> KeySet | None:  # noqa: ARG002 -- of the Protocol
        return self.keys


@pytest.fixture(scope="module")
def verifiers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, TokenVerifier]:
    """Return a verifier for the configuration of each shape, by the shape's name."""
    keys = KeySet([key_from_jwk(RSA.jwk()), key_from_jwk(EC.jwk())])
    made = {}
    for shape in SHAPES:
        settings = loaded(tmp_path_factory.mktemp("shape"), shape.entry)
        issuers = [translation.issuer(each) for each in settings.issuers]
        made[shape.name] = TokenVerifier(issuers, SameKeys(keys), clock=lambda: NOW)
    return made


def minted(
    shape: Shape, payload: Mapping[str, JSON] | None = None, header: Mapping[str, JSON] | None = None
) -> bytes:
    claims = {
        name: value for name, value in {**shape.payload, **(payload or {})}.items() if value is not None
    }
    key = RSA if shape.algorithm == "RS256" else EC
    return tokens.sign(claims, key, None, **{**shape.header, **(header or {})})


async def verified(verifier: TokenVerifier, token: bytes) -> Claims:
    return (await verifier.verify(Credential.of(token))).claims


async def refused(verifier: TokenVerifier, token: bytes) -> str:
    with pytest.raises(Denial) as caught:
        await verified(verifier, token)
    return caught.value.reason.code


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_the_token_that_the_provider_issues_passes(
    shape: Shape, verifiers: Mapping[str, TokenVerifier]
) -> None:
    claims = await verified(verifiers[shape.name], minted(shape))
    assert (claims.subject, claims.scopes, claims.roles) == (shape.subject, shape.scopes, shape.roles)
    assert claims.issuer == shape.payload["iss"]


@pytest.mark.parametrize(("shape", "wrong"), WRONG)
async def test_a_wrong_token_is_refused_with_its_reason(
    shape: Shape, wrong: Wrong, verifiers: Mapping[str, TokenVerifier]
) -> None:
    token = minted(shape, wrong.payload, wrong.header)
    assert await refused(verifiers[shape.name], token) == wrong.reason


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_forged_signatures_do_not_pass(shape: Shape, verifiers: Mapping[str, TokenVerifier]) -> None:
    verifier, key = verifiers[shape.name], RSA if shape.algorithm == "RS256" else EC
    header = {"alg": shape.algorithm, "kid": key.kid}
    assert (
        await refused(verifier, tokens.unsigned({**header, "alg": "none"}, shape.payload))
        == "algorithm_not_allowed"
    )
    assert await refused(verifier, tokens.resigned(minted(shape), b"x" * 64)) == "signature_invalid"
    public = tokens.sign(shape.payload, key.pem(), "HS256", kid=key.kid)
    assert await refused(verifier, public) == "algorithm_not_allowed"


def test_there_are_twenty_for_each_at_least() -> None:
    for shape in SHAPES:
        names = [each.name for each in (*of_any_provider(shape), *OF_PROVIDER[shape.name])]
        assert len(set(names)) == len(names) >= 25, shape.name
        assert len(OF_PROVIDER[shape.name]) >= 8, shape.name


async def test_each_listed_tenant_has_its_own_issuer_and_identities(
    verifiers: Mapping[str, TokenVerifier],
) -> None:
    (shape,) = (shape for shape in SHAPES if shape.name == "entra-multi-tenant")
    for tenant in (TENANT, OTHER_TENANT):
        iss = f"https://login.microsoftonline.com/{tenant}/v2.0"
        claims = await verified(verifiers[shape.name], minted(shape, {"iss": iss, "tid": tenant}))
        assert (claims.tenant, claims.identity.issuer) == (tenant, iss)


async def test_supabase_takes_tokens_of_the_old_secret_while_it_is_given(tmp_path: Path) -> None:
    (shape,) = (shape for shape in SHAPES if shape.name == "supabase")
    secret = tokens.secret()
    (issuer,) = loaded(tmp_path, {**shape.entry, "secret_file": "secret"}).issuers
    assert [each.algorithms for each in issuer.keys] == [("ES256", "RS256"), ("HS256",)]
    keys = SameKeys(KeySet([key_from_jwk(EC.jwk()), key_from_secret(secret)]))
    verifier = TokenVerifier([translation.issuer(issuer)], keys, clock=lambda: NOW)
    assert (await verified(verifier, minted(shape))).subject == shape.subject
    assert (await verified(verifier, tokens.sign(shape.payload, secret))).subject == shape.subject
    forged = tokens.sign(shape.payload, EC.pem(), "HS256")
    assert await refused(verifier, forged) == "signature_invalid"


@pytest.mark.parametrize(
    ("provider", "example"),
    [(provider, each) for provider in PROVIDERS.values() for each in provider.examples],
)
def test_every_example_of_the_page_is_a_valid_configuration(
    tmp_path: Path, provider: Provider, example: Example
) -> None:
    short = loaded(tmp_path, {"name": "main", "preset": provider.name, **example.parameters})
    long = loaded(tmp_path, {"name": "main", **filled(provider, example.parameters)})
    assert short.issuers == long.issuers


async def test_tokens_of_one_provider_do_not_pass_for_another(
    verifiers: Mapping[str, TokenVerifier],
) -> None:
    for name, verifier in verifiers.items():
        for shape in SHAPES:
            if shape.payload["iss"] not in _issuers(name):
                assert await refused(verifier, minted(shape)) == "issuer_untrusted"


def _issuers(name: str) -> Iterator[JSON]:
    return (shape.payload["iss"] for shape in SHAPES if shape.name == name)


def test_mistakes_with_a_preset_are_reported_at_their_line(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        """\
issuers:
  - name: one
    preset: cognto
    pool: eu-west-1_AbCdEf123
  - name: two
    preset: keycloak
    url: https://sso.example.com/
    realm: shop
    client_ids: [web, 7]
  - {name: three, preset: okta}
  - {name: four, preset: okta, domain: shop.okta.com, max_lifetime: 1}
"""
        + yaml.safe_dump(REST)
    )
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems] == [
        "3: issuers[0].preset: there is no preset 'cognto' → did you mean cognito?",
        "7: issuers[1].url: must be an https URL without a final slash, and without `/realms`"
        " → write url: https://sso.example.com",
        "9: issuers[1].client_ids[1]: must be a client's ID, without spaces and wildcards"
        " → write client_ids: [web]",
        "10: issuers[2]: the preset okta needs domain → write domain: shop.okta.com",
        "11: issuers[3].max_lifetime: must be a duration with its unit → write 500ms, 30s, 5m or 24h",
    ]


def test_the_schema_takes_a_preset_and_asks_for_issuer_and_audiences_without_one() -> None:
    of_issuers = {"$defs": schema()["$defs"], "$ref": "#/$defs/Issuer"}
    validator = jsonschema_rs.validator_for(of_issuers)
    for shape in SHAPES:
        validator.validate(shape.entry)
    validator.validate({"name": "main", "issuer": "https://idp.example.com/", "audiences": ["api"]})
    for wrong in ({"name": "main"}, {"name": "main", "preset": "cognto"}, {"name": "main", "isuer": "x"}):
        assert not validator.is_valid(wrong)


def test_all_presets_go_into_one_configuration(tmp_path: Path) -> None:
    names = {"entra-v2", "entra-multi-tenant", "cognito-id"}  # of the same issuer as others
    entries = [{**shape.entry, "name": shape.name} for shape in SHAPES if shape.name not in names]
    assert len(loaded(tmp_path, *entries).issuers) == len(entries)
