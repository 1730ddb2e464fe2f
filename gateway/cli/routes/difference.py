"""The difference between an OpenAPI description and the routes of a configuration."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from gateway.cli.routes.operations import Operation, Security
from gateway.core.model import Auth, Route
from gateway.core.reasons import METHOD_NOT_ALLOWED, Denial
from gateway.core.routes import RouteTable

Kind: TypeAlias = Literal["missing", "differs", "unused"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One operation, or one route, that the other side does not have."""

    kind: Kind
    """`missing`: no route serves the operation. `unused`: no operation leads to the route."""
    what: str
    detail: str
    route: str | None = None

    def __str__(self) -> str:
        sign = {"missing": "+", "differs": "~", "unused": "-"}[self.kind]
        return f"{sign} {self.what}: {self.detail}"


def compare(
    operations: Sequence[Operation], routes: Sequence[Route], host: str | None = None
) -> list[Difference]:
    """Return the differences. Each operation is sent to the routes as a request would be.

    `host` is the one of these requests; None: routes are taken for all hosts.
    """
    if host is None:
        routes = [_anywhere(route) for route in routes]
    table, any_name = RouteTable(routes), _any_name(operations, routes)
    found: list[Difference] = []
    used: set[str] = set()
    for each in operations:
        what = f"{each.method} {each.template}"
        try:
            route = table.match(each.method, host or "", each.pattern.replace("*", any_name))
        except Denial as denial:
            why = "its route does not take the method" if denial.reason is METHOD_NOT_ALLOWED else "no route"
            found.append(Difference("missing", what, why, denial.route.name if denial.route else None))
            if denial.route is not None:
                used.add(denial.route.name)
            continue
        used.add(route.name)
        found += (
            Difference("differs", what, text, route.name) for text in _differences(each.security, route)
        )
    found += (
        Difference("unused", f"route {route.name}", "no operation leads to it", route.name)
        for route in routes
        if route.name not in used and _is_below(route, operations)
    )
    return found


def _differences(security: Security, route: Route) -> Iterable[str]:
    if security.auth != route.auth.value:
        yield f"auth is {route.auth}, and {security.auth} in the description"
    if Auth.NONE in {route.auth, security.auth} or security.auth == "optional":
        return
    ours, theirs = route.require.scopes, security.scopes
    if security.condition is None and ours != theirs:
        missing, more = sorted(theirs - ours), sorted(ours - theirs)
        parts = [f"without the scopes {', '.join(missing)}"] if missing else []
        parts += (
            [f"with the scopes {', '.join(more)}, which the description does not ask for"] if more else []
        )
        yield f"route {route.name} is {' and '.join(parts)}"
    text = None if route.require.condition is None else route.require.condition.text
    if security.condition is not None and text != security.condition:
        yield f"route {route.name} has another condition than {security.condition}"


def _any_name(operations: Sequence[Operation], routes: Sequence[Route]) -> str:
    """Return what stands for a parameter: a segment that no path has by name."""
    paths = [*(each.pattern for each in operations), *(route.path for route in routes)]
    named = {segment for path in paths for segment in path.split("/")}
    name = "x"
    while name in named:
        name += "x"
    return name


def _is_below(route: Route, operations: Sequence[Operation]) -> bool:
    """Return whether a route is for the same part of the paths as the description."""
    if not operations:
        return False
    first = {each.pattern.split("/")[1] for each in operations}
    return route.path.split("/")[1] in first


def _anywhere(route: Route) -> Route:
    return replace(route, hosts=frozenset())
