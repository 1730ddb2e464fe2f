"""The OpenAPI document is valid, and the API conforms to it for all requests."""

import asyncio
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final, TypeAlias

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from tests.admin.client import TOKEN, Api
from tests.docs.pages import DOCS
from tests.harness import token

Case: TypeAlias = schemathesis.Case[Any]
Operation: TypeAlias = schemathesis.APIOperation[Any, Any, Any, Any]

session = pytest.mark.asyncio(loop_scope="session")

EXAMPLES: Final = 20
"""For each operation: of what fits its description, of what is there, and of what does not fit."""
CHECKS: Final = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
    checks.allow_header_conformance,
]


async def described(api: Api) -> schemathesis.BaseSchema:
    rejections = ["400", "401", "404", "408", "409", "412", "413", "415", "422", "428", "429"]
    config = schemathesis.Config.from_dict(
        {"checks": {"negative_data_rejection": {"expected-statuses": rejections}}}
    )
    document = (await api.call("GET", "/openapi.json", token=None)).json
    return schemathesis.openapi.from_dict(document, config=config)


@session
async def test_the_description_is_valid_openapi_3_1(api: Api) -> None:
    schema = await described(api)
    schema.validate()
    assert schema.raw_schema["openapi"].startswith("3.1")
    broken = {**schema.raw_schema, "paths": {"/users": {"get": {"responses": []}}}}
    with pytest.raises(Exception, match="is not of type"):
        schemathesis.openapi.from_dict(broken).validate()


@session
async def test_the_page_has_every_operation_and_parameter(api: Api) -> None:
    """The table of docs/admin-api.md. `after` and `limit` of lists are described once, below it."""
    text = (DOCS / "admin-api.md").read_text(encoding="utf-8")
    written: dict[str, set[str]] = {}
    for row in re.findall(r"^\| (`(?:GET|POST|PATCH|DELETE) /[^|]*) \|", text, re.MULTILINE):
        for operation, query in re.findall(r"`([A-Z]+ /[^`]*)`(?: `\?([^`]*)`)?", row):
            written[operation] = set(re.findall(r"(\w+)=", query))
    paths = (await api.get("/openapi.json")).json["paths"]
    described = {
        f"{method.upper()} {path}": {
            each["name"]
            for each in operation.get("parameters", ())
            if each["in"] == "query" and (each["name"] not in {"after", "limit"} or path == "/limits")
        }
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert written == described


@session
async def test_every_operation_is_described(api: Api) -> None:
    paths = (await api.get("/openapi.json")).json["paths"]
    assert {f"{method.upper()} {path}" for path, item in paths.items() for method in item} == {
        "GET /users",
        "POST /users",
        "GET /users/{id}",
        "PATCH /users/{id}",
        "DELETE /users/{id}",
        "POST /users/{id}/restore",
        "POST /users/{id}/identities",
        "DELETE /users/{id}/identities",
        "GET /revocations",
        "POST /revocations",
        "DELETE /revocations",
        "POST /revocations/token",
        "GET /issuers",
        "POST /issuers/{name}/refresh",
        "GET /caches",
        "POST /cache/flush",
        "GET /limits",
        "GET /limits/state",
        "POST /limits/reset",
        "POST /replay",
        "GET /denials",
        "GET /denials/explanation",
        "POST /explain",
        "POST /explain/apply",
        "GET /overview",
        "GET /audit",
        "GET /history",
        "GET /configuration",
    }


def operations(schema: schemathesis.BaseSchema) -> Iterator[Operation]:
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        yield found.ok()


def attack(schema: schemathesis.BaseSchema, base_url: str, user_id: str) -> int:
    """Send what Schemathesis thinks of, some of it about what is there; returns how much."""
    sent = 0
    with requests.Session() as connection:

        def send(case: Case) -> None:
            nonlocal sent
            sent += 1
            case.call_and_validate(
                base_url=base_url,
                session=connection,
                headers={"Authorization": f"Bearer {TOKEN}"},
                checks=CHECKS,
            )

        for operation in operations(schema):
            known = operation.as_strategy(
                path_parameters={"id": user_id} if "{id}" in operation.path else {"name": "main"}
            ).map(partial(about, user_id))
            wrong = operation.as_strategy(schemathesis.GenerationMode.NEGATIVE)
            run = given(case=st.one_of(operation.as_strategy(), known, wrong))(send)
            settings(
                max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(HealthCheck),
            )(run)()  # fmt: skip
    return sent


def about(user_id: str, case: Case) -> Case:
    """Let a request be about what is there: a configured issuer, a user and the state that it has."""
    for named in (case.body, case.query):
        if isinstance(named, dict):
            if named.get("issuer"):
                named["issuer"] = "second"
            if "token" in named:
                named["token"] = token().decode()
            if "kind" in named:
                kind = named["kind"]
                named.pop("until", None)
                shape = {"issuer": None, "value": user_id} if kind == "user" else {"issuer": "second"}
                named |= shape if kind != "issuer" else {**shape, "value": None}
                for name in [name for name, value in named.items() if value is None]:
                    del named[name]
    if case.headers and "If-Match" in case.headers:
        case.headers["If-Match"] = "*"
    return case


# The gateway takes random numbers in its own thread while Schemathesis draws.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@session
async def test_the_api_conforms_to_its_description_for_all_requests(api: Api) -> None:
    schema = await described(api)
    user_id = (await api.new_user("schemathesis")).json["id"]
    sent = await asyncio.to_thread(attack, schema, f"{api.house.admin_url}/v1", user_id)
    assert sent > 10 * EXAMPLES  # some operations have less to vary
    assert not api.house.events("internal_error")
