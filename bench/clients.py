"""Clients that distinguish a failed request from a refused connection. wrk does not."""

from http.client import HTTPConnection, HTTPException
from threading import Event, Thread
from types import TracebackType
from typing import Final, Self

from bench.processes import HOST

_PATIENCE: Final = 10.0


class Clients:
    """Connections that each send one request after the other, until they are refused.

    They reconnect after `Connection: close`. They run from `__enter__` to `finish`.
    """

    def __init__(self, port: int, tokens: tuple[str, ...], connections: int) -> None:
        self._port = port
        self._enough = Event()
        self._answers: list[int] = []
        self._failures: list[str] = []
        self._threads = [
            Thread(target=self._run, args=(token,), daemon=True) for token in tokens[:connections]
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(_PATIENCE)

    @property
    def answered(self) -> int:
        return len(self._answers)

    def finish(self) -> list[str]:
        """Wait until all are refused; return the text of each failed request."""
        for thread in self._threads:
            thread.join(_PATIENCE)
        return list(self._failures)

    def _run(self, token: str) -> None:
        connection = HTTPConnection(HOST, self._port, timeout=_PATIENCE)
        headers = {"Authorization": f"Bearer {token}"}
        while not self._enough.is_set():
            try:
                if connection.sock is None:
                    try:
                        connection.connect()
                    except ConnectionRefusedError:
                        return
                connection.request("GET", "/", headers=headers)
                response = connection.getresponse()
                response.read()
            except (OSError, HTTPException) as error:
                self._failures.append(type(error).__name__)
                connection.close()
                continue
            if response.status == 200:
                self._answers.append(response.status)
            else:
                self._failures.append(f"status {response.status}")
        connection.close()
