"""Two mistakes at once, of every pair of kinds; and what is sent in place of a token."""

# ruff: noqa: E501 -- a table reads better with one entry a line

from itertools import product

import pytest

from gateway.core.model import JSON
from tests import tokens
from tests.explain.scenarios import never
from tests.explain.scenarios.scenario import Scenario, play
from tests.explain.scenarios.stage import Stage

session = pytest.mark.asyncio(loop_scope="session")

Members = dict[str, JSON]

OF_TOKENS: dict[str, tuple[Members, str, str]] = {
    "expired": ({"iat": 1_700_000_000, "exp": 1_700_000_600}, "times", "token_expired"),
    "not yet valid": ({"nbf": 4_000_000_000}, "times", "token_not_yet_valid"),
    "another audience": ({"aud": "billing-api"}, "audience", "audience_mismatch"),
    "an audience with a slash": ({"aud": "orders-api/"}, "audience", "audience_mismatch"),
    "an ID token": ({"aud": "web", "nonce": "n"}, "audience", "id_token_used"),
    "a refresh token": ({"typ": "Refresh"}, "claims", "id_token_used"),
    "bound to a key": ({"cnf": {"jkt": "t"}}, "claims", "claim_not_accepted"),
    "roles of a wrong type": ({"roles": 7}, "claims", "token_malformed"),
}
OF_USERS: dict[str, tuple[dict[str, object] | None, Members, str]] = {
    "a user who does not exist": (None, {}, "user_unknown"),
    "capitals": ({"subject": "X{}"}, {"sub": "x{}"}, "subject_case_differs"),
    "a Cyrillic letter": ({"subject": "a{}"}, {"sub": "\u0430{}"}, "subject_confusable"),
    "a prefix": ({"subject": "{}"}, {"sub": "oidc:{}"}, "subject_prefix_differs"),
    "suspended": ({"subject": "{}"}, {}, "user_suspended"),
    "another tenant": ({"subject": "{}", "tenant": "globex"}, {"tenant_id": "acme"}, "identity_linked_to_other_tenant"),
    "no scope": ({"subject": "{}"}, {"scope": "x"}, "scope_insufficient"),
    "a scope elsewhere": ({"subject": "{}"}, {"scp": ["orders:read"]}, "scope_insufficient"),
}  # fmt: skip


@session
@pytest.mark.parametrize(("of_token", "of_user"), [*product(OF_TOKENS, OF_USERS)])
async def test_two_mistakes(stage: Stage, of_token: str, of_user: str) -> None:
    """The reason is the first that the pipeline gives, the cause one of both, and no fix is worse than the mistake."""
    claims, step, cause = OF_TOKENS[of_token]
    held, more, other = OF_USERS[of_user]
    mark = f"pair-{of_token}-{of_user}".replace(" ", "-")
    stage.reset()
    given = {
        name: value.replace("{}", mark) if isinstance(value, str) else value for name, value in more.items()
    }
    if held is not None:
        columns = {name: str(value).replace("{}", mark) for name, value in held.items()}
        user = await stage.add(columns.pop("subject"), **columns)
        status = "suspended" if of_user == "suspended" else "active"
        await stage.sql(
            "UPDATE users SET created_at = '2020-01-01Z', status = $2 WHERE id = $1::uuid", user, status
        )
    raw = tokens.sign({**tokens.claims(mark), **claims, **given}, tokens.rsa_key("main"))
    headers = ((b"Authorization", b"Bearer " + raw),)
    reason = await stage.verdict(headers, url="/orders/1")
    explanation = await stage.told(raw, url="/orders/1")
    assert explanation.reason == reason is not None
    # A token that has expired is replaced anyway: what would refuse its successor counts.
    assert explanation.cause == (other if of_token == "expired" else cause)
    failed = {each.name for each in explanation.steps if each.outcome == "fail"}
    assert step in failed
    if of_token != "roles of a wrong type":  # the claims cannot be read, so the user is not looked for
        assert failed & {"user", "tenant", "policy"}
    assert never.broken(explanation) == []


BY_STRANGERS = [
    ("undefined", "placeholder_used"),
    ("null", "placeholder_used"),
    ("[object Object]", "placeholder_used"),
    ("$ACCESS_TOKEN", "placeholder_used"),
    ("{{token}}", "placeholder_used"),
    ("<your-token>", "placeholder_used"),
    ("sb_publishable_0123456789abcdef", "api_key_used"),
    ("sb_secret_0123456789abcdef", "api_key_used"),
    ("ghp_0123456789abcdef", "api_key_used"),
    ("AIza0123456789abcdef", "api_key_used"),
    ("sk_live_0123456789abcdef", "api_key_used"),
    ("sk-proj-0123456789abcdef", "api_key_used"),
    ("AKIAIOSFODNN7EXAMPLE", "api_key_used"),
    ("xoxb-0123-456789abcdef", "api_key_used"),
    ("dXNlcjpwYXNzd29yZA==", "password_used"),
    ("1//0123456789abcdef", "refresh_token_used"),
    ("0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01", "token_malformed"),
    ("PHNhbWxwOlJlc3BvbnNlIHhtbG5z", "token_malformed"),
    ("sessionid=0123456789abcdef", "token_malformed"),
    ("0123456789abcdef0123456789abcdef", "token_malformed"),
]


@session
@pytest.mark.parametrize(("text", "cause"), BY_STRANGERS)
@pytest.mark.parametrize("header", [False, True])
async def test_texts_that_are_no_token_are_named(
    stage: Stage, text: str, cause: str, *, header: bool
) -> None:
    reason = await stage.verdict(((b"Authorization", b"Bearer " + text.encode()),))
    scenario = Scenario(text, reason, cause, command=False, paste=text)
    if not header:
        explanation = await play(stage, scenario)
    else:
        explanation = await stage.told(f"Authorization: Bearer {text}")
        assert (explanation.reason, explanation.cause) == (reason, cause)
    if cause == "api_key_used":
        assert f"which ends in {text[-4:]}" in explanation.summary
        assert text[-9:-1] not in str(explanation.to_json())


@session
async def test_basic_credentials(stage: Stage) -> None:
    for pasted in (
        "Basic dXNlcjpwYXNzd29yZA==",
        "Authorization: Basic dXNlcjpwYXNzd29yZA==",
        "curl -u user:password x",
    ):
        explanation = await stage.told(pasted)
        assert (explanation.reason, explanation.cause) == ("credentials_malformed", "password_used")
        assert "password" not in str(explanation.to_json()).replace("a user name and a password", "").replace(
            "password_used", ""
        )
