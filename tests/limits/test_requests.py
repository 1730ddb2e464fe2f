"""Requests over a limit, through a real gateway: what clients get, and what reaches the upstream."""

import asyncio
import json
import re
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from tests import tokens
from tests.admin.client import Api
from tests.harness import House, configuration, token
from tests.limits.conftest import LIMITS, ROUTES
from tests.sockets import Exchange, RawClient, Response, request_bytes
from tests.workers.program import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def statuses(house: House, target: str, number: int, bearer: bytes | None, *fields: bytes) -> list[int]:
    return [(await house.request(target, *fields, token=bearer)).status for _ in range(number)]


async def test_a_rate_ends_in_429(limited: House) -> None:
    member = token()
    first = await limited.request("/three/a", token=member)
    assert first.status == 200
    assert first.field(b"ratelimit-policy") == b'"three";q=3;w=3600'
    assert re.fullmatch(rb'"three";r=2;t=\d+', first.field(b"ratelimit") or b"")
    assert await statuses(limited, "/three/b", 2, member) == [200, 200]
    refused = await limited.request("/three/c", token=member)
    assert (refused.status, refused.code) == (429, "rate_limited")
    wait = int(refused.field(b"retry-after") or b"0")
    assert 1190 <= wait <= 1200
    assert refused.field(b"ratelimit") == b'"three";r=0;t=%d' % wait
    assert refused.field(b"ratelimit-policy") == b'"three";q=3;w=3600'
    assert not any(b"/three/c" in each.line for each in limited.upstream.requests)
    # Another user has a budget of its own, and another route none at all.
    assert await statuses(limited, "/three/d", 1, token("admin")) == [200]
    free = await limited.request("/free/e", token=member)
    assert (free.status, free.field(b"ratelimit")) == (200, None)


async def test_it_is_in_metrics_and_log(limited: House) -> None:
    acme = token("acme", tenant_id="acme")
    before = await limited.metric("gateway_limit_hits_total", limit="three", result="denied")
    assert await statuses(limited, "/three/m", 4, acme) == [200, 200, 200, 429]
    assert await limited.metric("gateway_limit_hits_total", limit="three", result="denied") == before + 1
    assert await limited.metric("gateway_limit_hits_total", limit="three", result="allowed") >= 3
    assert await limited.metric("gateway_limits_shared") == 1
    (denied,) = limited.events("denied")
    assert denied["reason"] == "rate_limited"
    assert denied["route"] == "three"
    assert "the limit three" in str(denied["detail"])


async def test_a_quota_ends_in_429(limited: House) -> None:
    bearer = token("globex", tenant_id="globex")
    assert await statuses(limited, "/daily/a", 2, bearer) == [200, 200]
    refused = await limited.request("/daily/a", token=bearer)
    assert (refused.status, refused.code) == (429, "quota_exceeded")
    assert 0 < int(refused.field(b"retry-after") or b"0") <= 86_400


async def test_the_strictest_of_several_wins_and_the_others_are_not_spent(limited: House) -> None:
    bearer = token("admin")
    answers = [await limited.request("/both/a", token=bearer) for _ in range(6)]
    # One was spent on the route `three`.
    passed = [each for each in answers if each.status == 200]
    assert len(passed) in (2, 3)
    assert (passed[-1].field(b"ratelimit") or b"").startswith(b'"three";r=0;t=')
    assert b'"ten";r=%d' % (10 - len(passed)) in (passed[-1].field(b"ratelimit") or b"")
    assert answers[-1].field(b"ratelimit-policy") == b'"three";q=3;w=3600'


async def test_shadow_only_counts(limited: House) -> None:
    before = await limited.metric("gateway_limit_hits_total", limit="shadow", result="shadow")
    assert await statuses(limited, "/shadow/a", 3, token()) == [200, 200, 200]
    assert await limited.metric("gateway_limit_hits_total", limit="shadow", result="shadow") == before + 2


async def test_a_limit_on_a_route_in_shadow_tells_clients_nothing(limited: House) -> None:
    answers = [await limited.request("/trial/a", token=token()) for _ in range(3)]
    assert [each.status for each in answers] == [200, 200, 200]
    assert {each.field(b"ratelimit") for each in answers} == {None}
    assert await limited.metric("gateway_limit_hits_total", limit="trial", result="shadow") == 2


