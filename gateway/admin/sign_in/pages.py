"""What a person sees when a sign-in does not succeed: a plain page, with nothing of the request in it."""

from typing import Final

from aiohttp import web

MESSAGES: Final = {
    "state_invalid": (400, "This sign-in was begun in another window, was used already, or took too long."),
    "response_invalid": (400, "The answer of the identity provider is not valid."),
    "denied": (403, "The identity provider did not sign you in."),
    "code_refused": (400, "The identity provider did not confirm this sign-in."),
    "token_refused": (502, "The identity provider's answer could not be verified."),
    "role_missing": (403, "You are known to the identity provider, but have no role in this console."),
    "provider_unavailable": (503, "The identity provider cannot be reached, or its settings are wrong."),
    "too_many_attempts": (429, "There were too many attempts from this address. Try again in a minute."),
}
"""Status and sentence of each failure. The log has the cause, with the request id."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # The address has a code: it is told to no other page.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def failure(code: str, request_id: str) -> web.Response:
    """Return the page of a failure. Links are relative, as in the console."""
    status, message = MESSAGES[code]
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign-in failed · Gateway console</title>
<link rel="stylesheet" href="console.css">
</head>
<body class="plain"><main>
<h1>Sign-in failed</h1>
<p>{message}</p>
<p><a href="../console">Back to the console</a></p>
<p class="hint">{code}, request {request_id}</p>
</main></body>
</html>
"""
    headers = {**HEADERS, "Retry-After": "60"} if status in (429, 503) else HEADERS
    return web.Response(text=text, status=status, content_type="text/html", headers=headers)
