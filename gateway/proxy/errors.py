"""The gateway's own responses: Denial → problem+json (RFC 9457) with its challenge (RFC 6750)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Literal

import orjson

from gateway.core.reasons import Denial, Reason

PROBLEM_TYPE: Final = "urn:gateway:problem:"
_INVALID_TOKEN: Final = "invalid_token"  # noqa: S105 -- an error code of RFC 6750, not a token
_CONCEALED_TITLE: Final = "The token is not valid"


_PLACEHOLDER: Final = "\x7f" * 32
"""Stands for a request id of ours; no text of ours has a control character."""
_NO_DATE: Final = "\x1f" * len("Sun, 06 Nov 1994 08:49:37 GMT")
_RENDERED: Final[dict[tuple[str, str, bool, bool], tuple[int, bytes]]] = {}
"""Responses that are the same each time but for request id and date: there are a few for each reason."""
# What RFC 9110 §15.5 calls them; Python before 3.13 has older names.
_PHRASES: Final = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def date_line() -> str:
    """Return the field Date for this moment (RFC 9110 §6.6.1), with its line end."""
    return f"Date: {_date(int(time.time()))}\r\n"


def phrase(status: int) -> str:
    """Return the reason phrase of a status (RFC 9110 §15)."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


@dataclass(frozen=True, slots=True)
class Responder:
    """Renders denials as `errors.detail` says."""

    detail: Literal["generic", "full"] = "generic"
    """`generic` hides identity reasons and details from the client."""
    clock: Callable[[], float] = time.time
    """Unix seconds, for Date."""

    def render(
        self, denial: Denial, request_id: str, *, head_only: bool, keep_alive: bool
    ) -> tuple[int, bytes]:
        """Return the status and the whole response: head and, unless the request was HEAD, problem+json."""
        date = _date(int(self.clock()))
        if self._is_always_the_same(denial):
            key = denial.reason.code, head_only, keep_alive
            rendered = _RENDERED.get((self.detail, *key))
            if rendered is None:
                rendered = _RENDERED[self.detail, *key] = self._render(
                    denial, _PLACEHOLDER, _NO_DATE, head_only=head_only, keep_alive=keep_alive
                )
            if len(request_id) == len(_PLACEHOLDER):
                # In the head, and in the body, whose length stays.
                told = rendered[1].replace(_PLACEHOLDER.encode(), request_id.encode("ascii"))
                return rendered[0], told.replace(_NO_DATE.encode(), date.encode("ascii"), 1)
        return self._render(denial, request_id, date, head_only=head_only, keep_alive=keep_alive)

    def _is_always_the_same(self, denial: Denial) -> bool:
        """Tell whether all responses for the reason are the same, but for the request id."""
        told = self.detail == "full" and denial.detail is not None
        own = denial.allow or denial.fields or denial.retry_after is not None
        return not (told or own or denial.reason.challenge == "insufficient_scope")

    def _render(
        self, denial: Denial, request_id: str, date: str, *, head_only: bool, keep_alive: bool
    ) -> tuple[int, bytes]:
        reason = denial.reason
        body = orjson.dumps(self._problem(denial, request_id))
        status = self._status(reason)
        lines = [
            f"HTTP/1.1 {status} {phrase(status)}",
            f"Date: {date}",
            "Content-Type: application/problem+json",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            f"X-Request-Id: {request_id}",
        ]
        challenge = self._challenge(denial)
        if challenge is not None:
            lines.append(f"WWW-Authenticate: {challenge}")
        retry_after = reason.retry_after if denial.retry_after is None else denial.retry_after
        if retry_after is not None:
            lines.append(f"Retry-After: {retry_after}")
        lines += [f"{name}: {value}" for name, value in denial.fields]
        if denial.allow:
            lines.append(f"Allow: {', '.join(sorted(denial.allow))}")
        if not keep_alive:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return status, head if head_only else head + body

    def code(self, denial: Denial) -> str:
        """Return the code of a denial's reason as the client may see it."""
        return _INVALID_TOKEN if self._hides(denial.reason) else denial.reason.code

    def _hides(self, reason: Reason) -> bool:
        return reason.concealed and self.detail == "generic"

    def _status(self, reason: Reason) -> int:
        # All concealed reasons look the same: a 403 among 401s would reveal that the user exists.
        return 401 if self._hides(reason) else reason.status

    def _problem(self, denial: Denial, request_id: str) -> dict[str, str | int]:
        reason = denial.reason
        hidden = self._hides(reason)
        code = self.code(denial)
        title = _CONCEALED_TITLE if hidden else reason.title
        full = self.detail == "full"
        return {
            "type": f"{PROBLEM_TYPE}{code}",
            "title": title,
            "status": self._status(reason),
            "code": code,
            "detail": (denial.detail or reason.hint) if full else title,
            "request_id": request_id,
        }

    def _challenge(self, denial: Denial) -> str | None:
        """Return the value of WWW-Authenticate (RFC 6750 §3); None for reasons without one."""
        reason = denial.reason
        if reason.challenge is None:
            return None
        if not reason.challenge:
            return 'Bearer realm="gateway"'
        title = _CONCEALED_TITLE if self._hides(reason) else reason.title
        parts = ['Bearer realm="gateway"', f'error="{reason.challenge}"', f'error_description="{title}"']
        if reason.challenge == "insufficient_scope" and denial.route is not None:
            parts.append(f'scope="{" ".join(sorted(denial.route.require.scopes))}"')
        return ", ".join(parts)
