"""What people paste, and the request that it stands for: the reason is that request's denial."""

# ruff: noqa: E501 -- tables read better with one entry a line

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.reasons import Denial
from gateway.core.requests import bearer
from gateway.explain import pasted
from tests.explain.scenarios.stage import Stage
from tests.harness import token

session = pytest.mark.asyncio(loop_scope="session")

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln"


class TestReading:
    @pytest.mark.parametrize(
        "text",
        [
            "TOKEN", "  TOKEN\n", '"TOKEN"', "'TOKEN',", "`TOKEN`", "\u201cTOKEN\u201d", "\ufeffTOKEN", "TOKEN\u200b",
            "Bearer TOKEN", "bearer  TOKEN", "Authorization: Bearer TOKEN\r\n", "authorization:Bearer TOKEN",
            "-H 'authorization: bearer  TOKEN'", "curl -sH \"Authorization: Bearer TOKEN\" https://a.example/x",
            "$ curl https://a.example/x \\\n  -H 'Authorization: Bearer TOKEN' \\\n  -d '{\"a\": \"b\"}'",
            "curl --oauth2-bearer TOKEN https://a.example/x", "curl --header=Authorization:\\ Bearer\\ TOKEN u",
            "GET /x HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer TOKEN\r\nAccept: */*",
            "http GET a.example/x 'Authorization: Bearer TOKEN'", '{"access_token": "TOKEN", "token_type": "Bearer"}',
            "fetch(u, {headers: {'Authorization': 'Bearer TOKEN'}})", '{"Authorization": "Bearer TOKEN"}',
            'fetch("u", {\n  "headers": {\n    "accept": "*/*",\n    "authorization": "Bearer TOKEN",\n  },\n});',
            "axios(u, {\n  headers: {\n    Authorization: `Bearer TOKEN`,\n  }\n})", "headers = {\n    'Authorization': f'Bearer TOKEN',\n}",
            '-Headers @{\n"method"="GET"\n  "authorization"="Bearer TOKEN"\n}', '{"headers": {"Authorization": ["Bearer TOKEN"]}}',
            'curl ^"https://a.example/x^" ^\n  -H ^"accept: */*^" ^\n  -H ^"authorization: Bearer TOKEN^"', "curl u -H $'authorization: Bearer TOKEN'",
            "curl u -H 'Authorization: Bearer TOKEN' -d user=ann -d body -o use.txt", "https -A bearer -a TOKEN a.example/x", "xh --bearer TOKEN a.example/x",
            "kubectl get pods --token=TOKEN", "authorization:\nBearer TOKEN\naccept:\n*/*", '{"value": "Bearer TOKEN", "name": "Authorization"}',
            '{"data": {"session": {"access_token": "TOKEN", "refresh_token": "r"}}}', '{"AuthenticationResult": {"AccessToken": "TOKEN", "IdToken": "TOKEN"}}',
            '["TOKEN", "refresh", null]', '{"credentialType": "AccessToken", "secret": "TOKEN"}', 'export API_@="TOKEN"\nexport OTHER=1', "$env:JWT = 'TOKEN'",
            "TOKEN\nTOKEN", "> TOKEN\n> ", "TOK=\nEN",
            '{"name": "Authorization", "value": "Bearer TOKEN"}', "ACCESS_@=TOKEN\nOTHER=1", "ACCESS_@=TOKEN", "export @='TOKEN'", "access_token: TOKEN",
        ],
    )  # fmt: skip
    def test_a_token_in_its_surroundings(self, text: str) -> None:
        wrapped = f"{JWT[:30]}=\n{JWT[30:]}"
        found = pasted.read(
            text.replace("TOK=\nEN", wrapped).replace("TOKEN", JWT).replace("@{", "{").replace("@", "TOKEN")
        )
        assert found.token.decode() == JWT
        assert (found.faults, found.found) == ((), False)
        assert [value.lower().split() for _, value in found.headers] == [[b"bearer", JWT.lower().encode()]]

    @pytest.mark.parametrize(
        ("text", "asked"),
        [
            ("curl https://a.example/x?y=1 -H 'Authorization: Bearer TOKEN'", ("GET", "https://a.example/x?y=1")),
            ("curl -X DELETE 'https://a.example/x' -H 'Authorization: Bearer TOKEN'", ("DELETE", "https://a.example/x")),
            ("curl https://a.example/x -d a=b -H 'Authorization: Bearer TOKEN'", ("POST", "https://a.example/x")),
            ("curl -I https://a.example/x -H 'Authorization: Bearer TOKEN'", ("HEAD", "https://a.example/x")),
            ("http PUT https://a.example/x 'Authorization: Bearer TOKEN'", ("PUT", "https://a.example/x")),
            ("fetch('https://a.example/x', {'headers': {'authorization': 'Bearer TOKEN'}, 'method': 'PATCH'})", ("PATCH", "https://a.example/x")),
            ("Invoke-WebRequest -Uri \"https://a.example/x\" -Method \"POST\" -Headers @{\"authorization\"=\"Bearer TOKEN\"}", ("POST", "https://a.example/x")),
            ("GET /x HTTP/1.1\nHost: a.example\nAuthorization: Bearer TOKEN", ("GET", "http://a.example/x")),
            ("curl https://a.example https://b.example -H 'Authorization: Bearer TOKEN'", None),
            ("TOKEN", None),
        ],
    )  # fmt: skip
    def test_the_request_around_a_token(self, text: str, asked: tuple[str, str] | None) -> None:
        found = pasted.read(text.replace("TOKEN", JWT))
        assert (found.asked, found.token) == (asked, JWT.encode())

    def test_a_token_in_utf_16(self) -> None:
        assert pasted.read(JWT.encode("utf-16")).token == JWT.encode()

    @pytest.mark.parametrize("breaks", ["\n", "\r\n", "\n   "])
    def test_a_token_that_was_wrapped(self, breaks: str) -> None:
        for text in (JWT[:20] + breaks + JWT[20:], f"Authorization: Bearer {JWT[:20]}{breaks}{JWT[20:]}"):
            assert pasted.read(text).token == JWT.encode()

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("Authorization: Bearer Bearer TOKEN", "`Bearer` twice"),
            ("Bearer Bearer TOKEN", "`Bearer` twice"),
            ("Authorization: TOKEN", "no scheme"),
            ('Authorization: Bearer "TOKEN"', "in quotation marks"),
            ("Authorization: Bearer <TOKEN>", "in brackets"),
            ("Authorization: Bearer TOKEN%20", "`%20` at character 45"),
            ("TOKEN%20", "`%20` at character 45"),
            ("TOKEN%0A", "`%0A` at character 45"),
            ("Authorization: Bearer TOKEN,", "U+002C COMMA at character 45"),
            ("Authorization: Bearer TOKEN, Bearer TOKEN", "U+002C COMMA"),
            ("Authorization: Bearer: TOKEN", "a colon follows the scheme"),
            ("Authorization: Bearer\u00a0TOKEN", "not followed by a space"),
            ("Authorization: Bearer TOKEN\u00a0", "U+00A0 NO-BREAK SPACE at character 45"),
            ("Bearer TOKEN\u200b\n", "U+200B ZERO WIDTH SPACE at character 45"),
            ("curl -H 'Authorization: Bearer TOKEN\u00a0' u", "U+00A0 NO-BREAK SPACE at character 45"),
            ("Authorization: Token TOKEN", "its scheme is Token"),
            ("Authorization: Basic dXNlcjpwYXNz", "its scheme is Basic"),
            ("Authorization: Bearer TOKEN\nAuthorization: Bearer TOKEN", "2 Authorization fields"),
            ("Authorization: Bearer", "no token follows"),
            ("Authorization:", "the field is empty"),
            ("Cookie: session=TOKEN", "there is no Authorization field"),
            ("Authorization: Bearer b'TOKEN'", "Python `bytes`"),
            ("https://a.example/cb#access_token=TOKEN&x=1", "behind the `#` of a URL"),
            ("https://a.example/x?access_token=TOKEN", "the token is in the URL"),
            ("Proxy-Authorization: Bearer TOKEN", "in the field Proxy-Authorization"),
            ("X-Access-Token: TOKEN", "in the field X-Access-Token"),
            ("Set-Cookie: session=TOKEN; HttpOnly", "in the field Set-Cookie"),
            ('WWW-Authenticate: Bearer error="invalid_token"', "a field of an answer"),
            ("X-Api-Key: 0123456789abcdef", "in the field X-Api-Key"),
            ("curl -u user:secret https://a.example", "its scheme is Basic"),
            ("curl -b session=TOKEN https://a.example", "there is no Authorization field"),
            ("a=1; session=TOKEN; b=2", "there is no Authorization field"),
            ("Authentication: Bearer TOKEN", "in the field Authentication"),
        ],
    )
    def test_a_request_without_a_token(self, text: str, fault: str) -> None:
        found = pasted.read(text.replace("TOKEN", JWT))
        assert any(fault in each for each in found.faults), found.faults
        assert found.found == ("TOKEN" in text)
        assert (found.token == JWT.encode()) == ("TOKEN" in text)
        assert "secret" not in str(found)

    @given(st.one_of(st.text(max_size=60), st.binary(max_size=60), st.sampled_from([JWT, f'"{JWT}"'])))
    def test_any_text_stands_for_one_request(self, text: str | bytes) -> None:
        found = pasted.read(text)
        try:
            parsed = bearer.parse([value for name, value in found.headers if name == b"Authorization"])
        except Denial:
            assert found.faults or not found.token.strip() or found.what == "a token"
        else:
            assert (found.token, found.faults, found.found) == (parsed, (), False)


