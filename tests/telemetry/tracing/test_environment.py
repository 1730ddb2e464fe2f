"""Which variables turn tracing on, and how they choose what is traced."""

import random

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import sampling as sdk
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from gateway.core.requests.trace_context import TraceParent
from gateway.telemetry.tracing import environment, sampling
from gateway.telemetry.tracing.environment import TracingUnavailable

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "exporter"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "gateway"}, None),
        (ENDPOINT, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "True"}, None),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, "otlp"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "otlp"),
        (
            {
                **ENDPOINT,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            "otlp",
        ),
    ],
)
def test_a_variable_that_asks_for_traces_turns_them_on(environ: dict[str, str], exporter: str | None) -> None:
    assert environment.exporter(environ) == exporter


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
    ],
)
def test_what_the_gateway_does_not_have_is_said(environ: dict[str, str], named: str) -> None:
    with pytest.raises(TracingUnavailable, match=named):
        environment.exporter(environ)


def test_the_headers_for_a_collector_and_its_password_are_secrets() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20hunter2,x=1",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key: hunter3",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:hunter4@collector/x",
        "OTEL_SERVICE_NAME": "gateway",
    }
    assert set(environment.secrets(environ)) == {
        "Bearer%20hunter2", "api-key: hunter3", "Bearer hunter2", "user:hunter4",
    }  # fmt: skip


SAMPLED = sdk.Decision.RECORD_AND_SAMPLE
SAMPLERS = [
    ("always_on", None),
    ("always_off", None),
    ("traceidratio", "0.25"),
    ("parentbased_always_on", None),
    ("parentbased_always_off", None),
    ("parentbased_traceidratio", "0.25"),
    ("parentbased_traceidratio", "0"),
    ("traceidratio", "1"),
]


@pytest.mark.parametrize(("name", "argument"), SAMPLERS)
def test_each_decision_is_that_of_the_sdk(
    monkeypatch: pytest.MonkeyPatch, name: str, argument: str | None
) -> None:
    environ = {"OTEL_TRACES_SAMPLER": name} | (
        {} if argument is None else {"OTEL_TRACES_SAMPLER_ARG": argument}
    )
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    ours, problem = sampling.read(environ)
    theirs = sdk._get_from_env_or_default()
    assert problem is None
    drawn = random.Random(7)  # noqa: S311 -- no secret
    edge = round(0.25 * 2**64)
    ids = [drawn.getrandbits(128) or 1 for _ in range(200)] + [edge - 1, edge, edge + 1, (1 << 128) - 1]
    for trace_id in ids:
        root = theirs.should_sample(None, trace_id, "").decision
        assert ours.chooses(trace_id) is (root is SAMPLED)
        for sampled in (True, False):
            parent = TraceParent(f"{trace_id:032x}", "00f067aa0ba902b7", sampled)
            context = _below(trace_id, sampled=sampled)
            below = theirs.should_sample(context, trace_id, "").decision
            assert ours.follows(parent) is (below is SAMPLED)


def _below(trace_id: int, *, sampled: bool) -> Context:
    span = SpanContext(trace_id, 7, is_remote=True, trace_flags=TraceFlags(int(sampled)))
    return set_span_in_context(NonRecordingSpan(span), Context())


@pytest.mark.parametrize(
    ("environ", "bound", "problem"),
    [
        ({}, 2**64, False),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, 2**64, True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, 2**64, False),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "a lot"}, 2**64, True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10"}, 2**64, True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, 2**64, True),
        ({"OTEL_TRACES_SAMPLER": " TraceIdRatio ", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, 2**63, False),
    ],
)
def test_a_mistake_samples_all_and_is_said(environ: dict[str, str], bound: int, *, problem: bool) -> None:
    sampler, said = sampling.read(environ)
    assert sampler.bound == bound
    assert (said is not None) is problem
