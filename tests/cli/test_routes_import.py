"""`gateway routes import`: what an OpenAPI description becomes, and how it differs from a configuration."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.cli.routes.openapi import NotOpenApi, Security, read, routes
from gateway.settings import load

PETS: Final = """\
openapi: 3.1.0
info: {title: Pets, version: "1"}
servers:
  - url: https://{region}.example.com/{version}/
    variables: {region: {default: eu}, version: {default: v1}}
security: [{oauth: ["pets:read"]}]
paths:
  /pets/{id}:
    get: {}
    delete: {security: [{oauth: ["pets:write", "pets:read"]}]}
  /pets/mine:
    get: {security: [{oauth: ["pets:read"]}, {bearer: []}]}
  /pets:
    get: {security: []}
    post: {security: [{oauth: ["pets:write"]}, {oauth: ["pets:admin"]}, {oauth: ["pets:admin", "pets:x"]}]}
    x-note: ignored
  /health:
    servers: [{url: /}]
    get: {security: [{}, {oauth: ["pets:read"]}]}
  /files/{name}.json:
    $ref: "#/components/pathItems/File"
  /legacy:
    put: {security: [{key: []}]}
    patch: {security: [{key: []}, {oauth: ["pets:write"]}]}
components:
  pathItems:
    File: {get: {}, head: {}}
  securitySchemes:
    oauth: {type: oauth2, flows: {}}
    bearer: {$ref: "#/components/securitySchemes/jwt"}
    jwt: {type: http, scheme: Bearer}
    key: {type: apiKey, in: header, name: X-Key}
"""
CONFIG: Final = """\
issuers: [{name: main, issuer: https://idp.example.com/, audiences: [a]}]
postgres: {dsn: postgresql://g@127.0.0.1/g}
redis: {url: redis://127.0.0.1}
upstreams: {api: {urls: ["http://127.0.0.1:9000"]}}
"""


def description(text: str = PETS) -> Any:  # noqa: ANN401 -- YAML
    return yaml.safe_load(text)


def test_routes_ask_for_what_the_description_asks_for() -> None:
    found = read(description())
    made = {(each.path, each.methods): each.security for each in routes(found)}
    choice = '"pets:write" in claims.scopes || "pets:admin" in claims.scopes'
    assert {key: (each.auth, sorted(each.scopes), each.condition) for key, each in made.items()} == {
        ("/health", ("GET",)): ("optional", [], None),
        ("/v1/files/*", ("GET", "HEAD")): ("required", ["pets:read"], None),
        ("/v1/legacy", ("PUT",)): ("required", [], None),
        ("/v1/legacy", ("PATCH",)): ("required", ["pets:write"], None),
        ("/v1/pets", ("GET",)): ("none", [], None),
        ("/v1/pets", ("POST",)): ("required", [], choice),
        ("/v1/pets/mine", ("GET",)): ("required", [], None),
        ("/v1/pets/*", ("GET",)): ("required", ["pets:read"], None),
        ("/v1/pets/*", ("DELETE",)): ("required", ["pets:read", "pets:write"], None),
    }
    # Names before parameters: the first route that matches wins.
    paths = [each.path for each in routes(found)]
    assert paths.index("/v1/pets/mine") < paths.index("/v1/pets/*")
    assert any("partly a parameter" in note for note in found.notes)
    assert any("no scheme takes a bearer token" in note for note in found.notes)


def test_a_choice_of_several_sets_is_a_condition() -> None:
    security = Security("required", (frozenset({"a", "b"}), frozenset({'c"'})))
    assert security.condition == '("a" in claims.scopes && "b" in claims.scopes) || "c\\"" in claims.scopes'


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"swagger": "2.0"}, "Swagger 2.0"),
        ({"openapi": "2.0"}, "no `openapi: 3.x`"),
        ({"paths": None}, "has no `paths`"),
        ({"paths": {"/a": {"$ref": "other.yaml#/a"}}}, "is in another file"),
        ({"paths": {"/a": {"$ref": "#/components/pathItems/None"}}}, "does not exist"),
        ({"paths": {"/a": {"$ref": "#/paths/~1a"}}}, "in a circle"),
        ({"paths": {"/a": {"get": {"security": [{"none": []}]}}}}, "there is no security scheme 'none'"),
        ({"paths": {"/a": {"get": {"security": {"oauth": []}}}}}, "security is not a list"),
    ],
)
def test_what_cannot_be_read_is_told(change: dict[str, object], told: str) -> None:
    with pytest.raises(NotOpenApi, match=told):
        read({**description(), **change})


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["routes", "import", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_the_routes_can_be_pasted_and_then_do_not_differ(tmp_path: Path) -> None:
    file, config = tmp_path / "openapi.yaml", tmp_path / "gateway.yaml"
    file.write_text(PETS)
    code, out, _ = run(file)
    assert code == 0
    config.write_text(CONFIG + out)
    assert len(load(config, {}).routes) == 9
    assert run(file, "--config", config)[:2] == (0, f"The routes are those of {file}.\n")


def test_a_difference_is_told(tmp_path: Path) -> None:
    file, config = tmp_path / "openapi.yaml", tmp_path / "gateway.yaml"
    file.write_text(PETS)
    config.write_text(CONFIG + run(file)[1])
    changed = description()
    changed["paths"]["/pets/{id}"]["delete"]["security"] = [{"oauth": ["pets:delete"]}]
    changed["paths"]["/pets"]["get"].pop("security")
    changed["paths"]["/new"] = {"get": {}}
    del changed["paths"]["/pets/mine"]
    file.write_text(json.dumps(changed))
    code, out, _ = run(file, "--config", config)
    assert code == 1
    assert sorted(out.splitlines()) == [
        "+ GET /v1/new: no route",
        "- route v1-pets-mine: no operation leads to it",
        "~ DELETE /v1/pets/{id}: route v1-pets-x-delete is without the scopes pets:delete and with the scopes"
        " pets:read, pets:write, which the description does not ask for",
        "~ GET /v1/pets: auth is none, and required in the description",
    ]
    found = json.loads(run(file, "--config", config, "--json")[1])
    assert [each["kind"] for each in found].count("missing") == 1


def test_a_file_that_is_no_description_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "openapi.yaml"
    file.write_text("a: [")
    assert run(file)[0] == 2
    assert run(tmp_path / "none.yaml")[0] == 2