VALUES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=40),
    st.builds(
        "".join,
        st.lists(
            st.sampled_from(
                ["Bearer ", "bearer", "Basic ", " ", '"', "%20", ",", ":", "=", ".", "TOKEN", "GHOST", "OLD", "x", "\u00a0"]
            ),
            max_size=6,
        ),
    ),
)  # fmt: skip


@session
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    value=VALUES,
    url=st.sampled_from([None, "/private/x", "/orders/x", "/public/x", "/optional/x", "/none"]),
    status=st.sampled_from(["active", "suspended"]),
)
async def test_the_reason_is_the_denial_of_the_request(
    stage: Stage, value: str, url: str | None, status: str
) -> None:
    if not await stage.sql("SELECT 1 FROM identities WHERE subject = 'pasted'"):
        await stage.add("pasted")
    await stage.sql(
        "UPDATE users SET status = $1 FROM identities WHERE user_id = id AND subject = 'pasted'", status
    )
    value = value.strip(" \t")
    for name, raw in {
        "TOKEN": token("pasted"), "GHOST": token("no such subject here"), "OLD": token("pasted", exp=1),
    }.items():  # fmt: skip
        value = value.replace(name, raw.decode())
    explanation = await stage.told(f"Authorization: {value}", url=url)
    assert explanation.reason == await stage.verdict(((b"Authorization", value.encode()),), url=url)
    assert (explanation.cause is None) == (explanation.reason is None)


