"""One operation of the admin API: its request is parsed into models before its handler runs.

An operation is declared once. The router, the validation and the OpenAPI document follow from the
declaration.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from gateway.admin.api.problems import REQUEST_ID, FieldError, RequestRefused, invalid
from gateway.admin.sign_in.sessions import PERSON
from gateway.core.text import json_text
from gateway.stores.postgres.directory.audit import Author

MAX_BODY: Final = 64 * 1024
BODY_SECONDS: Final = 10.0
_SLOWEST: Final = 128 * 1024
"""Bytes in a second of the slowest line on which a large body must arrive."""

P = TypeVar("P", bound=BaseModel)
B = TypeVar("B", bound=BaseModel)

Run: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
IfMatch: TypeAlias = Literal["required", "optional"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of a successful operation."""

    status: int = 200
    model: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name → meaning."""
    streams: type[BaseModel] | None = None
    """The data of each event, for clients that accept `text/event-stream`."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A method at a path, with its models and its responses."""

    method: str
    path: str
    name: str
    summary: str
    answer: Answer
    params: type[BaseModel]
    """The parameters in the path and in the query."""
    body: type[BaseModel] | None
    run: Run
    refusals: tuple[int, ...] = ()
    """Its error statuses, in addition to those of all operations."""
    if_match: IfMatch | None = None
    changes: bool = True
    """Whether it needs the role of an operator; a viewer may do all else."""


def reads(
    method: str,
    path: str,
    handler: Callable[[web.Request, P], Awaitable[web.StreamResponse]],
    params: type[P],
    summary: str,
    answer: Answer,
    *,
    refusals: tuple[int, ...] = (),
    if_match: IfMatch | None = None,
) -> Operation:
    """Declare an operation without a body."""

    async def run(request: web.Request) -> web.StreamResponse:
        return await handler(request, _params(request, params))

    name, changes = _name(handler), method != "GET"
    return Operation(method, path, name, summary, answer, params, None, run, refusals, if_match, changes)


def takes(
    method: str,
    path: str,
    handler: Callable[[web.Request, P, B], Awaitable[web.StreamResponse]],
    params: type[P],
    body: type[B],
    summary: str,
    answer: Answer,
    *,
    refusals: tuple[int, ...] = (),
    if_match: IfMatch | None = None,
    changes: bool = True,
    max_body: int = MAX_BODY,
) -> Operation:
    """Declare an operation with a JSON body. Not `changes`: it is for viewers, too."""

    async def run(request: web.Request) -> web.StreamResponse:
        return await handler(request, _params(request, params), await _body(request, body, max_body))

    return Operation(
        method,
        path,
        _name(handler),
        summary,
        answer,
        params,
        body,
        run,
        (400, 408, 413, 415, *refusals),
        if_match,
        changes,
    )


def json(model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with a model."""
    body = model.model_dump_json().encode()
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def author_of(request: web.Request, reason: str | None = None) -> Author:
    """Return the author for the audit log: who has signed in; of callers with the token, the address."""
    person = request.get(PERSON)
    actor = f"api@{request.remote or 'unix'}" if person is None else person.actor
    return Author(actor, request[REQUEST_ID], reason)


def _name(handler: Callable[..., Any]) -> str:  # Any: only the name of a handler is used
    return handler.__name__


def _params(request: web.Request, model: type[P]) -> P:
    in_path = dict(request.match_info)
    known = model.model_fields.keys() - in_path.keys()
    errors = []
    for name in dict.fromkeys(request.query):
        if name not in known:
            errors.append(FieldError(name, "This parameter does not exist"))
        elif len(request.query.getall(name)) > 1:
            errors.append(FieldError(name, "Give this parameter only once"))
    if errors:
        raise invalid(*errors)
    try:
        return model.model_validate_strings({**request.query, **in_path})
    except ValidationError as error:
        raise invalid(*_errors(error)) from error


async def _body(request: web.Request, model: type[B], max_body: int) -> B:
    if request.content_type != "application/json":
        raise RequestRefused(415, "unsupported_media_type", "The body must be application/json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RequestRefused(415, "unsupported_media_type", "The body must not be compressed")
    data, seconds = bytearray(), max(BODY_SECONDS, max_body / _SLOWEST)
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.content.iter_any():
                data += piece
                if len(data) > max_body:
                    raise RequestRefused(413, "body_too_large", f"A body may have up to {max_body} bytes")
    except TimeoutError as error:
        raise RequestRefused(408, "request_timeout", f"The body must arrive within {seconds:g} s") from error
    except (HttpProcessingError, web.RequestPayloadError, ConnectionError) as error:
        raise RequestRefused(
            400, "request_malformed", "The body ended early, or its framing is wrong"
        ) from error
    try:
        json_text.check_depth(bytes(data))
        return model.model_validate_json(data)
    except json_text.TooDeep as error:
        raise RequestRefused(400, "request_malformed", f"The body is not valid JSON: {error}") from error
    except ValidationError as error:
        errors = _errors(error)
        if error.errors(include_input=False)[0]["type"] == "json_invalid":
            raise RequestRefused(400, "request_malformed", errors[0].message) from error
        raise invalid(*errors) from error


def _errors(error: ValidationError) -> list[FieldError]:
    """Return the errors by field, without the values: a value may be a token."""
    return [
        FieldError(_path(each["loc"]), re.sub("^Value error, ", "", each["msg"]))
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _path(steps: tuple[int | str, ...]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path.removeprefix(".")
