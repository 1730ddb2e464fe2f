"""Subjects without a user, and those of the same person: named as what they are, and the difference marked."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.core.model import JSON
from tests.explain.scenarios.scenario import Scenario, play
from tests.explain.scenarios.stage import Stage
from tests.harness import SECOND_ISSUER

# ruff: noqa: E501 -- a table reads better with one entry a line; letters that look alike are its matter

session = pytest.mark.asyncio(loop_scope="session")


def like(
    name: str,
    token: str,
    held: str,
    cause: str,
    *says: str,
    command: bool = True,
    more: dict[str, JSON] | None = None,
    **columns: Any,  # noqa: ANN401
) -> Scenario:
    return Scenario(
        name, "user_not_found", cause, claims={"sub": token, **(more or {})}, held=({"subject": held, "created_at": _EARLY, **columns},),
        says=says, command=command, person=True,
    )  # fmt: skip


_EARLY = datetime(2020, 1, 1, tzinfo=UTC)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SPACING, PREFIX, CASE = "subject_spacing_or_encoding", "subject_prefix_differs", "subject_case_differs"
UUID = "0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01"
SCENARIOS = [
    like("case", "Ann-{}", "ann-{}", CASE, "'A' (U+0041), and 'a'"),
    like("case of a word", "{}-ANN.SMITH", "{}-ann.smith", CASE),
    like("sharp s", "{}straße", "{}STRASSE", CASE, "\\u00df"),
    like("sharp s, the other way", "{}-STRASSE", "{}-straße", CASE),
    like("Turkish capital i", "{}-İstanbul", "{}-istanbul", CASE, "U+0130"),
    like("Turkish dotless i", "{}-ısparta", "{}-ISPARTA", CASE, "U+0131"),
    like("NFD", "{}-re\u0301ne", "{}-réne", SPACING, "U+0301"),
    like("NFC", "{}-réne", "{}-re\u0301ne", SPACING),
    like("space before", " {}", "{}", SPACING),
    like("space after", "{} ", "{}", SPACING),
    like("space after, in the table", "{}", "{} ", SPACING),
    like("two spaces", "a  {}", "a {}", SPACING),
    like("no-break space", "a\u00a0{}", "a {}", SPACING, "U+00A0 NO-BREAK SPACE", command=False),
    like("zero-width space", "{}\u200b", "{}", SPACING, "U+200B ZERO WIDTH SPACE", command=False),
    like("zero-width joiner", "a\u200d{}", "a{}", SPACING, "U+200D", command=False),
    like("byte order mark", "\ufeff{}", "{}", SPACING, "U+FEFF", command=False),
    like("soft hyphen", "a\u00ad{}", "a{}", SPACING, "U+00AD SOFT HYPHEN", command=False),
    like("right-to-left mark", "\u200f{}", "{}", SPACING, "U+200F", command=False),
    like("percent-encoding", "a%40{}", "a@{}", SPACING),
    like("percent-encoding twice", "auth0%257C{}", "auth0|{}", SPACING),
    like("fullwidth letters", "ａｎｎ-{}", "ann-{}", SPACING, "U+FF41 FULLWIDTH LATIN SMALL LETTER A"),
    like("fullwidth digits", "{}-１２３", "{}-123", SPACING, "U+FF11"),
    like("circled digit", "{}-①", "{}-1", SPACING, "U+2460"),
    like("en dash", "user–{}", "user-{}", SPACING, "U+2013 EN DASH"),
    like("mathematical letters", "{}-𝐚𝐧𝐧", "{}-ann", SPACING),
    like("Cyrillic a", "{}-аnn", "{}-ann", "subject_confusable", "U+0430 CYRILLIC SMALL LETTER A", "Find out", command=False),
    like("Cyrillic, in the table", "{}-ann", "{}-аnn", "subject_confusable", "U+0430", command=False),
    like("a whole word in Cyrillic", "{}-сора", "{}-copa", "subject_confusable", "U+0441", command=False),
    like("Greek omicron", "{}-bοb", "{}-bob", "subject_confusable", "GREEK SMALL LETTER OMICRON", command=False),
    like("Latin alpha", "{}-ɑnn", "{}-ann", "subject_confusable", "U+0251", command=False),
    like("zero and O", "{}-b0b", "{}-bOb", "subject_confusable", "'0' (U+0030)", command=False),
    like("one and l", "{}-bi1l", "{}-bill", "subject_confusable", command=False),
    like("rn and m", "{}-tirn", "{}-tim", "subject_confusable", command=False),
    like("quotation marks", '"{}"', "{}", SPACING, "quotation marks"),
    like("quotation marks, in the table", "{}", '"{}"', SPACING, "quotation marks"),
    like("brackets", "<{}>", "{}", SPACING),
    like("URL", "https://idp.example.com/users/{}", "{}", PREFIX, "URL or URN"),
    like("URL, in the table", "{}", "https://idp.example.com/users/{}", PREFIX, "URL or URN"),
    like("urn", "urn:example:user:{}", "{}", PREFIX, "URL or URN"),
    like("mailto", "mailto:{}@e.example", "{}@e.example", PREFIX),
    like("bar", "auth0|{}", "{}", PREFIX),
    like("bar, in the table", "{}", "google-oauth2|{}", PREFIX),
    like("two bars", "saml|acme|{}", "{}", PREFIX),
    like("colon", "oidc:{}", "{}", PREFIX, "':'"),
    like("colon, in the table", "{}", "oidc:{}", PREFIX, "':'"),
    like("slash", "acme/{}", "{}", PREFIX, "'/'"),
    like("slash, in the table", "{}", "acme/{}", PREFIX, "'/'"),
    like("backslash", "CORP\\{}", "{}", PREFIX),
    like("hash", "tenant#{}", "{}", PREFIX),
    like("Keycloak's federated user", f"f:{UUID}:{{}}", "{}", PREFIX),
    like("service account", "system:serviceaccount:default:{}", "{}", PREFIX),
    like("typed", "ObjectId({})", "{}", SPACING),
    like("plus tag", "{}+news@e.example", "{}@e.example", "subject_address_differs", "Find out", command=False),
    like("plus tag, in the table", "{}@e.example", "{}+x@e.example", "subject_address_differs", command=False),
    like("dots of Gmail", "a.{}@gmail.com", "a{}@gmail.com", "subject_address_differs", command=False),
    like("domain", "{}@e.example", "{}", "subject_address_differs", command=False),
    like("domain, in the table", "{}", "{}@e.example", "subject_address_differs", command=False),
    like("cut off at 36", "{}" + "x" * 40, "{}" + "x" * 24, "subject_truncated", "after 36 characters", command=False),
    like("cut off at 255", "{}" + "y" * 243, "{}" + "y" * 116, "subject_truncated", "after 128 characters", command=False),
    like("cut off at 64, in the token", "{}" + "z" * 52, "{}" + "z" * 90, "subject_truncated", "after 64 characters", command=False),
    like("e-mail address", "{}@e.example", "7-{}", "subject_is_email", email="{}@e.example"),
    like("e-mail address in capitals", "{}@E.EXAMPLE", "7-{}", "subject_is_email", email="{}@e.example"),
    like("display name", "Ann {}", "7-{}", "subject_is_name", "Find out", command=False, display_name="Ann {}"),
    like("another issuer", "{}", "{}", "subject_under_other_issuer", "same person", iss=SECOND_ISSUER),
    like("another issuer and case", "X{}", "x{}", CASE, "belongs to the issuer", iss=SECOND_ISSUER),
    like("oid", "op-{}", "id-{}", "subject_in_other_claim", "`oid`", "`subject: oid`", more={"oid": "id-{}"}),
    like("preferred_username", "op-{}", "u-{}", "subject_in_other_claim", "`preferred_username`", more={"preferred_username": "u-{}"}),
    like("uid", "op-{}", "u-{}", "subject_in_other_claim", "`uid`", more={"uid": "u-{}"}),
    like("nested id", "op-{}", "u-{}", "subject_in_other_claim", "`ext.id`", more={"ext": {"id": "u-{}"}}),
    like("id behind a URL", "op-{}", "u-{}", "subject_in_other_claim", more={"https://x.example/uid": "u-{}"}),
    like("e-mail as subject of the table", "op-{}", "{}@e.example", "subject_in_other_claim", more={"email": "{}@e.example", "email_verified": True}),
    like("e-mail that is not verified", "op-{}", "{}@e.example", "subject_in_other_claim", command=False, more={"email": "{}@e.example", "email_verified": False}),
    like("address of the token", "op-{}", "7-{}", "account_not_linked", "same person", more={"email": "{}@e.example", "email_verified": True}, email="{}@e.example"),
    like("address of the token, unverified", "op-{}", "7-{}", "account_not_linked", "not verified", command=False, more={"email": "{}@e.example", "email_verified": False}, email="{}@e.example"),
    like("upn", "op-{}", "7-{}", "account_not_linked", "`upn`", more={"upn": "{}@e.example"}, email="{}@e.example"),
    like("login name of the token", "op-{}", "7-{}", "account_not_linked", "display name", command=False, more={"preferred_username": "Ann {}"}, display_name="Ann {}"),
    like("name of the token", "op-{}", "7-{}", "account_not_linked", "display name", command=False, more={"name": "Ann {}"}, display_name="Ann {}"),
]  # fmt: skip


@session
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
async def test_a_subject_of_the_same_person(stage: Stage, scenario: Scenario) -> None:
    await play(stage, scenario)


_GONE = datetime(2026, 1, 31, tzinfo=UTC)
OWNERS = [
    Scenario("deleted", "user_not_found", CASE, claims={"sub": "{}-Del"}, held=({"subject": "{}-del", "deleted_at": _GONE},),
             says=("is deleted since 2026-01-31", "restore the user, and explain again"), command=True, applied=False, person=True),
    Scenario("one of both deleted", "user_not_found", CASE, claims={"sub": "{}-Dup"}, held=({"subject": "{}-dup", "deleted_at": _GONE}, {"subject": "{}-DUP"}),
             command=True, person=True),
    Scenario("of another tenant", "user_not_found", CASE, claims={"sub": "{}-Ten", "tenant_id": "globex"}, held=({"subject": "{}-ten", "tenant": "acme"},),
             says=("with a link, the request would still be refused",), command=False, person=True),
    Scenario("two", "user_not_found", CASE, claims={"sub": "{}-Two"}, held=({"subject": "{}-two"}, {"subject": "{}-TWO"}),
             says=("have one each, and differ", "Find out which of the users"), command=False, person=True),
    Scenario("a client", "user_not_found", "user_unknown", claims={"sub": "{}", "azp": "{}"}, held=({"subject": "somebody {}"},),
             says=("of a client, and of no person", "missing_user: forward"), command=True),
    Scenario("a service account of Keycloak", "user_not_found", "user_unknown", claims={"sub": "{}", "preferred_username": "service-account-batch"}, held=({"subject": "somebody {}"},),
             says=("of a client, and of no person",), command=True),
    Scenario("a guest of Supabase", "user_not_found", "user_unknown", claims={"sub": "{}", "is_anonymous": True}, held=({"subject": "somebody {}"},),
             says=("of an anonymous sign-in",), command=False),
    Scenario("a guest of Firebase", "user_not_found", "user_unknown", claims={"sub": "{}", "firebase": {"sign_in_provider": "anonymous"}}, held=({"subject": "somebody {}"},),
             says=("of an anonymous sign-in",), command=False),
    Scenario("a client of Auth0", "user_not_found", "user_unknown", claims={"sub": "{}@clients", "gty": "client-credentials"}, held=({"subject": "somebody {}"},),
             says=("of a client, and of no person",), command=True),
]  # fmt: skip


@session
@pytest.mark.parametrize("scenario", OWNERS, ids=lambda each: each.name)
async def test_the_user_of_the_similar_subject_decides_the_fix(stage: Stage, scenario: Scenario) -> None:
    await play(stage, scenario)


@session
@pytest.mark.parametrize(
    "subject",
    [
        "null",
        "undefined",
        "None",
        "[object Object]",
        "{{user.id}}",
        "  ",
        "<no value>",
        "N/A",
        "anonymous",
        "0" * 8 + "-0000-0000-0000-" + "0" * 12,
    ],
)
async def test_a_subject_that_stands_for_none(stage: Stage, subject: str) -> None:
    """A user with it would be all persons whose id is missing."""
    scenario = Scenario("none", "user_not_found", "subject_missing", claims={"sub": subject},
                        says=("stands for no value", "Do not add a user"), command=False)  # fmt: skip
    await play(stage, scenario)


@session
async def test_a_subject_in_base64(stage: Stage) -> None:
    for token, held in (
        (b64("user-b64"), "user-b64"),
        ("user-b65", b64("user-b65")),
        ("757365722d36", "user-6"),
    ):
        await play(stage, like("base64", token, held, SPACING))


@session
async def test_a_number(stage: Stage) -> None:
    for token, held in (("00731", "731"), ("732", "00732"), ("733.0", "733"), ("+734", "734")):
        await play(stage, like("number", token, held, "subject_number_differs"))


@session
async def test_a_telephone_number(stage: Stage) -> None:
    user = await stage.add("owner of a telephone")
    await stage.sql('UPDATE users SET attributes = \'{"phone": "+49 30 1234567"}\' WHERE id = $1::uuid', user)
    scenario = like("phone", "+49301234567", "somebody {}", "subject_is_phone", user, command=False)
    await play(stage, scenario)
    # A subject with digits is no telephone number, and hides none.
    more: dict[str, JSON] = {"phone_number": "+49301234567"}
    await play(
        stage, like("phone", "op-12-34-56-{}", "somebody {}", "subject_is_phone", command=False, more=more)
    )


@session
@pytest.mark.parametrize("subject", ["nobody-{}", "{}", "user-{}@none.example", UUID])
async def test_an_unknown_subject_without_a_similar_one(stage: Stage, subject: str) -> None:
    """A user is added, and the request passes."""
    await play(
        stage,
        Scenario(
            "nobody",
            "user_not_found",
            "user_unknown",
            claims={"sub": subject},
            held=({"subject": "somebody {}"},),
            command=True,
        ),
    )
