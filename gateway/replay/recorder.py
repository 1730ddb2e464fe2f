"""Records a share of all requests, off their way: a request only puts what is there into a queue.

Once a second a thread writes the queue to a file that only this user can read. A queue or a disk that is full
costs records, and no request.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from pathlib import Path
from random import random
from typing import Final, Protocol

import structlog

from gateway.core.admission import Admission
from gateway.core.model import Claims, Request, Resolution, Route
from gateway.core.reasons import Denial
from gateway.replay.records import Sample, encode

_INTERVAL: Final = 1.0
"""Seconds between two writes."""
_QUEUE: Final = 10_000
"""Samples that wait to be written."""
_FILES: Final = 8
"""Files in which the records of `keep`, or of `max_size`, are: the oldest goes as a whole."""
SUFFIX: Final = ".requests.jsonl"

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RecordFiles:
    """The files of one process in a directory, which processes share."""

    def __init__(
        self,
        directory: Path,
        *,
        keep: float,
        max_size: int,
        subjects: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`keep` is in seconds, `max_size` in bytes: of all files together."""
        self._directory = directory
        self._keep = keep
        self._max_size = max_size
        self._subjects = subjects
        self._clock = clock
        self._file: int | None = None
        self._opened = 0.0
        self._written = 0
        self._number = 0

    def write(self, samples: list[Sample]) -> None:
        """Append records. Raises OSError."""
        lines = [line for sample in samples if (line := encode(sample, self._subjects)) is not None]
        if not lines:
            return
        data = b"".join(lines)
        now = self._clock()
        limit = self._max_size // _FILES
        if (
            self._file is None
            or now - self._opened > self._keep / _FILES
            or self._written + len(data) > limit
        ):
            self._begin(now)
        if self._file is not None:
            self._written += os.write(self._file, data)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin(self, now: float) -> None:
        """Begin a file, and remove those that are too old or too many."""
        self.close()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._number += 1
        path = self._directory / f"{int(now)}-{os.getpid()}-{self._number}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.open(path, flags, 0o600)
        self._opened, self._written = now, 0
        self._remove(now, path)

    def _remove(self, now: float, newest: Path) -> None:
        files = sorted(self._directory.glob(f"*{SUFFIX}"), key=lambda file: file.name, reverse=True)
        total = self._max_size // _FILES
        for file in files:
            if file == newest:
                continue
            with suppress(OSError):
                status = file.stat()
                total += status.st_size
                if total > self._max_size or status.st_mtime < now - self._keep:
                    file.unlink()


class Recorder:
    """The queue of samples, and the task that writes it."""

    def __init__(self, files: RecordFiles, sample: float, clock: Callable[[], float] = time.time) -> None:
        """`sample` is the share of requests, from 0 to 1."""
        self.share = sample
        self._files = files
        self._clock = clock
        self._queue: deque[Sample] = deque(maxlen=_QUEUE)
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()
        self._files.close()

    def put(
        self, request: Request, admission: Admission | None, denial: Denial | None, *, forwards: bool
    ) -> None:
        self._queue.append(Sample(request, self._clock(), admission, denial, forwards))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            await self._flush()

    async def _flush(self) -> None:
        samples = [*self._queue]
        self._queue.clear()
        if not samples:
            return
        try:
            await asyncio.to_thread(self._files.write, samples)
        except OSError as error:
            if not self._failing:
                log.warning("records_not_written", detail=str(error))
            self._failing = True
        else:
            self._failing = False


class Admitter(Protocol):
    """Decides on requests: `gateway.memo.Memo`, or what stands around it."""

    @property
    def remembered(self) -> Container[bytes]: ...

    @property
    def heads(self) -> Container[object]: ...

    async def reauthorize(self, request: Request, route: Route, claims: Claims) -> Resolution: ...

    async def admit(self, request: Request) -> Admission: ...


class RecordingAdmitter:
    """An admitter of whose decisions a share is recorded."""

    def __init__(self, admitter: Admitter, recorder: Recorder, *, forwards: bool) -> None:
        self._admitter = admitter
        self._admit = admitter.admit
        self._recorder = recorder
        self._share = recorder.share
        self._forwards = forwards
        self.remembered = admitter.remembered
        self.heads = admitter.heads

    async def reauthorize(self, request: Request, route: Route, claims: Claims) -> Resolution:
        """Authorize an open exchange again. Raises `Denial`."""
        return await self._admitter.reauthorize(request, route, claims)

    async def admit(self, request: Request) -> Admission:
        """Return the admission. Raises `Denial`."""
        if random() >= self._share:  # noqa: S311 -- a sample, not a secret
            return await self._admit(request)
        try:
            admission = await self._admit(request)
        except Denial as denial:
            self._recorder.put(request, None, denial, forwards=self._forwards)
            raise
        if admission.forwarding.preflight is None:
            self._recorder.put(request, admission, None, forwards=self._forwards)
        return admission
