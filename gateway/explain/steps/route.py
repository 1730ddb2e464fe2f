"""The step about the request: the route that it matches, and the fix when it matches none."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from gateway.core.model import JSON, Auth, Request, Route
from gateway.core.reasons import (
    METHOD_NOT_ALLOWED,
    METHOD_NOT_IMPLEMENTED,
    REQUEST_MALFORMED,
    ROUTE_NOT_FOUND,
    Denial,
)
from gateway.core.routes import RouteTable, Target, read_target
from gateway.explain.answer import Cause, Fix
from gateway.explain.setup import Setup
from gateway.explain.trail import Trail
from gateway.explain.verdict import NO_HOST
from gateway.explain.wording import listed, shown, yaml_line


def check(trail: Trail, request: Request) -> Route | None:
    """Take the step; return None if there is no route."""
    expected = "a route for method, host and path"
    # Without the query, which may contain a token.
    asked = request.target.partition("?")[0]
    found = f"{request.method} {shown(asked)}"
    table = RouteTable(trail.setup.routes)
    try:
        target = _target(table, request)
        route = table.match(request.method, target.host, target.path)
        table.check(route, request.method, target)
    except Denial as denial:
        if denial.reason is REQUEST_MALFORMED:
            why = _unreadable(request.target) or denial.detail or denial.reason.title
            trail.step("route", "fail", expected, found, why)
            summary = f"The `url` {shown(asked)} is not valid for a request: {why}"
            trail.blame(denial, Cause.REQUEST_MALFORMED, summary, _AS_SENT)
            return None
        trail.step("route", "fail", expected, found, denial.detail or denial.reason.hint)
        _blame(trail, request, _target(table, request), denial)
        return None
    detail = None
    if route.auth is Auth.NONE:
        detail = "it needs no token: failures below refuse no request"
    trail.step("route", "pass", expected, f"{found}: route {route.name}", detail)
    return route


def is_known(setup: Setup, request: Request) -> bool:
    """Return whether there is a route for what was pasted: its URL may be an example, or a proxy's."""
    table = RouteTable(setup.routes)
    try:
        target = _target(table, request)
        table.match(request.method, target.host, target.path)
    except Denial as denial:
        return denial.reason in {METHOD_NOT_ALLOWED, METHOD_NOT_IMPLEMENTED}
    return True


def _target(table: RouteTable, request: Request) -> Target:
    hosts = [value for name, value in request.headers if name == b"Host"]
    return read_target(request.target, hosts, table.liberties)


_AS_SENT: Final = Fix(
    "Give `url` as clients send it: a path with its first `/`, or a complete http or https URL. If clients"
    " send this, let them send an unambiguous path: without `..`, `//`, `;` or `%2f`,"
    " and percent-encoded (RFC 3986 §2.1). The route's `match.allow` allows the last three."
)


def _unreadable(target: str) -> str | None:
    """Return why a target is neither a path nor a URL; None if it begins like a path."""
    if target.startswith("/"):
        return None
    try:
        parts = urlsplit(target)
        _ = parts.port  # reading the port may raise, too
    except ValueError as error:
        return f"it is not a URL: {error}"
    if parts.netloc and parts.scheme not in {"http", "https"}:
        return "its scheme is neither http nor https"
    return "it is neither a path, which begins with `/`, nor a complete http or https URL"


def _blame(trail: Trail, request: Request, target: Target, denial: Denial) -> None:
    if denial.reason in {METHOD_NOT_ALLOWED, METHOD_NOT_IMPLEMENTED}:
        _blame_method(trail, request, denial)
    elif denial.reason is ROUTE_NOT_FOUND:
        _blame_path(trail, request, target, denial)


def _blame_method(trail: Trail, request: Request, denial: Denial) -> None:
    route = denial.route
    if route is None:
        trail.blame(denial, Cause.METHOD_NOT_ALLOWED, denial.detail or denial.reason.title, None)
        return
    methods: list[JSON] = [*sorted(route.methods), request.method]
    if not route.methods:
        # A list would end what the route takes without one.
        trail.blame(
            denial,
            Cause.METHOD_NOT_ALLOWED,
            f"Route {route.name} names no methods, so it takes the usual ones: not {shown(request.method)}",
            Fix(
                "Use a usual method, or put a route before this one that names the method in `match.methods`."
            ),
        )
        return
    trail.blame(
        denial,
        Cause.METHOD_NOT_ALLOWED,
        f"Route {route.name} matches the path, but not the method {shown(request.method)}; its methods are"
        f" {', '.join(sorted(denial.allow or route.methods))}",
        Fix(
            "Use one of these methods. To add this one is a decision: all who may use the route could do what"
            " the service does with it.",
            config=yaml_line(f"routes[{_place(trail, route)}].match.methods", methods),
        ),
    )


