"""Records a share of all requests, off their way: a request only puts what is there into a queue.

Once a second a thread writes the queue to a file that only this user can read. A queue or a disk that is full
costs records, and no request.
"""

import asyncio
import errno
import math
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
_TIDY: Final = 60.0
"""The longest time between two looks for files that are too old."""
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
        processes: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`keep` is in seconds, `max_size` in bytes: of all files of all `processes` together."""
        self._directory = directory
        self._keep = keep
        self._max_size = max_size
        self._largest = max_size // (_FILES * processes)
        """Bytes of a file."""
        self._subjects = subjects
        self._clock = clock
        self._file: int | None = None
        self._opened = 0.0
        self._written = 0
        self._number = 0
        self._tidied = -math.inf

    def write(self, samples: list[Sample]) -> None:
        """Append records. Raises OSError."""
        piece = bytearray()
        for sample in samples:
            line = encode(sample, self._subjects)
            if line is None:
                continue
            if piece and len(piece) + len(line) > self._largest:
                self._append(piece)
                piece = bytearray()
            piece += line
        if piece:
            self._append(piece)

    def tidy(self) -> None:
        """Remove what is too old, also while nothing is recorded. Raises OSError."""
        now = self._clock()
        if now - self._tidied < min(self._keep / _FILES, _TIDY):
            return
        self._tidied = now
        if self._file is not None and now - self._opened > self._keep / _FILES:
            self.close()
        self._remove(now)

    def _append(self, data: bytearray) -> None:
        now = self._clock()
        if (
            self._file is None
            or now - self._opened > self._keep / _FILES
            or self._written + len(data) > self._largest
            or not os.fstat(self._file).st_nlink  # another process has removed it
        ):
            self._begin(now)
        if self._file is None:
            return
        written = os.write(self._file, data)
        if written < len(data):
            # What follows half a line would be no record either.
            written = data.rfind(b"\n", 0, written) + 1
            os.ftruncate(self._file, self._written + written)
            self._written += written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._written += written

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin(self, now: float) -> None:
        """Begin a file, and remove those that are too old or too many."""
        self.close()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        while self._file is None:
            self._number += 1
            path = self._directory / f"{int(now)}-{os.getpid()}-{self._number}{SUFFIX}"
            # Another container may have a process of that number.
            with suppress(FileExistsError):
                self._file = os.open(path, flags, 0o600)
        self._opened, self._written = now, 0
        self._remove(now, path)

    def _remove(self, now: float, newest: Path | None = None) -> None:
        files = sorted(self._directory.glob(f"*{SUFFIX}"), key=lambda file: file.name, reverse=True)
        # The files that are open may become so much larger.
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
            try:
                await self._flush()
            except Exception:  # a bug must not end what is recorded
                log.exception("records_failed")

    async def _flush(self) -> None:
        samples = [*self._queue]
        self._queue.clear()
        try:
            if samples:
                await asyncio.to_thread(self._files.write, samples)
            await asyncio.to_thread(self._files.tidy)
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
