"""`gateway routes import`: what an OpenAPI description becomes, and how it differs from a configuration."""

import json
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.cli.routes.openapi import read, routes
from gateway.cli.routes.operations import NotOpenApi, Security
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


def test_routes_require_what_the_description_requires() -> None:
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


CHOICES: Final = {name: [{"oauth": [f"{name}{number}"]} for number in range(20)] for name in "ab"}


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
        # An empty value is a mistake, and opens nothing.
        ({"paths": {"/a": {"get": {"security": None}}}}, "GET /a: security is not a list; write \\[\\]"),
        ({"security": None, "paths": {"/a": {"get": {}}}}, "GET /a: security is not a list"),
        ({"paths": {"/a": {"get": {"security": [{"oauth": "a"}]}}}}, "the scopes of oauth are not a list"),
        ({"paths": {"/a": {"get": {"security": ["oauth"]}}}}, "requirement is not a mapping"),
        ({"paths": {"/a": {"get": {"security": [{"oauth": [True]}]}}}}, "a scope of oauth is not a text"),
        (
            {"paths": {"/a": {"get": {"security": [{"oauth": [f"s{n:09}"]} for n in range(200)]}}}},
            "longer than",
        ),
        (
            {"paths": {f"/{{{n}}}": {"get": {"security": CHOICES[n]}} for n in "ab"}},
            "sets of scopes to choose",
        ),
        ({"servers": "https://x.example/v1", "paths": {"/a": {"get": {}}}}, "servers is not a list"),
        ({"servers": ["/v1"], "paths": {"/a": {"get": {}}}}, "servers is not a list of mappings"),
        (
            {"servers": [{"url": "http://[::1/v1"}], "paths": {"/a": {"get": {}}}},
            "the url of a server cannot",
        ),
        ({"paths": {"/a": {"get": None}}}, "GET /a: is not a mapping"),
        ({"paths": {"/a": None}}, "paths./a is not a mapping"),
        ({"paths": {"/a": {"$ref": "#/servers/9"}}}, "#/servers/9 does not exist"),
    ],
)
def test_an_unreadable_description_is_reported(change: dict[str, object], told: str) -> None:
    with pytest.raises(NotOpenApi, match=told):
        read({**description(), **change})


Row: TypeAlias = tuple[str, str, str, list[str], str | None]


def one(**change: object) -> tuple[list[Row], list[str]]:
    """Return the routes of a description, as far as it is changed, and its notes."""
    found = read({**description(), **change})
    made: list[Row] = [
        (e.path, " ".join(e.methods), e.security.auth, sorted(e.security.scopes), e.security.condition)
        for e in routes(found)
    ]
    return made, found.notes


OPEN: Final[dict[str, object]] = {"security": []}


@pytest.mark.parametrize(
    ("security", "asked"),
    [
        # Both, of which one is no bearer token: the scopes of the other stay.
        ([{"oauth": ["a"], "key": []}], ("required", ["a"], None)),
        ([{"oauth": ["a"], "bearer": ["b"]}], ("required", ["a", "b"], None)),
        ([{"key": []}, {"oauth": ["a"]}], ("required", ["a"], None)),
        ([{"key": []}], ("required", [], None)),
        ([{"oauth": ["a"]}, {}], ("optional", [], None)),
        ([], ("none", [], None)),
        ([{"bearer": None}], ("required", [], None)),
        ([{"oauth": ["a"]}, {"oauth": ["a", "b"]}], ("required", ["a"], None)),
        (
            [{"oauth": ["a"], "key": []}, {"oauth": ["b"]}],
            ("required", [], '"a" in claims.scopes || "b" in claims.scopes'),
        ),
    ],
)
def test_choices_and_combinations(security: list[object], asked: tuple[str, list[str], str | None]) -> None:
    ((_, _, *found),), _ = one(servers=[], paths={"/a": {"get": {"security": security}}})
    assert tuple(found) == asked


@pytest.mark.parametrize(
    ("servers", "path"),
    [
        (None, "/a"),
        ([], "/a"),
        ([{"url": "/"}], "/a"),
        ([{"url": "https://x.example/v1/"}, {"url": "http://y.example/v1"}], "/v1/a"),
        ([{"url": "v1"}], "/v1/a"),
        ([{"url": "//x.example/v2"}], "/v2/a"),
        ([{"url": "https://x.example/{v}"}], "/*/a"),
        ([{"url": "{base}", "variables": {"base": {"default": "/b/c"}}}], "/b/c/a"),
    ],
)
def test_the_path_of_the_server_stands_before_each(servers: object, path: str) -> None:
    ((found, *_),), _ = one(servers=servers, paths={"/a": {"get": OPEN}})
    assert found == path


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/a/", "/a/"),
        ("/", "/"),
        ("/a b", "/a%20b"),
        ("/\u00fc", "/%C3%BC"),
        ("/a%7eb", "/a~b"),
        ("/a/{b}/{c}", "/a/*/*"),
        ("/a/{b}:cancel", "/a/*"),
        ("/a(b='{c}')", "/*"),
        # No request has these, or a route would take them for more than they are.
        ("/a//b", None),
        ("/a/../b", None),
        ("/a;v=1", None),
        ("/a?b=1", None),
        ("/a/*", None),
        ("/a/{b", None),
        ("a", None),
    ],
)
def test_a_path_becomes_one_that_a_route_may_have(template: str, path: str | None) -> None:
    made, notes = one(servers=[], paths={template: {"get": OPEN}})
    assert [each[0] for each in made] == ([] if path is None else [path])
    assert path is not None or "left out" in notes[0]


