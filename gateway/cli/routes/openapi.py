"""What an OpenAPI description (3.0, 3.1) says of paths, methods and security, as routes.

A list of security requirements is a choice (OpenAPI 3.1 §4.8.10): one of them must be met, with all of its
schemes and scopes. `{}` among them makes security optional, and an empty list needs none. The security of an
operation replaces that of the description.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from gateway.cli.routes.operations import (
    METHODS,
    NotOpenApi,
    Operation,
    Security,
    ordered,
    overlaps,
    smallest,
)
from gateway.conditions.syntax import LONGEST
from gateway.core.reasons import Denial
from gateway.core.routes import normal_path

_MOST_REFS: Final = 20
_TEMPLATE: Final = re.compile(r"\{[^{}/]+\}")
_GREEDY: Final = re.compile(r"\{[^{}/]+[+*]\}|\{[+*][^{}/]+\}")
"""Parameters that take the rest of a path, for some gateways."""
_BESIDE: Final = frozenset({"$ref", "summary", "description", "servers", "parameters"})
"""What a path has beside its operations."""
_KEPT: Final = "!$%&'()*+,/:;=?@#\\~"
"""What is not percent-encoded in a path, or is refused as it is."""


@dataclass(slots=True)
class Description:
    """The operations of a description, the most specific paths first; and what a person should look at."""

    operations: list[Operation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NewRoute:
    """A route for operations of one path that ask for the same."""

    name: str
    path: str
    methods: tuple[str, ...]
    security: Security


def read(document: object) -> Description:
    """Read a description. Raises `NotOpenApi`."""
    if not isinstance(document, Mapping):
        raise NotOpenApi("is not a mapping")
    version = str(document.get("openapi", ""))
    if "swagger" in document:
        raise NotOpenApi("is Swagger 2.0: convert it to OpenAPI 3 first")
    if not version.startswith("3."):
        raise NotOpenApi("has no `openapi: 3.x`")
    return _Reader(document).read()


def routes(description: Description, prefix: str = "") -> list[NewRoute]:
    """Put operations together that have the same path and security. Names begin with `prefix`."""
    groups: dict[tuple[str, Security], list[str]] = {}
    for each in description.operations:
        groups.setdefault((each.pattern, each.security), []).append(each.method)
    paths = [path for path, _ in groups]
    found: list[NewRoute] = []
    names: set[str] = set()
    for (path, security), methods in groups.items():
        name = prefix + _slug(path)
        if paths.count(path) > 1:
            name += f"-{'-'.join(methods).lower()}"
        unique, number = name, 2
        while unique in names:
            unique, number = f"{name}-{number}", number + 1
        names.add(unique)
        found.append(NewRoute(unique, path, tuple(methods), security))
    return found


class _Reader:
    def __init__(self, document: Mapping[str, object]) -> None:
        self._document = document
        self._found = Description()
        self._operations: dict[tuple[str, str], Operation] = {}
        """By method and pattern."""
        self._noted: set[str] = set()

    def read(self) -> Description:
        paths = self._document.get("paths")
        if not isinstance(paths, Mapping):
            raise NotOpenApi("has no `paths`")
        for template, written in paths.items():
            if str(template).startswith("x-"):
                continue
            if not isinstance(template, str) or not template.startswith("/"):
                self._note(f"paths.{template}: does not begin with `/`, and is left out")
                continue
            item = self._resolved(written, f"paths.{template}")
            for name in item:
                if name not in METHODS and name not in _BESIDE and not str(name).startswith("x-"):
                    self._note(f"paths.{template}: {name} is no method, and is left out")
            for method in METHODS:
                if method in item:
                    self._operation(method.upper(), template, item, item[method])
        for one, other, both in overlaps(self._operations.values()):
            self._note(
                f"{one.method} {one.template} and {other.method} {other.template}: a request of"
                f" {both.pattern} may be both; its route asks for what both of them ask for"
            )
            self._operations[both.method, both.pattern] = both
        for each in self._operations.values():
            if len(each.security.condition or "") > LONGEST:
                raise NotOpenApi(
                    f"{each.method} {each.template}: its choices of scopes are longer than a condition may be"
                )
        self._found.operations = ordered(self._operations.values())
        return self._found

    def _operation(self, method: str, template: str, item: Mapping[str, object], operation: object) -> None:
        where = f"{method} {template}"
        if not isinstance(operation, Mapping):
            raise NotOpenApi(
                f"{where}: is not a mapping; write {{}} for an operation of which nothing is said"
            )
        levels = ((where, operation), (f"paths.{template}", item), ("servers", self._document))
        base = next(
            (self._base(level["servers"], name) for name, level in levels if level.get("servers")), ""
        )
        pattern = self._pattern(base + template, where)
        if pattern is None:
            return
        security = self._security_of(operation, where)
        made = Operation(method, base + template, pattern, security)
        other = self._operations.setdefault((method, pattern), made)
        if other is made:
            return
        self._note(f"{where}: a route cannot tell it from {other.method} {other.template}")
        if security != other.security:
            self._note(f"{where}: the route asks for what both of them ask for")
            both = other.security.and_also(security)
            self._operations[method, pattern] = replace(other, security=both)

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._found.notes.append(text)

    # Paths -------------------------------------------------------------------------------------------

    def _base(self, servers: object, where: str) -> str:
        """Return the path of the first server, without a final slash."""
        if not isinstance(servers, list) or not all(isinstance(each, Mapping) for each in servers):
            raise NotOpenApi(f"{where}: servers is not a list of mappings")
        try:
            bases = [_path_of(server) for server in servers]
        except ValueError as error:
            raise NotOpenApi(f"{where}: the url of a server cannot be read: {error}") from error
        if len(set(bases)) > 1:
            self._note(f"{where}: the servers have different paths; {bases[0] or '/'} is taken")
        if bases and bases[0] and not bases[0].startswith("/"):
            self._note(f"{where}: the server's path is relative; /{bases[0]} is taken")
            return f"/{bases[0]}"
        return bases[0] if bases else ""

    def _pattern(self, path: str, where: str) -> str | None:
        """Return the path as a route has it; None if no request can have it."""
        segments = path.split("/")[1:]
        if any(_TEMPLATE.search(segment) and not _TEMPLATE.fullmatch(segment) for segment in segments):
            self._note(f"{where}: a segment is partly a parameter; the route takes any segment there")
        if any(map(_GREEDY.search, segments)):
            self._note(f"{where}: a parameter may take the rest of a path; the route takes one segment there")
        named = [segment for segment in segments if not _TEMPLATE.search(segment)]
        plain = ["*" if _TEMPLATE.search(segment) else quote(segment, safe=_KEPT) for segment in segments]
        pattern = "/" + "/".join(plain)
        if "?" in pattern or any(character in segment for segment in named for character in "*{}"):
            self._note(f"{where}: a path with `?`, `*`, `{{` or `}}` is left out")
            return None
        try:
            return normal_path(pattern)
        except Denial as denial:
            self._note(f"{where}: is left out: {denial.detail}")
            return None

    # Security ----------------------------------------------------------------------------------------

    def _security_of(self, operation: Mapping[str, object], where: str) -> Security:
        """Return what an operation asks for: its own list, or that of the whole description."""
        for written in (operation, self._document):
            if "security" in written:
                return self._security(written["security"], where)
        if self._schemes():
            self._note(f"{where}: there is no `security` for it, so its route has auth: none")
        return Security("none")

    def _security(self, requirements: object, where: str) -> Security:
        if not isinstance(requirements, Sequence) or isinstance(requirements, str):
            raise NotOpenApi(f"{where}: security is not a list; write [] if it needs none")
        if not requirements:
            return Security("none")
        if any(each == {} for each in requirements):
            return Security("optional")
        sets: list[frozenset[str]] = []
        for each in requirements:
            scopes = self._scopes(each, where)
            if scopes is not None:
                sets.append(scopes)
        if not sets:
            self._note(f"{where}: no scheme takes a bearer token; the route requires one")
        return Security("required", tuple(smallest(sets)))

    def _scopes(self, requirement: object, where: str) -> frozenset[str] | None:
        """Return the scopes of one choice; None if it does not take a bearer token at all."""
        if not isinstance(requirement, Mapping):
            raise NotOpenApi(f"{where}: a security requirement is not a mapping")
        scopes: set[str] = set()
        takes_token = False
        for name, wanted in requirement.items():
            if not isinstance(wanted, list | None):
                raise NotOpenApi(f"{where}: the scopes of {name} are not a list")
            if not all(isinstance(each, str) for each in wanted or ()):
                raise NotOpenApi(f"{where}: a scope of {name} is not a text; write it in quotes")
            if self._scheme(str(name), where) is None:
                self._note(f"{where}: the scheme {name} takes no bearer token, and is left out")
                continue
            takes_token = True
            scopes.update(wanted or ())
        return frozenset(scopes) if takes_token else None

    def _schemes(self) -> Mapping[str, object]:
        components = self._document.get("components")
        schemes = components.get("securitySchemes") if isinstance(components, Mapping) else None
        return schemes if isinstance(schemes, Mapping) else {}

    def _scheme(self, name: str, where: str) -> str | None:
        """Return the type of a scheme whose credential is a bearer token; None for all others."""
        written = self._schemes().get(name)
        if written is None:
            raise NotOpenApi(f"{where}: there is no security scheme {name!r}")
        scheme = self._resolved(written, f"components.securitySchemes.{name}")
        kind = str(scheme.get("type"))
        bearer = kind == "http" and str(scheme.get("scheme", "")).lower() == "bearer"
        return kind if bearer or kind in {"oauth2", "openIdConnect"} else None

    # References --------------------------------------------------------------------------------------

    def _resolved(self, node: object, where: str) -> Mapping[str, object]:
        """Follow references within the description. What stands beside a reference wins."""
        beside: dict[str, object] = {}
        for _ in range(_MOST_REFS):
            if not isinstance(node, Mapping):
                raise NotOpenApi(f"{where} is not a mapping")
            reference = node.get("$ref")
            if reference is None:
                return {**node, **beside}
            beside = {**{key: value for key, value in node.items() if key != "$ref"}, **beside}
            node = self._target(str(reference), where)
        raise NotOpenApi(f"{where}: its references lead in a circle")

    def _target(self, reference: str, where: str) -> object:
        if not reference.startswith("#/"):
            raise NotOpenApi(
                f"{where}: {reference} is in another file; put the description into one file first"
            )
        node: object = self._document
        for part in reference[2:].split("/"):
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(node, Sequence) and not isinstance(node, str):
                node = node[int(name)] if name.isdecimal() and int(name) < len(node) else None
            else:
                node = node.get(name) if isinstance(node, Mapping) else None
        if node is None:
            raise NotOpenApi(f"{where}: {reference} does not exist")
        return node


def _path_of(server: Mapping[str, object]) -> str:
    url = str(server.get("url", "/"))
    variables = server.get("variables")
    for name, variable in variables.items() if isinstance(variables, Mapping) else ():
        default = variable.get("default", "") if isinstance(variable, Mapping) else ""
        url = url.replace(f"{{{name}}}", str(default))
    return urlsplit(url).path.rstrip("/")


def _slug(path: str) -> str:
    named = "-".join("x" if segment == "*" else segment for segment in path.split("/") if segment)
    return re.sub(r"[^a-z0-9]+", "-", named.lower()).strip("-") or "root"
