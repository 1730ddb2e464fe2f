"""`/v1/replay`: recorded requests under another configuration, which is read and never applied.

It is for operators: it shows requests of all users, and takes a share of the machine.
"""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from aiohttp import web
from pydantic import Field

from gateway.admin.api import models
from gateway.admin.api.models import Model, instant
from gateway.admin.api.operations import Answer, Operation, json, takes
from gateway.admin.api.problems import FieldError, RequestRefused, invalid
from gateway.replay import own_process
from gateway.replay.recorder import SUFFIX
from gateway.replay.records import Unreadable, decode

MAX_BODY: Final = 8 * 1024 * 1024
"""Bytes of a request: most of them are records."""
_LONGEST_CONFIGURATION: Final = 256 * 1024

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ReplayQuestion(Model):
    configuration: Annotated[str, Field(min_length=1, max_length=_LONGEST_CONFIGURATION)]
    """The new configuration, YAML. `${NAME}` and files are not read: see docs/policy.md."""
    records: Annotated[str, Field(min_length=1)] | None = None
    """The text of a recorded file; null: what this gateway has recorded."""


class ReplayedRequest(Model):
    method: str
    path: str
    user: str | None
    at: datetime
    detail: str | None


class ReplayedGroup(Model):
    """Requests of one route whose verdict changes in the same way."""

    route: str
    before: str
    """`allow`, or the code of a reason."""
    after: str
    count: int
    requests: list[ReplayedRequest]
    """The first five."""


class Replayed(Model):
    """What a configuration would change."""

    requests: int
    changed: int
    undecided: int
    """Requests of which the record does not have what a rule reads."""
    truncated: bool
    """Whether there were more than 100,000 records; those of the newest files count."""
    unread: list[str]
    """The variables that stand for secrets in the configuration. They are not read, and decide nothing."""
    groups: list[ReplayedGroup]
    """The largest first, up to 200."""


class Replays:
    """Replays what was recorded in `directory`, one replay at a time. None: nothing is recorded."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._running = asyncio.Lock()

    def operations(self) -> list[Operation]:
        return [
            takes("POST", "/replay", self.replay_requests, models.NoParams, ReplayQuestion,
                  "Decide recorded requests by another configuration, which is not applied",
                  Answer(model=Replayed), refusals=(409, 429), max_body=MAX_BODY),
        ]  # fmt: skip

    async def replay_requests(
        self, _: web.Request, __: models.NoParams, asked: ReplayQuestion
    ) -> web.Response:
        if asked.records is not None:
            _check(asked.records)
        elif not await asyncio.to_thread(self._has_records):
            raise RequestRefused(
                409,
                "nothing_recorded",
                "Send a recorded file, or let the gateway record: the setting `record`",
            )
        if self._running.locked():
            raise RequestRefused(
                429, "replay_running", "Try again when it has ended", headers={"Retry-After": "5"}
            )
        async with self._running:
            try:
                found = await own_process.ask(asked.configuration, asked.records, self._directory)
            except own_process.ReplayFailed as failed:
                log.warning("replay_failed", detail=str(failed))
                raise RequestRefused(409, "replay_failed", f"The replay gave no answer: {failed}") from failed
        return json(_told(found))

    def _has_records(self) -> bool:
        return self._directory is not None and next(self._directory.glob(f"*{SUFFIX}"), None) is not None


def _check(records: str) -> None:
    """Refuse what is no recorded file before a process is started for it. Raises `RequestRefused`."""
    first = records.lstrip().partition("\n")[0]
    try:
        decode(first.encode("utf-8", "surrogatepass"))
    except Unreadable as error:
        raise invalid(FieldError("records", f"The first line {error}")) from error


def _told(found: dict[str, Any]) -> Replayed:
    """Return the answer of the other process. Raises `RequestRefused`."""
    if "unreadable" in found:
        raise invalid(FieldError("records", found["unreadable"]))
    if "problems" in found:
        errors = [
            FieldError(
                each["field"] or "configuration",
                ("" if each["line"] is None else f"(line {each['line']}) ")
                + each["message"]
                + ("" if each["hint"] is None else f" → {each['hint']}"),
            )
            for each in found["problems"]
        ]
        raise RequestRefused(
            422, "configuration_invalid", "Correct it, or try it with gateway check", errors=errors
        )
    groups = [
        {**group, "requests": [{**each, "at": instant(each["at"])} for each in group["requests"]]}
        for group in found.pop("groups")
    ]
    return Replayed.model_validate({**found, "groups": groups})