async def test_anonymous_requests_have_a_limit_of_their_own(limited: House) -> None:
    client = b"X-Forwarded-For: 2001:db8:a:b::1"
    same = b"X-Forwarded-For: 2001:db8:a:b::2"
    assert await statuses(limited, "/open/a", 2, None, client) == [200, 200]
    assert await statuses(limited, "/open/a", 1, None, same) == [429]
    assert await statuses(limited, "/open/a", 1, token(), client) == [200]
    assert await statuses(limited, "/open/a", 1, None, b"X-Forwarded-For: 2001:db8:a:c::1") == [200]


async def test_a_claim_may_have_a_limit(limited: House) -> None:
    assert await statuses(limited, "/plans/a", 2, token(plan="basic")) == [200, 200]
    assert await statuses(limited, "/plans/a", 1, token("admin", plan="basic")) == [429]
    # The request that was refused has spent nothing of the other limit.
    assert await limited.metric("gateway_limit_hits_total", limit="plans", result="allowed") == 2
    assert await statuses(limited, "/plans/a", 3, token()) == [200, 200, 200]


class Held:
    """An upstream that answers when it is told to."""

    def __init__(self, house: House) -> None:
        self.arrived = asyncio.Event()
        self.answer = asyncio.Event()
        house.upstream.behave(self._serve)

    async def _serve(self, exchange: Exchange) -> None:
        self.arrived.set()
        await self.answer.wait()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def test_a_concurrency_ends_with_the_response(limited: House) -> None:
    member, held = token(), Held(limited)
    first = asyncio.create_task(limited.request("/slots/a", token=member))
    await held.arrived.wait()
    refused = await limited.request("/slots/b", token=member)
    assert (refused.status, refused.code) == (429, "concurrency_exceeded")
    assert refused.field(b"ratelimit-policy") == b'"slots";q=1;qu="concurrent-requests"'
    held.answer.set()
    assert (await first).status == 200

    async def free() -> bool:
        return (await limited.request("/slots/c", token=member)).status == 200

    await eventually(free)


async def test_a_concurrency_ends_with_a_client_that_leaves(limited: House) -> None:
    admin, held = token("admin"), Held(limited)
    async with limited.connect() as client:
        await client.send(request_bytes("GET", "/slots/a", token=admin))
        await held.arrived.wait()
        assert (await limited.request("/slots/b", token=admin)).status == 429
    held.answer.set()

    async def free() -> bool:
        return (await limited.request("/slots/c", token=admin)).status == 200

    await eventually(free)


async def test_a_websocket_is_counted_until_it_ends(limited: House) -> None:
    ended = asyncio.Event()

    async def tunnel(exchange: Exchange) -> None:
        if b"upgrade" in exchange.request.head.lower():
            await exchange.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            await ended.wait()
            exchange.wire.writer.close()
        else:
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    limited.upstream.behave(tunnel)
    fields = (b"Connection: Upgrade", b"Upgrade: websocket")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(limited.connect())
        await client.send(request_bytes("GET", "/socket/a", *fields))
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert (await limited.request("/socket/b")).status == 429
    ended.set()

    async def free() -> bool:
        return (await limited.request("/socket/c")).status == 200

    await eventually(free)


