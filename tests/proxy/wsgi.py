"""Services for gunicorn that answer without reading the body: a plain WSGI application, and Django."""

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

_STATUS: Final = {
    "/public/200": "200 OK",
    "/public/302": "302 Found",
    "/public/401": "401 Unauthorized",
    "/public/413": "413 Content Too Large",
}
BODY: Final = b"not like this"

Environ: TypeAlias = dict[str, object]
StartResponse: TypeAlias = Callable[[str, list[tuple[str, str]]], object]


def plain(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response(_STATUS[str(environ["PATH_INFO"])], [("Content-Length", str(len(BODY)))])
    return [BODY]


def with_django() -> Callable[[Environ, StartResponse], Iterable[bytes]]:
    from django.conf import settings  # type: ignore[import-untyped]  # it has no types
    from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]  # it has no types
    from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]  # it has no types
    from django.urls import re_path  # type: ignore[import-untyped]  # it has no types

    def refuse(request: HttpRequest) -> HttpResponse:
        return HttpResponse(BODY, status=int(_STATUS[request.path].split()[0]))

    settings.configure(SECRET_KEY="-", ALLOWED_HOSTS=["*"], ROOT_URLCONF=(re_path("", refuse),))
    application: Callable[[Environ, StartResponse], Iterable[bytes]] = get_wsgi_application()
    return application
