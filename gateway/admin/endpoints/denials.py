"""`/v1/denials`: the latest denied requests of all workers, as a list and as a stream."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog
from aiohttp import web

from gateway.admin.api import explanations, reports
from gateway.admin.api.operations import Answer, Operation, json, reads
from gateway.admin.api.problems import REQUEST_ID, RequestRefused, not_found
from gateway.admin.health import Workers
from gateway.admin.sign_in.sessions import PERSON
from gateway.explain import Explanation
from gateway.explain.kept_denials import DenialExplainer
from gateway.telemetry.denials import SIZE, DenialFilter, DenialRecord, DenialRing, ring_of
from gateway.telemetry.logs import hash_subject

HEARTBEAT: Final = 15.0
"""Seconds of silence after which a stream sends a comment."""
TICK: Final = 1.0
"""How often the other workers are asked for new denials, and the client is checked."""
MAX_STREAMS: Final = 32
"""The largest number of open streams of one worker."""
_EVENT_STREAM: Final = "text/event-stream"

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Denials:
    """Reads the denials of this worker and, through `Workers`, of the others."""

    def __init__(self, ring: DenialRing, workers: Workers | None, explainer: DenialExplainer) -> None:
        self._ring = ring
        self._explainer = explainer
        self._workers = workers
        self._streams: set[asyncio.Event] = set()
        self._closing = False

    def operations(self) -> list[Operation]:
        return [
            reads("GET", "/denials", self.list_denials, reports.DenialSearch,
                  "List the latest denials, newest first; with Accept: text/event-stream, stream new ones",
                  Answer(model=reports.DenialPage, streams=reports.Denial)),
            reads("GET", "/denials/explanation", self.explain_denial, reports.DenialQuestion,
                  "Explain why a request was denied, by the id that its client was told",
                  Answer(model=explanations.DenialExplanation), refusals=(404,)),
        ]  # fmt: skip

    async def close(self, _: web.Application) -> None:
        """End all streams, and refuse new ones."""
        self._closing = True
        for news in self._streams:
            news.set()

    async def list_denials(self, request: web.Request, params: reports.DenialSearch) -> web.StreamResponse:
        if request.method == "GET" and _EVENT_STREAM in request.headers.get("Accept", ""):
            return await self._stream(request, params)
        found = await self._gather(_wanted(params, params.limit + 1))
        page = found[: params.limit]
        return json(
            reports.DenialPage(
                items=[reports.Denial.of(each) for each in page],
                next=page[-1].id if len(found) > len(page) else None,
            )
        )

    async def explain_denial(self, _: web.Request, question: reports.DenialQuestion) -> web.Response:
        denial, explanation = await self.explained(question.request_id)
        return json(
            explanations.DenialExplanation(
                denial=reports.Denial.of(denial),
                explanation=explanations.Explanation.model_validate(explanation.to_json()),
            )
        )

    async def explained(self, request_id: str) -> tuple[DenialRecord, Explanation]:
        """Return the denial of a request, and its explanation. Raises `RequestRefused`: it is not kept."""
        found = await self._gather(DenialFilter(1, request_id=request_id, shadow=None))
        if not found:
            raise not_found(
                f"no worker keeps a denial with this request id: each has its latest {SIZE:,}, until it ends"
            )
        return found[0], await self._explainer.explain(found[0])

    async def _gather(self, wanted: DenialFilter) -> list[DenialRecord]:
        found = self._ring.latest(wanted)
        if self._workers is not None:
            others: Sequence[DenialRecord] = await self._workers.denials(wanted)
            found = sorted([*found, *others], key=lambda each: each.id, reverse=True)
        return found[: wanted.limit]

    async def _stream(self, request: web.Request, params: reports.DenialSearch) -> web.StreamResponse:
        if len(self._streams) >= MAX_STREAMS or self._closing:
            raise RequestRefused(
                429,
                "too_many_streams",
                f"{len(self._streams)} streams are open already",
                headers={"Retry-After": str(round(HEARTBEAT))},
            )
        response = web.StreamResponse(
            headers={
                "Content-Type": _EVENT_STREAM,
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                "X-Request-Id": request[REQUEST_ID],
            }
        )
        known = {"": request.headers.get("Last-Event-ID") or self._ring.present}
        news = asyncio.Event()
        self._streams.add(news)
        try:
            await response.prepare(request)
            with self._ring.heard_by(news.set):
                await self._follow(request, response, params, known, news)
        except (ConnectionError, TimeoutError):
            _break_off(request)  # the client has disconnected, or does not read
        except Exception:
            # The head has been sent, so no refusal can follow.
            log.exception("internal_error", request_id=request[REQUEST_ID])
            _break_off(request)
        finally:
            self._streams.discard(news)
        return response

    async def _follow(
        self,
        request: web.Request,
        response: web.StreamResponse,
        params: reports.DenialSearch,
        known: dict[str, str],
        news: asyncio.Event,
    ) -> None:
        loop = asyncio.get_running_loop()
        await _write(response, b": denials from now on\n\n")
        spoke_at = loop.time()
        person = request.get(PERSON)
        while request.transport is not None and not self._closing:
            if person is not None and person.until <= time.time():
                return  # the session has ended, and what it opened with it
            news.clear()
            wanted = replace(_wanted(params, SIZE), older_than=None, newer_than=known)
            for denial in reversed(await self._gather(wanted)):
                data = reports.Denial.of(denial).model_dump_json()
                await _write(response, f"id: {denial.id}\nevent: denial\ndata: {data}\n\n".encode())
                known[ring_of(denial.id)] = denial.id
                spoke_at = loop.time()
            if loop.time() - spoke_at >= HEARTBEAT:
                await _write(response, b":\n\n")
                spoke_at = loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(TICK, HEARTBEAT)):
                    await news.wait()


def _wanted(params: reports.DenialSearch, limit: int) -> DenialFilter:
    subject = params.subject
    return DenialFilter(
        limit,
        params.reason,
        params.issuer,
        params.route,
        older_than=params.after,
        request_id=params.request_id,
        # A text like a hash may be a subject as well.
        subjects=None if subject is None else (hash_subject(subject), subject),
        user_id=params.user_id,
        client=params.client,
        since=None if params.since is None else params.since.timestamp(),
        shadow=params.shadow,
    )


def _break_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(HEARTBEAT):
        await response.write(data)
