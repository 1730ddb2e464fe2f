"""What is sent in place of a token is named, and no secret is repeated."""

# ruff: noqa: E501 -- tables read better with one entry a line

import base64
import json

import pytest

from gateway.providers import no_tokens


def part(**members: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        "undefined", "null", "None", "nil", "NaN", "[object Object]", "[object Promise]", "$ACCESS_TOKEN", "${TOKEN}",
        "${{ secrets.TOKEN }}", "$(cat token.txt)", "{{token}}", "{{ .Values.token }}", "{token}", "%TOKEN%", "<token>",
        "<your token here>", "YOUR_TOKEN_HERE", "your-access-token", "process.env.TOKEN", "token", "Bearer", "[token]",
        "%s", "$1", "********", "•••••",
        "() => token", "function () { return t }", "<function get at 0x7f>", "<bound method A.b of x>", "xxx",
    ],
)  # fmt: skip
def test_a_placeholder(text: str) -> None:
    found = no_tokens.named(text)
    assert found is not None
    assert (found.kind, found.ending) == ("placeholder", "")


HEADER, PAYLOAD = part(alg="RS256", kid="k"), part(iss="https://idp.example.com/", sub="ann")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEADER}.{PAYLOAD[:9]}...", "shortened or masked"),
        (f"{HEADER}.{PAYLOAD[:9]}…", "shortened or masked"),
        (f"{HEADER[:14]}***", "shortened or masked"),
        (base64.b64encode(f"{HEADER}.{PAYLOAD}.c2ln".encode()).decode(), "a JWT in base64"),
        (f"{HEADER}.{PAYLOAD}.c2ln{HEADER}.{PAYLOAD}.c2ln", "several JWTs"),
        (f"{part(alg='dir', enc='A256GCM')}..aXY.Y3Q.dGFn", "an encrypted token (JWE)"),
        ('{"keys": [{"kty": "RSA"}]}', "a key set"),
        ('{"kty": "RSA", "n": "x"}', "a key (JWK)"),
        ('{"issuer": "x", "jwks_uri": "y"}', "the discovery document"),
        ('{"error": "invalid_grant"}', "an error of the issuer"),
        ('{"refresh_token": "1//0abc"}', "an issuer's answer with a refresh token"),
        (
            '{"type": "x", "code": "invalid_token", "request_id": "r"}',
            "the gateway's answer to a refused request",
        ),
        ('{"iss": "x", "sub": "ann", "exp": 1}', "the decoded payload"),
        ('{"alg": "RS256", "kid": "k"}', "the decoded header"),
    ],
)
def test_texts_that_are_related_to_tokens_are_named(text: str, words: str) -> None:
    found = no_tokens.named(text)
    assert found is not None
    assert words in found.what


SECRET = "Zq7Rk2Wm9Xc4Vb6N"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"sb_publishable_{SECRET}", "publishable API key of Supabase"),
        (f"sb_secret_{SECRET}", "secret API key of Supabase"),
        (f"sbp_{SECRET}", "Supabase"),
        (f"ghp_{SECRET}", "GitHub"),
        (f"github_pat_{SECRET}", "GitHub"),
        (f"AIza{SECRET}", "Google"),
        (f"GOCSPX-{SECRET}", "Google"),
        (f"sk_live_{SECRET}", "Stripe"),
        (f"pk_test_{SECRET}", "Stripe"),
        (f"rk_live_{SECRET}", "Stripe"),
        (f"whsec_{SECRET}", "webhook"),
        (f"sk-proj-{SECRET}", "OpenAI"),
        (f"sk-{SECRET}", "OpenAI"),
        (f"sk-ant-api03-{SECRET}", "Anthropic"),
        (f"AKIA{SECRET.upper()}", "AWS"),
        (f"ASIA{SECRET.upper()}", "AWS"),
        (f"xoxb-1-2-{SECRET}", "Slack"),
        (f"xapp-1-{SECRET}", "Slack"),
        (f"glpat-{SECRET}", "GitLab"),
        (f"npm_{SECRET}", "npm"),
        (f"pypi-{SECRET}", "PyPI"),
        (f"dop_v1_{SECRET}", "DigitalOcean"),
        (f"SG.{SECRET}.{SECRET}", "SendGrid"),
        (f"hf_{SECRET}", "Hugging Face"),
        (f"shpat_{SECRET}", "Shopify"),
        (f"hvs.{SECRET}", "Vault"),
        (f"PMAK-{SECRET}", "Postman"),
        (f"gsk_{SECRET}", "Groq"),
        (f"SK{'0123456789abcdef' * 2}", "Twilio"),
    ],
)
def test_an_api_key_of_a_large_provider(text: str, words: str) -> None:
    found = no_tokens.named(text)
    assert found is not None
    assert (found.kind, found.ending) == ("api_key", text[-4:])
    assert words in found.what
    assert SECRET[:8].lower() not in str(found).lower()


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("Basic dXNlcjpwYXNzd29yZA==", "password", "Basic"),
        ("dXNlcjpwYXNzd29yZA==", "password", "Basic"),
        ("1//0abcdefghijklmnop", "refresh", "Google refresh token"),
        ("ya29.a0abcdefghijklmnop", "opaque", "Google"),
        ("0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01", "opaque", "a UUID"),
        ("<samlp:Response xmlns:samlp='u'>", "document", "SAML"),
        ("PHNhbWxwOlJlc3BvbnNlIHhtbG5z", "document", "SAML"),
        ("<?xml version='1.0'?>", "document", "SAML"),
        ("<!DOCTYPE html>", "document", "an HTML page"),
        ("-----BEGIN PRIVATE KEY-----", "document", "PEM"),
        ("https://idp.example.com/token", "document", "a URL"),
        ("v2.local.abcdefghijklmnop", "document", "PASETO"),
        ("sessionid=abcdef0123456789", "document", "a cookie"),
        ("JSESSIONID=1; theme=dark", "document", "a cookie"),
        (f"{part(alg='RSA-OAEP', enc='A256GCM')}.k.i.c.t", "encrypted", "(JWE) (alg RSA"),
        (f"{part(alg='dir', enc='A256GCM', cty='JWT')}..i.c.t", "encrypted", "nested"),
        (f"{part(alg='RS256', cty='JWT')}.p.s", "encrypted", "a nested token"),
        (f"{part(alg='RS256')}.{part(sub='a')}", "document", "without its signature"),
        (part(alg="RS256"), "document", "one part of a JWT"),
    ],
)
def test_another_thing(text: str, kind: str, words: str) -> None:
    found = no_tokens.named(text)
    assert found is not None
    assert found.kind == kind
    assert words in found.what
    assert kind != "password" or found.ending == ""


@pytest.mark.parametrize(
    "text", ["", "a.b.c", "0123456789abcdef0123", f"{part(alg='RS256')}.{part(sub='a')}.c2ln", "ann"]
)
def test_nothing_that_is_known(text: str) -> None:
    assert no_tokens.named(text) is None
