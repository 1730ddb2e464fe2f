"""The OpenAPI 3.1 document of the admin API, generated from the operations and their models."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, JsonSchemaValue, models_json_schema

from gateway import __version__
from gateway.admin.api import models
from gateway.admin.api.operations import Operation
from gateway.admin.api.problems import PROBLEM_JSON
from gateway.core.model import JSON

Object: TypeAlias = dict[str, JSON]
_Used: TypeAlias = tuple[type[BaseModel], JsonSchemaMode]
_Refs: TypeAlias = Mapping[
    tuple[Any, JsonSchemaMode], JsonSchemaValue
]  # Any: pydantic allows more than models

_ALWAYS: Final = (401, 403, 422, 429, 503)
_REFUSALS: Final = {
    400: "The body cannot be read",
    401: "The token is missing or wrong",
    403: "A session of the console: the role does not suffice, or another site has sent the request",
    404: "Not found",
    408: "The body did not arrive in time",
    409: "The state of the user or of the identity, or `users.source`, does not allow this",
    412: "The user has changed since it was read",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "A parameter or a field is not valid",
    428: "If-Match is missing",
    429: "Too many attempts with a wrong token, or too many streams",
    503: "A store or an issuer does not answer, or the gateway has a bug",
}


def document(operations: Sequence[Operation]) -> Object:
    """Return the document of the operations. Paths are relative to the server `/v1`."""
    used: dict[_Used, None] = {(models.Problem, "serialization"): None}
    for operation in operations:
        used.update(dict.fromkeys(_models(operation)))
    refs, schema = models_json_schema([*used], ref_template="#/components/schemas/{model}")
    paths: dict[str, JSON] = {}
    for operation in operations:
        item = paths.setdefault(operation.path, {})
        if isinstance(item, dict):
            item[operation.method.lower()] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gateway admin API",
            "version": __version__,
            "description": "Users, revocations, issuers, caches, denials and the diagnosis of tokens. "
            "Times are RFC 3339 in UTC. Errors are application/problem+json.",
        },
        "servers": [{"url": "/v1"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schema["$defs"],
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`admin.token` of the configuration",
                }
            },
        },
    }


def _models(operation: Operation) -> Iterable[_Used]:
    if operation.body is not None:
        yield operation.body, "validation"
    for model in (operation.answer.model, operation.answer.streams):
        if model is not None:
            yield model, "serialization"


def _operation(operation: Operation, refs: _Refs) -> Object:
    described: Object = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.path.split("/")[1]],
        "responses": {
            str(operation.answer.status): _answer(operation, refs),
            **{str(status): _refusal(status, refs) for status in sorted({*_ALWAYS, *operation.refusals})},
        },
    }
    if parameters := [*_parameters(operation)]:
        described["parameters"] = parameters
    if operation.body is not None:
        schema: JSON = refs[operation.body, "validation"]
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _parameters(operation: Operation) -> Iterable[JSON]:
    in_path = re.findall(r"\{(\w+)\}", operation.path)
    schema = operation.params.model_json_schema()
    required = schema.get("required", [])
    for name, described in schema.get("properties", {}).items():
        where = "path" if name in in_path else "query"
        yield _parameter(name, where, described, required=name in required)
    if operation.if_match is not None:
        yield {
            "name": "If-Match",
            "in": "header",
            "required": operation.if_match == "required",
            "description": "The ETag of the user as it was read.",
            "schema": {"type": "string"},
        }


def _parameter(name: str, where: str, described: Object, *, required: bool) -> Object:
    schema = {
        key: value for key, value in described.items() if key not in {"title", "description", "default"}
    }
    # An omitted parameter is not null.
    if isinstance(choices := schema.get("anyOf"), list):
        (schema,) = [each for each in choices if isinstance(each, dict) and each.get("type") != "null"]
    if described.get("default") is not None:
        schema["default"] = described["default"]
    parameter: Object = {"name": name, "in": where, "required": required, "schema": schema}
    if "description" in described:
        parameter["description"] = described["description"]
    return parameter


def _answer(operation: Operation, refs: _Refs) -> Object:
    answer = operation.answer
    described: Object = {"description": "Done" if answer.model is None else answer.model.__name__}
    content: Object = {}
    if answer.model is not None:
        content["application/json"] = {"schema": refs[answer.model, "serialization"]}
    if answer.streams is not None:
        # OpenAPI 3.1 cannot describe the data of events.
        description = f"Server-sent events. The data of each is a {answer.streams.__name__}."
        content["text/event-stream"] = {"schema": {"type": "string", "description": description}}
    if content:
        described["content"] = content
    if answer.headers:
        described["headers"] = {
            name: {"description": meaning, "required": True, "schema": {"type": "string"}}
            for name, meaning in answer.headers.items()
        }
    return described


def _refusal(status: int, refs: _Refs) -> Object:
    described: Object = {
        "description": _REFUSALS[status],
        "content": {PROBLEM_JSON: {"schema": refs[models.Problem, "serialization"]}},
    }
    if status == 401:
        described["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return described
