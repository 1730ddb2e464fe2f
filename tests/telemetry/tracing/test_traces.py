"""Traces as a collector gets them, of two gateways in a row."""

import asyncio
import json
import os
import uuid
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway import __version__
from gateway.builders.tracing import tracing
from gateway.settings import Settings
from tests.decision import by_grpc
from tests.decision.asking import ask, auth_request, ext_authz
from tests.harness import House, open_house, token
from tests.proxy.tunnels import echo, handshake, switching
from tests.sockets import Exchange, Response, request_bytes
from tests.telemetry.tracing.collector import Collector, Received, only
from tests.telemetry.tracing.conftest import Chain

pytestmark = pytest.mark.asyncio(loop_scope="session")

PARENT = "00f067aa0ba902b7"


def new_trace() -> str:
    return uuid.uuid4().hex


def header(trace_id: str, flags: str = "01") -> bytes:
    return f"traceparent: 00-{trace_id}-{PARENT}-{flags}".encode()


async def traced(chain: Chain, target: str, spans: int, *, method: str = "GET") -> list[Received]:
    """Send a sampled request to the second gateway, and return its spans."""
    trace_id = new_trace()
    await chain.back.request(target, header(trace_id), method=method)
    return await chain.collector.trace(trace_id, spans)


async def ended(chain: Chain, trace_id: str) -> Received:
    """Return the span of a request whose `header` had this trace, once it has been exported."""
    await chain.collector.until(lambda: any(span.parent == PARENT for span in chain.collector.of(trace_id)))
    return next(span for span in chain.collector.of(trace_id) if span.parent == PARENT)


async def test_a_trace_leads_from_gateway_to_gateway_to_the_upstream(chain: Chain) -> None:
    response = await chain.front.request("/private/x?token=secret", token=token("acme", tenant_id="acme"))
    assert response.status == 200
    (received,) = chain.back.upstream.requests
    (value,) = received.values(b"traceparent")
    version, trace_id, span_id, flags = value.decode().split("-")
    assert (version, flags) == ("00", "01")

    await chain.collector.until(
        lambda: len([span for span in chain.collector.of(trace_id) if span.kind != "internal"]) == 4
    )
    spans = chain.collector.of(trace_id)
    by_id = {span.id: span for span in spans}
    last = by_id[span_id]
    way = [last]
    while way[-1].parent:
        way.append(by_id[way[-1].parent])
    assert [(span.kind, span.name, span.resource["service.name"]) for span in way] == [
        ("client", "GET /**", "back"),
        ("server", "GET /**", "back"),
        ("client", "GET /private/**", "gateway"),
        ("server", "GET /private/**", "gateway"),
    ]
    assert {span.resource["deployment.environment.name"] for span in spans} == {"tests"}
    assert {span.resource["service.version"] for span in spans} == {__version__}
    assert chain.collector.headers[-1]["api-key"] == "collectors-secret"
    assert "secret" not in json.dumps([span.attributes for span in spans])

    server, client = way[3].attributes, way[2].attributes
    assert server["http.request.method"] == "GET"
    assert (server["url.path"], server["url.scheme"]) == ("/private/x", "http")
    assert (server["http.route"], server["gateway.route"]) == ("/private/**", "private")
    assert (server["client.address"], server["http.response.status_code"]) == ("127.0.0.1", 200)
    assert server["http.response.header.x-request-id"] == [response.values(b"x-request-id")[0].decode()]
    assert client["url.full"] == f"{chain.back.url}/private/x"
    assert client["server.port"] == int(chain.back.url.rpartition(":")[2])
    assert not {"user.id", "error.type"} & server.keys()
    assert not any(span.failed for span in spans)
    (line,) = [line for line in chain.front.events("request") if line["route"] == "private"]
    assert line["trace_id"] == trace_id


async def test_stores_have_spans_only_where_they_were_asked(chain: Chain) -> None:
    bearer = token()

    async def asked() -> tuple[str, list[Received]]:
        """Send a request; return its trace, and the spans of what it waited for."""
        trace_id = new_trace()
        assert (await chain.front.request("/private/x", header(trace_id), token=bearer)).status == 200
        await ended(chain, trace_id)
        return trace_id, [span for span in chain.collector.of(trace_id) if span.kind == "internal"]

    async with asyncio.timeout(15):
        while not (cold := await asked())[1]:
            # Memory has it until it hears of the change.
            await chain.front.sql("UPDATE users SET updated_at = now() WHERE email = 'member@example.org'")
        while (await asked())[1]:  # noqa: ASYNC110 -- no event reports it
            # Memory is not trusted while the streams of changes catch up.
            await asyncio.sleep(0.05)
    trace_id, spans = cold
    resolve = only(spans, "internal", "identity resolve")
    assert resolve.parent == (await ended(chain, trace_id)).id
    redis = only(spans, "internal", "redis read")
    assert (redis.parent, redis.attributes["db.system.name"]) == (resolve.id, "redis")
    assert resolve.seconds >= redis.seconds


