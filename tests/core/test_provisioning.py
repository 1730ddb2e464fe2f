"""Which user a token's claims describe, and when they describe none."""

from dataclasses import replace
from typing import Final

import pytest

from gateway.core.model import JSON, Claims, Identity, Issuer, Provisioning, UserStatus
from gateway.core.provisioning import NewUser, claims_read, new_user
from gateway.core.reasons import Denial

RULES: Final = Provisioning(email="email", display_name="name", tenant="tid", roles=("member",))
PAYLOAD: Final[dict[str, JSON]] = {
    "sub": "ann",
    "email": "Ann@example.org",
    "name": "Ann Smith",
    "tid": "acme",
    "email_verified": True,
    "hd": "example.org",
    "groups": ["staff", "board"],
    "https://example.org/level": 1,
    "realm": {"name": "main"},
}


def claims(**changes: JSON) -> Claims:
    payload = {name: value for name, value in {**PAYLOAD, **changes}.items() if value != "absent"}
    return Claims("https://i/", "main", "ann", ("api",), 9.0, 1.0, None, "t-1", (), ("owner",), payload)


def test_a_new_user_has_the_claims_and_the_configured_roles() -> None:
    user = new_user(claims(), RULES)

    assert user == NewUser(
        "main", Identity("https://i/", "ann"), "Ann@example.org", "Ann Smith", "acme", ("member",)
    )
    assert user.as_user().status is UserStatus.ACTIVE


def test_without_a_path_nothing_is_taken_but_the_tokens_tenant() -> None:
    user = new_user(claims(), Provisioning())

    assert (user.email, user.display_name, user.tenant, user.roles) == (None, None, "t-1", ())


@pytest.mark.parametrize(
    ("path", "accepted"),
    [
        ("email_verified", (True,)),
        ("hd", ("example.com", "example.org")),
        ("groups", ("board",)),
        ("https://example.org/level", (1,)),
        ("realm.name", ("main",)),
    ],
)
def test_a_condition_that_holds(path: str, accepted: tuple[bool | int | str, ...]) -> None:
    assert new_user(claims(), replace(RULES, when={path: accepted})).email == "Ann@example.org"


@pytest.mark.parametrize(
    ("path", "accepted"),
    [
        ("email_verified", (False,)),
        # For Python, true equals 1, and text may look like either.
        ("email_verified", (1,)),
        ("email_verified", ("true",)),
        ("https://example.org/level", (True,)),
        ("https://example.org/level", ("1",)),
        ("hd", ("Example.org",)),
        ("hd", ("example",)),
        ("groups", ("boar", "staff board")),
        ("missing", ("",)),
        ("realm", ("main",)),
    ],
)
def test_a_condition_that_does_not_hold(path: str, accepted: tuple[bool | int | str, ...]) -> None:
    assert path in detail(claims(), replace(RULES, when={"sub": ("ann",), path: accepted}))


@pytest.mark.parametrize(
    "email",
    [
        "absent",
        None,
        "",
        "ann",
        7,
        ["ann@example.org"],
        "a b@example.org",
        "a@b\x00",
        " a@b",
        "a@" + "b" * 319,
    ],
    ids=str,
)
def test_without_a_usable_address_no_user_is_created(email: JSON) -> None:
    """Else a deleted user could come back, as another subject, with a token that leaves the address out."""
    assert "`email` is not an e-mail address" in detail(claims(email=email), RULES)


@pytest.mark.parametrize("tenant", ["absent", None, "", True, 1.5, ["acme"], "a\ncme", "t" * 256], ids=str)
def test_without_a_usable_tenant_no_user_is_created(tenant: JSON) -> None:
    assert "`tid` is not a tenant" in detail(claims(tid=tenant), RULES)


def test_a_tenant_may_be_a_number() -> None:
    assert new_user(claims(tid=7), RULES).tenant == "7"


@pytest.mark.parametrize("name", ["absent", None, "", 7, "Ann\x00", "n" * 256], ids=str)
def test_a_user_may_lack_a_name(name: JSON) -> None:
    assert new_user(claims(name=name), RULES).display_name is None


def test_an_issuer_without_rules_creates_no_user() -> None:
    assert detail(claims(), None) == "the issuer has no `provisioning`"


def test_a_refusal_has_none_of_the_claims_values() -> None:
    told = detail(claims(email="ann example.org", tid=["acme"]), RULES)
    told += detail(claims(tid=["acme"]), replace(RULES, when={"hd": ("x",)}))

    assert not any(value in told for value in ("ann", "acme", "example.org"))


def test_the_claims_that_are_read_are_kept() -> None:
    rules = replace(RULES, when={"realm.name": ("main",), "https://example.org/level": (1,)})

    issuers = [
        Issuer("main", "https://i/", frozenset(), frozenset(), provisioning=each) for each in (rules, None)
    ]
    assert {"email", "name", "tid", "realm", "https://example.org/level"} <= claims_read(issuers)
    assert claims_read(issuers[1:]) == frozenset()


def detail(of: Claims, rules: Provisioning | None) -> str:
    with pytest.raises(Denial) as caught:
        new_user(of, rules)
    assert caught.value.reason.code == "user_not_found"
    return caught.value.detail or ""
