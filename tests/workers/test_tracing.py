"""Traces of `gateway run`: each worker exports its own, the last ones when it ends."""

import signal
import uuid
from pathlib import Path

from tests.sockets import RawUpstream
from tests.telemetry.tracing.collector import Collector
from tests.workers.program import connected, running


async def test_workers_export_their_last_spans_and_share_examples(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    traces = [uuid.uuid4().hex for _ in range(8)]
    async with Collector() as collector:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        }
        async with running(tmp_path, upstream, dsn, redis_url, env=env) as program:
            for trace_id in traces:
                async with connected(program.url) as client:
                    parent = f"traceparent: 00-{trace_id}-00f067aa0ba902b7-01".encode()
                    assert (await client.get("/public/x", parent, b"Connection: close")).status == 200
            async with connected(program.admin_url) as client:
                accept = b"Accept: application/openmetrics-text; version=1.0.0"
                page = (await client.get("/metrics", accept, b"Connection: close")).content
            assert any(f'trace_id="{trace_id}"'.encode() in page for trace_id in traces)
            assert page.endswith(b"# EOF\n")
            assert collector.spans == []
            program.signal(signal.SIGTERM)
            assert await program.ended() == 0
        assert {span.trace_id for span in collector.spans} == set(traces)
        assert len(collector.spans) == 2 * len(traces)