async def test_a_parent_is_continued_with_its_state(chain: Chain) -> None:
    trace_id = new_trace()
    state = b"tracestate: vendor=1,other=2"
    received = await chain.back.forwarded("/x", header(trace_id), state)
    spans = await chain.collector.trace(trace_id, 2)
    server, client = only(spans, "server"), only(spans, "client")
    assert (server.parent, client.parent) == (PARENT, server.id)
    assert received.values(b"traceparent") == [f"00-{trace_id}-{client.id}-01".encode()]
    assert received.values(b"tracestate") == [b"vendor=1,other=2"]
    assert server.state == "vendor=1,other=2"


@pytest.mark.parametrize(
    "value", ["00-nonsense", f"ff-{'ab' * 16}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01"]
)
async def test_what_is_no_parent_is_replaced_with_its_state(chain: Chain, value: str) -> None:
    fields = f"TraceParent: {value}".encode(), b"TraceState: vendor=1", b"X-Tracestate: mine"
    for house in (chain.back, chain.front):
        await house.request("/public/x", *fields)
        received = chain.back.upstream.requests[-1]
        (traceparent,) = received.values(b"traceparent")
        assert traceparent != value.encode()
        assert received.values(b"tracestate") == []
        assert received.values(b"x-tracestate") == [b"mine"]


async def test_a_parent_that_is_not_sampled_is_passed_on_unchanged(chain: Chain) -> None:
    silent = new_trace()
    received = await chain.back.forwarded("/x", header(silent, "00"), b"tracestate: vendor=1")
    assert received.values(b"traceparent") == [f"00-{silent}-{PARENT}-00".encode()]
    assert received.values(b"tracestate") == [b"vendor=1"]
    await traced(chain, "/x", 2)
    assert chain.collector.of(silent) == []


async def test_the_upstream_of_a_trace_that_was_not_chosen_is_told(chain: Chain) -> None:
    received = await chain.back.forwarded("/x", b"tracestate: vendor=1")
    (value,) = received.values(b"traceparent")
    version, trace_id, span_id, flags = value.decode().split("-")
    assert (version, flags, len(trace_id), len(span_id)) == ("00", "00", 32, 16)
    assert received.values(b"tracestate") == []
    (line,) = chain.back.events("request")
    assert line["trace_id"] == trace_id
    await traced(chain, "/x", 2)
    assert chain.collector.of(trace_id) == []


async def test_a_denial_has_its_reason_and_is_no_error(chain: Chain) -> None:
    trace_id = new_trace()
    await chain.front.request("/private/x", header(trace_id))
    (span,) = await chain.collector.trace(trace_id, 1)
    assert span.name == "GET /private/**"
    assert (span.attributes["http.response.status_code"], span.failed) == (401, False)
    assert span.attributes["gateway.denial.reason"] == "credentials_missing"
    assert "error.type" not in span.attributes
    (denied,) = [line for line in chain.front.events("denied") if line["status"] == 401]
    assert denied["trace_id"] == trace_id


async def test_an_upstream_that_breaks_off_fails_both_spans(chain: Chain) -> None:
    chain.back.upstream.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", close=True)
    trace_id = new_trace()
    async with chain.back.connect() as client:
        await client.send(request_bytes("GET", "/x", header(trace_id)))
        with suppress(ConnectionError):
            await client.response()
    spans = await chain.collector.trace(trace_id, 2)
    for span in spans:
        assert (span.failed, span.attributes["error.type"]) == (True, "upstream_protocol_error")
        assert span.attributes["http.response.status_code"] == 200


