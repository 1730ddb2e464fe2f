"""The step about the request: the route that it matches, and the fix when it matches none."""

import re
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
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, shown, yaml_line


def check(trail: Trail, request: Request) -> Route | None:
    """Take the step; return None if there is no route."""
    expected = "a route for method, host and path"
    # Without the query, which may contain a token.
    asked = request.target.partition("?")[0]
    found = f"{request.method} {shown(asked)}"
    table = RouteTable(trail.setup.routes)
    hosts = [value for name, value in request.headers if name == b"Host"]
    try:
        target = read_target(request.target, hosts, table.liberties)
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
        _blame(trail, request, read_target(request.target, hosts, table.liberties), denial)
        return None
    detail = None
    if route.auth is Auth.NONE:
        detail = "it needs no token: failures below refuse no request"
    trail.step("route", "pass", expected, f"{found}: route {route.name}", detail)
    return route


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
            "Use one of these methods, or add this one to the route.",
            config=yaml_line(f"routes[{_place(trail, route)}].match.methods", methods),
        ),
    )


def _blame_path(trail: Trail, request: Request, target: Target, denial: Denial) -> None:
    for route in trail.setup.routes:
        anywhere = replace(route, hosts=frozenset())
        try:
            RouteTable([anywhere]).match(request.method, target.host, target.path)
        except Denial:
            continue
        hosts: list[JSON] = [*sorted(route.hosts), target.host]
        trail.blame(
            denial,
            Cause.ROUTE_NOT_FOUND,
            f"Route {route.name} matches the path, but is only for the hosts {listed(sorted(route.hosts))},"
            f" not for {shown(target.host)}",
            Fix(
                "Give the complete URL with the host that clients use, or add this host to the route.",
                config=yaml_line(f"routes[{_place(trail, route)}].match.hosts", hosts),
            ),
        )
        return
    segment = target.path.split("/")[1]
    path = f"/{segment}/**" if segment else "/"
    names = {route.name for route in trail.setup.routes}
    name = re.sub(r"[^a-z0-9]+", "-", segment.lower()).strip("-") or "root"
    while name in names:
        name += "-2"
    entry: JSON = {"name": name, "match": {"path": path}, "upstream": trail.setup.routes[0].upstream}
    trail.blame(
        denial,
        Cause.ROUTE_NOT_FOUND,
        f"No route matches {shown(target.path)}",
        Fix(
            "Correct the path, or add a route to the upstream that serves it.",
            config=yaml_line(f"routes[{len(trail.setup.routes)}]", entry),
        ),
    )


def _place(trail: Trail, route: Route) -> int:
    return next(i for i, each in enumerate(trail.setup.routes) if each.name == route.name)
