r"""The access log: one line for each finished request, in a form that other programs read.

| form | is |
|---|---|
| `json` | an event `request` of the gateway's own log |
| `ecs` | JSON with the names of the Elastic Common Schema |
| `common` | NCSA Common Log Format, as Apache httpd writes it, and then `name=value` |
| `combined` | the same with Referer and User-Agent |

A path is written without its query, and so is a Referer, because a query may have a token. Neither has the
password that may stand before a host. In the last two forms, all that a client chooses is escaped as nginx
does it: a quotation mark, a backslash and everything but printable ASCII is `\xHH`. So no request can
begin a line or a field.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, TypeAlias

import orjson

from gateway.core.model import Request
from gateway.core.requests.trace_context import trace_id_of
from gateway.core.routes import path_of

AccessForm: TypeAlias = Literal["json", "ecs", "common", "combined"]

ECS_VERSION: Final = "8.17.0"
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_USERINFO: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/#]*@")
_UNSAFE: Final = re.compile(r'[^\x20-\x7e]|["\\]')
_UNSAFE_IN_WORD: Final = re.compile(r'[^\x21-\x7e]|["\\]')


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that is over."""

    request: Request
    route: str
    status: int
    """499: the client left before its response was complete."""
    seconds: float
    upstream: str | None = None
    user: str | None = None
    """The id of the user, in the form in which subjects are logged."""
    received: int | None = None
    """Bytes of the request's body that arrived; None if they were not counted."""
    sent: int | None = None
    """Bytes of the response's body; None if they were not counted."""

    @property
    def path(self) -> str:
        return path_of(self.request.target)

    def field(self, name: bytes) -> str | None:
        """Return the value of a request field; None if there is none."""
        for each, value in self.request.headers:
            if each.lower() == name:
                return value.decode("latin-1")
        return None


def as_event(finished: Finished) -> dict[str, object]:
    """Return the fields of an event `request`."""
    request = finished.request
    return {
        "method": request.method,
        "path": finished.path,
        "route": finished.route,
        "status": finished.status,
        "duration_ms": round(finished.seconds * 1000, 3),
        "upstream": finished.upstream,
        "user": finished.user,
        "bytes_received": finished.received,
        "bytes_sent": finished.sent,
        "client": request.client,
        "request_id": request.id,
        "trace_id": trace_id_of(request),
    }


def as_ecs(finished: Finished, at: float) -> str:
    """Return a line of JSON by the Elastic Common Schema. `at`: Unix seconds."""
    request = finished.request
    moment = datetime.fromtimestamp(at, UTC)
    body_in, body_out, agent = finished.received, finished.sent, finished.field(b"user-agent")
    address = {"address": request.client, "ip": request.client} if request.client else None
    event = {
        "@timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "log.level": "info",
        "message": f"{request.method} {finished.path} {finished.status}",
        "ecs.version": ECS_VERSION,
        "service": {"name": "gateway", "type": "gateway"},
        "event": {
            "kind": "event",
            "category": ["web"],
            "type": ["access"],
            "dataset": "gateway.access",
            "outcome": "success" if finished.status < 400 else "failure",
            "duration": round(finished.seconds * 1e9),
        },
        "http": {
            "request": {
                "id": request.id,
                "method": request.method,
                **({} if body_in is None else {"body": {"bytes": body_in}}),
            },
            "response": {
                "status_code": finished.status,
                **({} if body_out is None else {"body": {"bytes": body_out}}),
            },
        },
        "url": {"path": finished.path, "scheme": request.scheme},
        "client": address,
        "user": None if finished.user is None else {"id": finished.user},
        "user_agent": None if agent is None else {"original": agent},
        "trace": None if (trace := trace_id_of(request)) is None else {"id": trace},
        "labels": {
            "route": finished.route,
            **({} if finished.upstream is None else {"upstream": finished.upstream}),
        },
    }
    return orjson.dumps({name: value for name, value in event.items() if value is not None}).decode()


def as_common(finished: Finished, at: float) -> str:
    """Return a line in Common Log Format, and what it has no place for as `name=value` after it."""
    return f"{_standard(finished, at)}{_extension(finished)}"


def as_combined(finished: Finished, at: float) -> str:
    """Return a line in Combined Log Format, with the same additions."""
    referer = _USERINFO.sub(r"\1", (finished.field(b"referer") or "").partition("?")[0])
    quoted = f' "{_escaped(referer) or "-"}" "{_escaped(finished.field(b"user-agent") or "") or "-"}"'
    return f"{_standard(finished, at)}{quoted}{_extension(finished)}"


def _standard(finished: Finished, at: float) -> str:
    request, t = finished.request, time.gmtime(at)
    date = (
        f"{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
    )
    line = f"{_escaped(request.method)} {_escaped(finished.path) or '-'} HTTP/1.1"
    sent = "-" if finished.sent is None else finished.sent
    return f'{_word(request.client)} - {_word(finished.user)} [{date}] "{line}" {finished.status} {sent}'


def _extension(finished: Finished) -> str:
    request = finished.request
    return (
        f" route={_word(finished.route)} upstream={_word(finished.upstream)}"
        f" duration_ms={finished.seconds * 1000:.3f}"
        f" request_id={_word(request.id)} trace_id={_word(trace_id_of(request))}"
    )


def _escaped(text: str) -> str:
    return _UNSAFE.sub(_as_hex, text)


def _word(text: str | None) -> str:
    """Return a field that ends at a space; `-` if it is empty."""
    return _UNSAFE_IN_WORD.sub(_as_hex, text) if text else "-"


def _as_hex(match: re.Match[str]) -> str:
    return "".join(f"\\x{octet:02X}" for octet in match[0].encode("utf-8", "surrogatepass"))


class AccessLog:
    """Writes the lines that are not events of the gateway's own log.

    A line that cannot be written is dropped: a full disk must not stop the gateway. `clock` gives Unix
    seconds.
    """

    def __init__(
        self,
        form: Literal["ecs", "common", "combined"],
        stream: Callable[[], TextIO],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._render = {"ecs": as_ecs, "common": as_common, "combined": as_combined}[form]
        self._stream = stream
        self._clock = clock

    def write(self, finished: Finished) -> None:
        line, stream = self._render(finished, self._clock()), self._stream()
        try:
            # In one piece, because workers share the stream.
            stream.write(line + "\n")
            stream.flush()
        except OSError:
            return
