"""An upstream for large bodies: `GET /N` answers with N bytes, `PUT` with the number of bytes it was sent."""

import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from bench.processes import HOST

_PIECE: Final = memoryview(bytearray(1 << 20))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        remaining = int(self.path.removeprefix("/"))
        self._start(remaining)
        while remaining:
            piece = _PIECE[: min(remaining, len(_PIECE))]
            self.wfile.write(piece)
            remaining -= len(piece)

    def do_PUT(self) -> None:
        expected = int(self.headers["Content-Length"])
        buffer = memoryview(bytearray(len(_PIECE)))
        remaining = expected
        while remaining and (number := self.rfile.readinto1(buffer[: min(remaining, len(buffer))])):
            remaining -= number
        answer = str(expected - remaining).encode()
        self._start(len(answer))
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- the signature of http.server
        """Log nothing: a line per request would cost time."""

    def _start(self, length: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(length))
        self.end_headers()


if __name__ == "__main__":
    with ThreadingHTTPServer((HOST, int(sys.argv[1])), _Handler) as server:
        server.serve_forever()