def test_paths_that_a_route_cannot_tell_apart_ask_for_all_that_any_of_them_asks_for() -> None:
    """Else a path with a verb would be open to those who may use the one without it."""
    scopes = [[{"oauth": ["a"]}], [{"oauth": ["b"]}, {"oauth": ["c"]}], [{}]]
    templates = ("/x/{id}", "/x/{id}:run", "/x/{name}")
    paths = {path: {"post": {"security": each}} for path, each in zip(templates, scopes, strict=True)}
    made, notes = one(servers=[], paths=paths)
    condition = (
        '("a" in claims.scopes && "b" in claims.scopes) || ("a" in claims.scopes && "c" in claims.scopes)'
    )
    assert made == [("/x/*", "POST", "required", [], condition)]
    assert "POST /x/{id}:run: a route cannot tell it from POST /x/{id}" in notes
    assert "POST /x/{name}: the route asks for what both of them ask for" in notes


def test_a_request_that_two_paths_take_must_meet_both_requirements(tmp_path: Path) -> None:
    """None of `/x/{b}` and `/{c}/y` is more specific: else `/x/y` would be open to all."""
    asks: dict[str, list[object]] = {"/x/{b}": [], "/{c}/y": [{"oauth": ["a"]}], "/{c}/{d}": [], "/x/x": []}
    paths = {path: {"get": {"security": each}} for path, each in asks.items()}
    made, notes = one(servers=[], paths=paths)
    assert [(each[0], each[3]) for each in made] == [
        ("/x/x", []), ("/x/y", ["a"]), ("/x/*", []), ("/*/y", ["a"]), ("/*/*", []),
    ]  # fmt: skip
    assert "GET /x/{b} and GET /{c}/y: a request of /x/y may be both" in " ".join(notes)
    three = {"/x/{b}/{c}": [], "/{a}/y/{c}": [{"oauth": ["a"]}], "/{a}/{b}/z": [{"oauth": ["b"]}]}
    made, _ = one(servers=[], paths={path: {"get": {"security": each}} for path, each in three.items()})
    assert ("/x/y/z", ["a", "b"]) in [(each[0], each[3]) for each in made]
    # What the names of paths are does not count for what stands for a parameter.
    file, config = tmp_path / "openapi.yaml", tmp_path / "gateway.yaml"
    file.write_text(json.dumps({**description(), "servers": [], "paths": paths}))
    config.write_text(CONFIG + run(file)[1])
    assert run(file, "--config", config)[:2] == (0, f"The routes are those of {file}.\n")


def test_a_terminal_obeys_nothing_in_a_description(tmp_path: Path) -> None:
    file, config = tmp_path / "openapi.yaml", tmp_path / "gateway.yaml"
    config.write_text(CONFIG + "routes: [{name: a, match: {path: /a}, upstream: api}]\n")
    odd = {"/a\x1b[31m/b": {"get": OPEN}, "x\x1b]0;a\x07": {}, "/{id\x1b[2J}": {"get": OPEN}}
    for paths in (odd, {"/\x1b[2J": {"get": None}}):
        file.write_text(json.dumps({**description(), "paths": paths}))
        for told in (run(file), run(file, "--config", config)):
            assert "\x1b" not in told[1] + told[2]
            assert "\N{REPLACEMENT CHARACTER}[" in told[2]


def test_parts_that_are_left_out_are_reported() -> None:
    _, notes = one(
        paths={"/a": {"GET": {}, "gett": {}, "x-y": 1, "get": {}, "parameters": []}, "x-z": {}, "b": {}},
        security=[],
    )
    assert [each for each in notes if "left out" in each] == [
        "paths./a: GET is no method, and is left out",
        "paths./a: gett is no method, and is left out",
        "paths.b: does not begin with `/`, and is left out",
    ]
    open_to_all = read({key: each for key, each in description().items() if key != "security"}).notes
    assert "GET /pets/{id}: there is no `security` for it, so its route has auth: none" in open_to_all


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


def test_a_difference_is_reported(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "neither YAML nor JSON"),
        ('{\n\t"openapi": ', "neither YAML nor JSON"),
        ("[" * 5000, "nested too deeply"),
        ("openapi: 3.0.0\npaths:\n  /a: {}\n  /a: {}\n", "line 4: '/a' is given twice"),
        ('{\t"openapi": "3.0.0", "openapi": "3.1.0"}', "'openapi' twice"),
        ("a: &a [*a]", "no `openapi: 3.x`"),
        ("- a", "is not a mapping"),
        ("", "is not a mapping"),
        ("a: !!python/object:os.system {}", "neither YAML nor JSON"),
        ("\u0007", "neither YAML nor JSON"),
    ],
)
def test_a_file_that_is_no_description_is_a_usage_error(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "openapi.yaml"
    file.write_text(text)
    code, out, err = run(file)
    assert (code, out) == (2, "")
    assert told in err.replace("\n", " ")


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    assert run(tmp_path / "none.yaml")[0] == 2


@pytest.mark.parametrize(
    "text",
    [
        "openapi: 3.0\npaths: &p {/a: {get: &g {}, put: *g}}\nx-p: *p\n",
        "openapi: 3.0.3\nx: &x {get: {}, put: {}}\npaths: {/a: {<<: *x}}\n",
        '\ufeff{\n\t"openapi": "3.1.0",\n\t"paths": {"/a": {"get": {}, "put": {}}}\n}',
        "openapi: 3.0.3\npaths: {/a: {get: {responses: {200: {example: 2026-02-30}}}, put: {}}}\n",
    ],
    ids=["anchors", "merged", "JSON with tabs", "a date that is none"],
)
def test_odd_files_are_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "openapi.yaml"
    file.write_text(text)
    code, out, _ = run(file)
    assert code == 0
    assert [each["match"] for each in yaml.safe_load(out)["routes"]] == [
        {"path": "/a", "methods": ["GET", "PUT"]}
    ]