@session
@pytest.mark.parametrize(
    ("text", "reason", "cause"),
    [
        ("TOKEN", None, None),
        ('"TOKEN"', None, None),
        ("\ufeffTOKEN", None, None),
        ("Authorization: Bearer Bearer TOKEN", "credentials_malformed", "credentials_malformed"),
        ("TOKEN%20", "credentials_malformed", "credentials_malformed"),
        ("Bearer TOKEN\u00a0", "credentials_malformed", "credentials_malformed"),
        (
            "Authorization: Bearer TOKEN\nAuthorization: Bearer TOKEN",
            "credentials_multiple",
            "credentials_malformed",
        ),
        ("Cookie: session=TOKEN", "credentials_missing", "credentials_malformed"),
    ],
)
async def test_mistakes_in_a_header_have_the_verdict_of_the_gateway(
    stage: Stage, text: str, reason: str | None, cause: str | None
) -> None:
    """It is told what becomes of the token without the mistake."""
    await stage.add(subject := f"paste-{text.encode().hex()}")
    raw = token(subject).decode()
    explanation = await stage.told(text.replace("TOKEN", raw))
    assert (explanation.reason, explanation.cause) == (reason, cause)
    if cause is not None:
        assert "With the token alone, the request would be admitted" in explanation.summary
    assert raw[-40:] not in str(explanation.to_json())


@session
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("curl https://api.example.com/orders/1 ", "scope_insufficient"),
        ("curl -X DELETE https://api.example.com/read/1 ", "method_not_allowed"),
        ("curl https://api.example.com/private/1 ", None),
        ("curl https://docs.example.com/some/example ", None),
    ],
)
async def test_a_command_is_explained_with_its_url(stage: Stage, command: str, reason: str | None) -> None:
    """Without a route for it, as behind a proxy or in an example, the token alone is."""
    await stage.add(subject := f"asks-{reason}-{len(command)}")
    told = await stage.told(f"{command} -H 'Authorization: Bearer {token(subject).decode()}'")
    assert told.reason == reason


@session
async def test_a_cookie_counts_where_a_route_takes_it(stage: Stage) -> None:
    await stage.add("eats cookies")
    raw = token("eats cookies").decode()
    explanation = await stage.told(f"Cookie: session={raw}", url="/browser/x")
    assert (explanation.decision, explanation.cause) == ("allow", None)