async def test_an_error_of_the_upstream_is_the_upstreams(chain: Chain) -> None:
    chain.back.upstream.answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    spans = await traced(chain, "/x", 2)
    assert [(span.kind, span.failed) for span in sorted(spans, key=lambda span: span.kind)] == [
        ("client", True),
        ("server", False),
    ]
    assert only(spans, "client").attributes["error.type"] == "404"
    chain.back.upstream.answer(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    spans = await traced(chain, "/x", 2)
    assert [span.attributes["error.type"] for span in spans if span.failed] == ["500", "500"]


async def test_a_request_that_is_sent_again_has_two_client_spans(chain: Chain) -> None:
    async with chain.back.connect() as client:
        for _ in range(2):
            await client.send(request_bytes("GET", "/x"))
            await client.response()

    async def closes_first(exchange: Exchange) -> None:
        # The kept connection ends just when it is used.
        chain.back.upstream.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await exchange.wire.close()

    chain.back.upstream.behave(closes_first)
    spans = await traced(chain, "/x", 3)
    first, second = sorted(
        (span for span in spans if span.kind == "client"),
        key=lambda span: "http.request.resend_count" in span.attributes,
    )
    assert (first.failed, second.failed) == (True, False)
    assert second.attributes["http.request.resend_count"] == 1
    assert chain.back.upstream.requests[-1].values(b"traceparent")[0].split(b"-")[2] == second.id.encode()


async def test_a_user_is_named_only_by_the_setting(chain: Chain) -> None:
    (user,) = await chain.back.sql("SELECT user_id::text FROM identities WHERE subject = 'member'")
    for house, target, told in ((chain.back, "/both/x", user[0]), (chain.front, "/private/x", None)):
        trace_id = new_trace()
        assert (await house.request(target, header(trace_id), token=token())).status == 200
        server = await ended(chain, trace_id)
        assert server.attributes["gateway.issuer"] == "main"
        assert server.attributes.get("user.id") == told


async def test_an_unknown_method_is_one_of_few_names(chain: Chain) -> None:
    spans = await traced(chain, "/x", 2, method="PROPFIND")
    server = only(spans, "server")
    assert server.name == "HTTP /**"
    assert server.attributes["http.request.method"] == "_OTHER"
    assert server.attributes["http.request.method_original"] == "PROPFIND"


async def test_the_spans_of_a_tunnel_end_with_it(chain: Chain) -> None:
    chain.back.upstream.behave(switching(echo))
    trace_id = new_trace()
    async with chain.back.connect() as client:
        await client.send(handshake("/ws", header(trace_id)))
        response = await client.response()
        assert response is not None
        assert response.status == 101
        await traced_other(chain)
        assert chain.collector.of(trace_id) == []
    spans = await chain.collector.trace(trace_id, 2)
    assert [span.attributes["http.response.status_code"] for span in spans] == [101, 101]


async def traced_other(chain: Chain) -> None:
    """Wait until a later trace has been exported."""
    trace_id = new_trace()
    async with chain.front.connect() as client:
        await client.send(request_bytes("GET", "/private/x", header(trace_id)))
        await client.response()
    await chain.collector.trace(trace_id, 1)


async def test_a_client_that_leaves_ends_the_spans(chain: Chain) -> None:
    arrived = asyncio.Event()

    async def silent(_: Exchange) -> None:
        arrived.set()
        await asyncio.sleep(30)

    chain.back.upstream.behave(silent)
    trace_id = new_trace()
    async with chain.back.connect() as client:
        await client.send(request_bytes("GET", "/x", header(trace_id)))
        await asyncio.wait_for(arrived.wait(), 15)
    spans = await chain.collector.trace(trace_id, 2)
    assert {span.attributes["error.type"] for span in spans} == {"client_closed_request"}
    assert not any(span.failed or "http.response.status_code" in span.attributes for span in spans)


async def test_a_question_of_a_front_is_a_part_of_its_trace(chain: Chain) -> None:
    allowed, refused, silent = new_trace(), new_trace(), new_trace()
    for question in (
        auth_request("GET", "/both/x", header(silent, "00"), token=token()),
        auth_request("GET", "/both/x", header(allowed), token=token()),
        ext_authz("GET", "/both/x", header(refused)),
    ):
        await ask(chain.back, question)
    good, bad = await ended(chain, allowed), await ended(chain, refused)
    assert (good.name, good.kind, good.attributes["url.path"]) == ("GET /both/**", "server", "/auth-request")
    assert good.attributes["http.response.status_code"] == 200
    assert "user.id" in good.attributes
    assert (bad.name, bad.failed) == ("GET /both/**", False)
    assert bad.attributes["http.response.status_code"] == 401
    assert chain.collector.of(silent) == []
    (denied,) = chain.back.events("denied")
    assert denied["trace_id"] == refused


async def test_a_question_by_grpc_is_a_part_of_its_trace(chain: Chain) -> None:
    allowed, refused, silent = new_trace(), new_trace(), new_trace()
    for trace_id, flags, bearer in (
        (silent, "00", token()),
        (allowed, "01", token()),
        (refused, "01", None),
    ):
        headers = {"traceparent": header(trace_id, flags).decode().partition(": ")[2]}
        asked = by_grpc.question("GET", "/both/x?token=secret", token=bearer, headers=headers)
        await by_grpc.ask(chain.back, asked)
    good, bad = await ended(chain, allowed), await ended(chain, refused)
    assert (good.name, good.kind, good.attributes["url.path"]) == ("GET /both/**", "server", "/both/x")
    assert (good.attributes["http.response.status_code"], good.failed) == (200, False)
    assert (bad.attributes["gateway.denial.reason"], bad.failed) == ("credentials_missing", False)
    assert chain.collector.of(silent) == []
    (denied,) = chain.back.events("denied")
    assert denied["trace_id"] == refused


async def test_an_outage_of_the_collector_harms_nothing_and_is_one_line(chain: Chain) -> None:
    chain.collector.status = 400
    for _ in range(3):
        seen = len(chain.collector.headers)
        assert (await chain.back.request("/x", header(new_trace()))).status == 200
        await chain.collector.until(partial(more_than, chain.collector.headers, seen))
    await until_logged(chain.back, "dependency_down")
    chain.collector.status = 200
    await traced(chain, "/x", 2)
    await until_logged(chain.back, "dependency_up")
    (down,) = [
        line for line in chain.back.events("dependency_down") if line["dependency"] == "trace_exporter"
    ]
    assert "400" in str(down["detail"])
    assert len(chain.back.events("library")) == 0


def more_than(kept: list[dict[str, str]], number: int) -> bool:
    return len(kept) > number


async def until_logged(house: House, event: str) -> None:
    async with asyncio.timeout(15):
        while not house.events(event):  # noqa: ASYNC110 -- logged by another thread
            await asyncio.sleep(0.01)


async def test_latencies_have_examples_for_scrapers_of_openmetrics(chain: Chain) -> None:
    trace_id = new_trace()
    await chain.back.request("/x", header(trace_id))
    page = await scrape(chain.back, b"Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert page.values(b"content-type")[0].startswith(b"application/openmetrics-text")
    examples = [
        sample.exemplar
        for family in text_string_to_metric_families(page.content.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert trace_id in {example.labels["trace_id"] for example in examples}
    page = await scrape(chain.back)
    assert page.values(b"content-type")[0].startswith(b"text/plain")
    assert b"trace_id" not in page.content


async def scrape(house: House, *fields: bytes) -> Response:
    async with house.connect(admin=True) as client:
        await client.send(request_bytes("GET", "/metrics", b"Connection: close", *fields))
        response = await client.response()
        assert response is not None
        return response


async def test_the_last_spans_are_exported_at_the_end(
    tmp_path: Path, dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        trace_id = new_trace()
        async with open_house(tmp_path, dsn, redis_url) as house:
            await house.request("/gone/x", header(trace_id))
            assert collector.spans == []
        spans = collector.of(trace_id)
        assert [span.attributes["error.type"] for span in spans] == ["upstream_unreachable"] * 2
        assert all(span.failed for span in spans)


@pytest.mark.parametrize(
    ("variable", "value", "event"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "tracing_unavailable"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "tracing_unavailable"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[collector", "tracing_unavailable"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "none", "tracing_unavailable"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key: hunter2", "tracing_misconfigured"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "tracing_misconfigured"),
        ("OTEL_TRACES_SAMPLER", "some", "tracing_misconfigured"),
        ("OTEL_SDK_DISABLED", "true", None),
    ],
)
async def test_what_cannot_be_traced_is_served(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, event: str | None
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    async with AsyncExitStack() as stack:
        made = tracing(Settings.model_construct(), os.environ, stack)
        assert (made is not None) is (event == "tracing_misconfigured")
    events = [line["event"] for line in map(json.loads, chain.back.log.getvalue().splitlines())]
    assert [each for each in events if each.startswith("tracing")] == ([] if event is None else [event])
    assert "hunter2" not in chain.back.log.getvalue()
