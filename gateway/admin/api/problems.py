"""Refusals of the admin port, in the gateway's common form (RFC 9457)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from aiohttp import web

from gateway.core.model import JSON

REQUEST_ID: Final = web.RequestKey("request_id", str)
"""The id that each response has."""
PROBLEM_JSON: Final = "application/problem+json"

_TITLES: Final = {
    "not_found": "Not found",
    "method_not_allowed": "This method is not served here",
    "request_malformed": "The request is malformed",
    "request_timeout": "The request did not arrive in time",
    "body_too_large": "The request's body is too large",
    "unsupported_media_type": "The request's body is of another type",
    "validation_failed": "The request is not valid",
    "credentials_missing": "The admin API needs a bearer token",
    "invalid_token": "The token is not valid",
    "too_many_attempts": "There were too many attempts with a wrong token",
    "session_missing": "The request has no session, or the session has ended",
    "cross_site_request": "The request comes from another site",
    "role_insufficient": "This needs the role of an operator",
    "too_many_streams": "There are too many streams",
    "precondition_required": "The request must name the state that it changes",
    "precondition_failed": "The state has changed",
    "identity_taken": "The identity already leads to a user",
    "user_deleted": "The user is deleted",
    "user_not_deleted": "The user is not deleted",
    "users_source_read_only": "The users are in tables that are not written to",
    "not_writable": "This cannot be changed in the tables of users",
    "fix_changed": "The fix is another one now",
    "nothing_recorded": "There are no recorded requests",
    "configuration_invalid": "The configuration has mistakes",
    "replay_running": "Another replay is running",
    "replay_failed": "The replay has failed",
    "keys_not_loaded": "The keys of the issuer could not be loaded",
    "store_unavailable": "A store is not available at the moment",
    "internal_error": "The gateway failed to handle this request",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """An error in one field."""

    field: str
    """A parameter, or a path into the body such as `roles[0]`; empty: the whole body."""
    message: str


class RequestRefused(Exception):
    """A request that is answered with a problem."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def not_found(detail: str) -> RequestRefused:
    return RequestRefused(404, "not_found", detail)


def invalid(*errors: FieldError) -> RequestRefused:
    """Refuse a request with errors that the caller can correct, field by field."""
    detail = "; ".join(
        f"{error.field}: {error.message}" if error.field else error.message for error in errors
    )
    return RequestRefused(422, "validation_failed", detail, errors=errors)


def response(refused: RequestRefused, request_id: str) -> web.Response:
    """Return a refusal as a response."""
    problem: dict[str, JSON] = {
        "type": f"urn:gateway:problem:{refused.code}",
        "title": _TITLES[refused.code],
        "status": refused.status,
        "code": refused.code,
        "detail": refused.detail,
        "request_id": request_id,
    }
    if refused.errors:
        problem["errors"] = [{"field": each.field, "message": each.message} for each in refused.errors]
    return web.Response(
        body=orjson.dumps(problem), status=refused.status, content_type=PROBLEM_JSON, headers=refused.headers
    )
