"""What a request asks for, as conditions see it: no credentials, and nothing that proxies say of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from gateway.core.model import Header, Request, Route
from gateway.core.routes import LIBERTIES, read_target


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, as conditions see it."""

    method: str
    path: str
    """As routes match it."""
    host: str
    query: str
    """Without its `?`, and without the parameter in which the route takes tokens."""
    client: str
    """The client's address; empty on a Unix socket."""
    headers: tuple[Header, ...] = ()

    def named(self, names: Iterable[str]) -> dict[str, str]:
        """Return the headers with these names, which are in lower case; the values of repeated ones joined.

        A comma joins them (RFC 9110 §5.3). A header that is not there has no entry.
        """
        wanted = frozenset(names)
        found: dict[str, str] = {}
        for name, value in self.headers:
            key = name.decode("latin-1").lower()
            if key in wanted:
                text = value.decode("utf-8", "replace")
                found[key] = f"{found[key]}, {text}" if key in found else text
        return found


_ALL: Final = frozenset(LIBERTIES)


def asked(request: Request, route: Route, *, target: bool = True) -> Asked:
    """Return what a request asks for that has matched a route. Raises `Denial` if it could not have.

    `target`: path, host and query are needed.
    """
    if not target:
        return Asked(request.method, "", "", "", request.client, request.headers)
    hosts = [value for name, value in request.headers if name.lower() == b"host"]
    # The route's own liberties were checked when it was matched.
    read = read_target(request.target, hosts, _ALL)
    query = read.query[1:]
    parameter = None if route.credentials is None else route.credentials.query
    if parameter is not None and query:
        pairs = query.split("&")
        query = "&".join(pair for pair in pairs if unquote_plus(pair.partition("=")[0]) != parameter)
    return Asked(request.method, read.path, read.host, query, request.client, request.headers)