async def ask(house: House, target: str, *fields: bytes) -> Response:
    """Ask the decision listener as nginx does."""
    parts = urlsplit(house.decision_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    client = RawClient(reader, writer)
    original = (b"X-Original-Method: GET", b"X-Original-URI: " + target.encode(), b"X-Original-Host: a")
    await client.send(request_bytes("GET", "/auth-request", *original, *fields))
    answer = await client.response()
    await client.close()
    assert answer is not None
    return answer


async def test_other_proxies_are_told(limited: House) -> None:
    bearer = b"Authorization: Bearer " + token("acme", tenant_id="acme", plan="asked")
    answers = [await ask(limited, "/plans/a", bearer) for _ in range(3)]
    # nginx passes on 401 and 403 alone.
    assert [each.status for each in answers] == [200, 200, 403]
    assert answers[-1].field(b"x-gateway-reason-status") == b"429"
    assert answers[-1].field(b"x-gateway-reason-code") == b"rate_limited"
    assert answers[-1].field(b"retry-after") is not None
    # A question has no end, so a concurrency does not count it.
    member = b"Authorization: Bearer " + token()
    assert [(await ask(limited, "/slots/a", member)).status for _ in range(3)] == [200, 200, 200]


async def looked_at(house: House) -> float:
    """Return how many tokens were verified and refused."""
    return sum(
        count
        for (name, labels), count in (await house.metrics()).items()
        if name == "gateway_token_verifications_total"
        and ("tier", "signature") in labels
        and ("result", "valid") not in labels
    )


async def test_failed_authentications_are_slowed_down(limited: House) -> None:
    good, client = token(), b"X-Forwarded-For: 198.51.100.9"
    assert await statuses(limited, "/guarded/a", 1, good, client) == [200]
    bad = [good[:-6] + b"%06d" % number for number in range(8)]
    before = await looked_at(limited)
    got = [(await limited.request("/guarded/a", client, token=each)).status for each in bad]
    assert got == [401] * 3 + [429] * 5
    # The fourth one was looked at, and after it none.
    assert await looked_at(limited) == before + 4
    # A token that is remembered as valid passes, and so does another client.
    assert await statuses(limited, "/guarded/a", 1, good, client) == [200]
    assert await statuses(limited, "/guarded/a", 1, bad[0], b"X-Forwarded-For: 198.51.100.10") == [401]
    assert (await limited.request("/guarded/a", client, token=token("admin"))).code == "rate_limited"


async def test_a_key_that_there_is_not_is_looked_for_a_few_times(limited: House) -> None:
    def forged(number: int) -> bytes:
        return tokens.sign(tokens.claims("member", jti=f"{number}"), tokens.rsa_key("other-kid"))

    got = [(await limited.request("/free/a", token=forged(number))).code for number in range(4)]
    assert got == ["key_unknown", "key_unknown", "rate_limited", "rate_limited"]
    assert await statuses(limited, "/free/a", 1, token()) == [200]


async def test_operators_see_a_budget_and_give_it_anew(limited: House) -> None:
    async with Api.of(limited) as api:
        leave = token("globex", tenant_id="globex")
        rows = await limited.sql("SELECT user_id::text FROM identities WHERE subject = 'globex'")
        subject = str(rows[0]["user_id"])
        listed = (await api.get("/limits")).json
        assert (listed["shared"], listed["workers"]) == (True, 1)
        assert [each["name"] for each in listed["limits"]][:3] == ["three", "daily", "slots"]
        for limit, path, amount in (("three", "/three/o", 3), ("daily", "/daily/o", 2)):
            query = {"limit": limit, "subject": subject}
            await statuses(limited, path, amount, leave)
            assert await statuses(limited, path, 1, leave) == [429]
            (told,) = (await api.call("GET", "/limits", query=query)).json["limits"]
            assert (told["amount"], told["budget"]["left"]) == (amount, 0)
            assert (await api.call("POST", "/limits/reset", query)).status == 204
            (told,) = (await api.call("GET", "/limits", query=query)).json["limits"]
            assert told["budget"]["left"] == amount

            async def passes(path: str = path) -> bool:
                return await statuses(limited, path, 1, leave) == [200]

            await eventually(passes)
        assert b'"limit.reset"' in (await api.get("/audit")).content
        assert (await api.call("GET", "/limits", query={"limit": "none"})).status == 404


async def test_operators_see_whom_limits_refuse(limited: House) -> None:
    async with Api.of(limited) as api:
        guesser, stranger = "203.0.113.77", "203.0.113.78"
        key = tokens.rsa_key("a-kid-of-the-state")
        before = (await api.get("/limits/state")).json
        for client in (guesser, stranger):
            field = f"X-Forwarded-For: {client}".encode()
            attempts = 4 if client == guesser else 2
            for number in range(attempts):
                await limited.request("/guarded/a", field, token=b"a.guess.%d" % number)
        for number in range(3):
            forged = tokens.sign(tokens.claims("member", jti=f"{number}"), key)
            assert await statuses(limited, "/free/a", 1, forged) == [429 if number == 2 else 401]
        state = (await api.get("/limits/state")).json

        refused = {(each["limit"], each["subject"]): each for each in state["throttled"]}
        assert ("guessing", stranger) not in refused
        assert refused["guessing", guesser]["per"] == "client"
        assert refused["keys", "a-kid-of-the-state"]["per"] == "kid"
        for each in (refused["guessing", guesser], refused["keys", "a-kid-of-the-state"]):
            since, until = (datetime.fromisoformat(each[name]) for name in ("since", "until"))
            assert since <= datetime.fromisoformat(state["at"]) < until
        spent = {each["subject"]: each for each in state["spent"] if each["limit"] == "guessing"}
        assert [(spent[each]["spent"], spent[each]["capacity"]) for each in (guesser, stranger)] == [
            (3, 3), (2, 3),
        ]  # fmt: skip
        (old,), (new,) = (
            [each for each in answer["limits"] if each["name"] == "guessing"] for answer in (before, state)
        )
        assert (new["refused"] - old["refused"], new["throttled"] >= 1) == (1, True)
        assert (new["counts"], new["period_seconds"], new["burst"]) == ("failed", 3600, 3)

        body = {"limit": "guessing", "subject": guesser}
        assert (await api.call("POST", "/limits/reset", body)).status == 204
        after = (await api.get("/limits/state")).json["throttled"]
        assert guesser not in {each["subject"] for each in after}


async def test_an_explanation_tells_what_is_left(limited: House, tmp_path: Path) -> None:
    async with Api.of(limited) as api:
        bearer = token("acme", tenant_id="acme", plan="explained")

        async def explained() -> tuple[str, str]:
            body = {"token": bearer.decode(), "url": "/plans/x"}
            answer = (await api.call("POST", "/explain", body)).json
            (step,) = [each for each in answer["steps"] if each["name"] == "limits"]
            return step["found"], answer["summary"]

        config = configuration(tmp_path, "http://127.0.0.1:9", limited.dsn, limited.redis_url, limited.prefix)
        (file := tmp_path / "gateway.yaml").write_text(
            json.dumps({**config, "routes": ROUTES, "limits": LIMITS})
        )

        async def by_command() -> dict[str, Any]:
            words = ["explain", "-", "--url", "/plans/x", "--json", "--config", str(file)]
            told = await asyncio.to_thread(CliRunner().invoke, app, words, input=bearer.decode())
            answer: dict[str, Any] = json.loads(told.stdout)
            return answer

        def step(answer: dict[str, Any]) -> object:
            return next(each["found"] for each in answer["steps"] if each["name"] == "limits")

        assert await explained() == ("plan: 2 of 2", "The token is valid, and its user is admitted.")
        assert step(await by_command()) == "plan: 2 of 2"
        assert await statuses(limited, "/plans/x", 2, bearer) == [200, 200]
        found, summary = await explained()
        assert found == "plan: 0 of 2"
        assert "Of the limit plan, nothing is left" in summary
        # The reason is that of the next request.
        told = await by_command()
        assert (told["decision"], told["reason"], told["cause"]) == ("deny", "rate_limited", "rate_limited")
        assert step(told) == "plan: 0 of 2"
        assert await statuses(limited, "/plans/x", 1, bearer) == [429]
        # An explanation spends nothing.
        assert await statuses(limited, "/free/x", 1, bearer) == [200]


async def test_a_condition_says_which_requests_count(limited: House) -> None:
    basic, pro, unknown = (
        token("acme", tenant_id="acme", **plan) for plan in ({"plan": "basic"}, {"plan": "pro"}, {})
    )

    async def post(bearer: bytes) -> int:
        return (await limited.request("/free/w", token=bearer, method="POST", body=b"")).status

    assert await statuses(limited, "/free/w", 2, basic) == [200, 200]
    assert [await post(pro) for _ in range(2)] == [200, 200]
    assert [await post(basic) for _ in range(2)] == [200, 429]
    # Without the claim, the condition has no value: the request counts.
    assert await post(unknown) == 429
