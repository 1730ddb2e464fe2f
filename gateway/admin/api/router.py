"""The admin API below `/v1`: one entry for requests, and one exit for errors.

Each request needs the token or a session of the console, except the one for the OpenAPI document. Each
refusal is a problem. A bug is a 503 with the request's id, and the log has the traceback with the same id.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn, TypeAlias

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from gateway.admin.api import openapi, problems
from gateway.admin.api.authentication import Throttle
from gateway.admin.api.operations import Operation
from gateway.admin.api.problems import REQUEST_ID, RequestRefused
from gateway.admin.sign_in.sessions import HEADER, PERSON, Role, Sessions
from gateway.core.model import StoreUnavailable, UserStatus
from gateway.stores.postgres.directory.user_rows import (
    IdentityMissing,
    IdentityTaken,
    NotWritable,
    SourceReadOnly,
    StatusRefused,
    UserChanged,
    UserIdMalformed,
    UserNotFound,
)

PREFIX: Final = "/v1"
_DESCRIPTION: Final = "/openapi.json"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_RETRY_SECONDS: Final = 5

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def api(
    operations: Sequence[Operation], token: str | None, sessions: Sessions | None = None
) -> web.Application:
    """Return the application below `/v1`, for callers with the token, and for people who have signed in.

    Without both, it answers how to turn the API on.
    """
    application = web.Application()
    if token is None and sessions is None:
        application.middlewares.append(_off)
        return application
    # Without a configured token, none is right.
    application.middlewares.append(_guarded(Throttle(token or secrets.token_urlsafe(32)), sessions))
    description = orjson.dumps(openapi.document(operations))

    async def describe(_: web.Request) -> web.Response:
        return web.Response(body=description, content_type="application/json")

    application.router.add_get(_DESCRIPTION, describe)
    for operation in operations:
        run = _for_operators(operation.run) if operation.changes else operation.run
        application.router.add_route(operation.method, operation.path, run)
        if operation.method == "GET":
            application.router.add_route("HEAD", operation.path, operation.run)
    return application


@web.middleware
async def _off(request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG001 -- the signature of middlewares
    refused = problems.not_found(
        "The admin API is off: set admin.token in the configuration, or GATEWAY_ADMIN__TOKEN, to at least "
        "16 characters"
    )
    return _out(problems.response(refused, request[REQUEST_ID]))


def _for_operators(run: Handler) -> Handler:
    async def run_for_operators(request: web.Request) -> web.StreamResponse:
        person = request.get(PERSON)
        if person is not None and person.role is not Role.OPERATOR:
            raise RequestRefused(403, "role_insufficient", f"You have signed in as a {person.role.value}")
        return await run(request)

    return run_for_operators


def _guarded(throttle: Throttle, sessions: Sessions | None) -> Middleware:
    async def admit(request: web.Request) -> None:
        credentials = request.headers.getall("Authorization", [])
        # The console says that it has no token: then only a session can admit it.
        if sessions is None or credentials or HEADER not in request.headers:
            await throttle.admit(request.remote or "", credentials)
            return
        sessions.check_origin(request)
        request[PERSON] = sessions.person(request) or _not_signed_in()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path != f"{PREFIX}{_DESCRIPTION}":
                await admit(request)
            return _out(await handler(request))
        except Exception as error:  # noqa: BLE001 -- the only exit: a client never gets a traceback
            return _out(_refusal(request, error))

    return guard


def _not_signed_in() -> NoReturn:
    challenge = {"WWW-Authenticate": 'Bearer realm="gateway admin"'}
    raise RequestRefused(401, "session_missing", "Sign in at /console", headers=challenge)


def _out(response: web.StreamResponse) -> web.StreamResponse:
    if not response.prepared:
        response.headers.update(_HEADERS)
    return response


def _refusal(request: web.Request, error: Exception) -> web.Response:
    if request.method == "OPTIONS" and isinstance(error, web.HTTPMethodNotAllowed):
        return web.Response(
            status=204, headers={"Allow": ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))}
        )
    return problems.response(_told(request, error), request[REQUEST_ID])


def _told(request: web.Request, error: Exception) -> RequestRefused:
    """Translate an error to a refusal, and log bugs."""
    of_users = _of_users(error)
    if of_users is not None:
        return of_users
    match error:
        case RequestRefused():
            return error
        case StoreUnavailable():
            return RequestRefused(503, "store_unavailable", str(error), headers=_retry())
        case web.HTTPNotFound():
            return problems.not_found(f"{PREFIX}{_DESCRIPTION} lists the operations")
        case web.HTTPMethodNotAllowed():
            methods = ", ".join(sorted(error.allowed_methods))
            return RequestRefused(
                405, "method_not_allowed", f"The methods of this path: {methods}", headers={"Allow": methods}
            )
        case web.HTTPException():
            return RequestRefused(400, "request_malformed", error.reason)
        case _:
            log.error("internal_error", request_id=request[REQUEST_ID], exc_info=error)
            return RequestRefused(
                503, "internal_error", "The log has a traceback with this request id", headers=_retry()
            )


def _of_users(error: Exception) -> RequestRefused | None:
    """Translate an error about a user; None if it is another error."""
    match error:
        case UserNotFound() | IdentityMissing():
            return problems.not_found(_sentence(error))
        case IdentityTaken():
            return RequestRefused(409, "identity_taken", _sentence(error))
        case StatusRefused(status=UserStatus.DELETED):
            return RequestRefused(409, "user_deleted", "A deleted user can only be restored")
        case StatusRefused():
            return RequestRefused(409, "user_not_deleted", "Only a deleted user can be restored")
        case SourceReadOnly():
            return RequestRefused(409, "users_source_read_only", _sentence(error))
        case NotWritable():
            return RequestRefused(409, "not_writable", _sentence(error))
        case UserIdMalformed():
            return problems.invalid(problems.FieldError("id", _sentence(error)))
        case UserChanged():
            return RequestRefused(412, "precondition_failed", _sentence(error))
    return None


def _retry() -> dict[str, str]:
    return {"Retry-After": str(_RETRY_SECONDS)}


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