def _blame_path(trail: Trail, request: Request, target: Target, denial: Denial) -> None:
    first = _first(target.path)
    if first in _FRONTS:
        _blame_front(trail, target, denial, first)
        return
    if first in _OF_ADMIN:
        trail.blame(
            denial,
            Cause.ROUTE_NOT_FOUND,
            f"No route matches {shown(target.path)}: the gateway answers it on `admin.listen`, with no token",
            Fix("Ask the admin listener. If a service has the same path, it needs a route of its own."),
        )
        return
    for route in trail.setup.routes:
        if _matches(replace(route, hosts=frozenset()), request.method, target.host, target.path):
            _blame_host(trail, route, target, denial)
            return
    near = _nearest(trail.setup.routes, request.method, target)
    if near is not None:
        route, how = near
        trail.blame(
            denial,
            Cause.ROUTE_NOT_FOUND,
            f"No route matches {shown(target.path)}; route {route.name} has the path {shown(route.path)}, and"
            f" {how}",
            Fix(
                "Correct the path of the request. A further route for it would be another way to the same"
                " service: it would need all that this route requires."
            ),
        )
        return
    path = f"/{first}/**" if first else "/"
    names = {route.name for route in trail.setup.routes}
    name = re.sub(r"[^a-z0-9]+", "-", first.lower()).strip("-") or "root"
    while name in names:
        name += "-2"
    entry: JSON = {"name": name, "match": {"path": path}, "upstream": trail.setup.routes[0].upstream}
    trail.blame(
        denial,
        Cause.ROUTE_NOT_FOUND,
        f"No route matches {shown(target.path)}",
        Fix(
            "Correct the path. If it is right, add a route to the upstream that serves it: name that upstream"
            " in the line below, and what the route requires.",
            config=yaml_line(f"routes[{len(trail.setup.routes)}]", entry),
        ),
    )


_FRONTS: Final = {
    "auth-request": "in X-Original-Method, X-Original-URI and X-Original-Host",
    "forward-auth": "in X-Forwarded-Method, X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-Uri",
    "ext-authz": "behind the prefix /ext-authz",
}
"""Where other proxies tell of the request that they ask about (docs/front-doors.md), by the first segment of
the path at which they ask."""
_OF_ADMIN: Final = frozenset({"healthz", "readyz", "metrics", "console"})
"""First segments that the admin listener answers."""


def _first(path: str) -> str:
    """Return the first segment of a path."""
    return path.split("/")[1]


def _blame_front(trail: Trail, target: Target, denial: Denial, front: str) -> None:
    trail.blame(
        denial,
        Cause.ROUTE_NOT_FOUND,
        f"No route matches {shown(target.path)}: at /{front}, other proxies ask the decision listener"
        " (`decision.listen`) about a request of their own",
        Fix(
            f"Explain the request that the proxy asks about: its method and URL are {_FRONTS[front]}. A proxy"
            " that gets this 404 asks the main listener, and has to ask `decision.listen`."
        ),
    )


def _blame_host(trail: Trail, route: Route, target: Target, denial: Denial) -> None:
    only = f"Route {route.name} matches the path, but is only for the hosts {listed(sorted(route.hosts))}"
    if target.host == NO_HOST:
        trail.blame(
            denial,
            Cause.ROUTE_NOT_FOUND,
            f"{only}, and a path alone names none",
            Fix("Give the complete URL, with the host that clients use."),
        )
        return
    hosts: list[JSON] = [*sorted(route.hosts), target.host]
    trail.blame(
        denial,
        Cause.ROUTE_NOT_FOUND,
        f"{only}, not for {shown(target.host)}",
        Fix(
            "Use one of these hosts. To add this one is a decision: all who can send requests with this host"
            " would reach the route.",
            config=yaml_line(f"routes[{_place(trail, route)}].match.hosts", hosts),
        ),
    )


def _matches(route: Route, method: str, host: str, path: str) -> bool:
    try:
        RouteTable([route]).match(method, host, path)
    except Denial:
        return False
    return True


def _nearest(routes: Sequence[Route], method: str, target: Target) -> tuple[Route, str] | None:
    """Return the route that was probably meant, and how the path differs from what it matches."""
    path = target.path
    tail = path.partition("/")[2].partition("/")[2]
    others = [
        (path.lower(), "the case of the letters differs"),
        (path.rstrip("/") or "/", "the slash at the end is one too many"),
        (f"{path}/", "a slash is missing at the end"),
        (
            f"/{tail}",
            f"{shown('/' + _first(path))} stands before it: a proxy in front, or the client, adds it",
        ),
    ]
    for other, how in others:
        if other in (path, "/", "//"):
            continue
        for route in routes:
            if route.path != "/**" and _matches(route, method, target.host, other):
                return route, how
    first = _first(path)
    for route in routes:
        name = _first(route.path)
        if "*" in name or not _is_slip(first, name):
            continue
        if _matches(route, method, target.host, f"/{name}{path[len(first) + 1 :]}"):
            return route, f"{shown(first)} and {shown(name)} differ in one letter"
    return None


def _is_slip(one: str, other: str) -> bool:
    """Return whether two words differ in one letter: another, one more or less, or two exchanged."""
    short, long = sorted((one, other), key=len)
    if one == other or len(short) < _SHORTEST_SLIP or len(long) - len(short) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[at:] == long[at + 1 :]
    swapped = short[:at] + short[at + 1 : at + 2] + short[at : at + 1] + short[at + 2 :]
    return short[at + 1 :] == long[at + 1 :] or swapped == long


_SHORTEST_SLIP: Final = 4
"""Letters. Shorter words differ in one letter by chance."""


def _place(trail: Trail, route: Route) -> int:
    return next(i for i, each in enumerate(trail.setup.routes) if each.name == route.name)
