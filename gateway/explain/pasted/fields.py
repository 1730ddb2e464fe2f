"""The credential fields in header lines, and in commands such as those of curl."""

import re
import shlex
from collections.abc import Iterator
from typing import Final

_FIELD: Final = re.compile(
    r"^[\s\"'-]*(?:H\s+[\"']?)?(authorization|cookie)[\"']?\s*:[ \t]*(.*)$", re.IGNORECASE
)
SCHEME: Final = re.compile(
    r"(bearer|basic|digest|negotiate|ntlm|token|jwt|dpop|apikey|aws4-hmac-sha256|ssws|hmac)[ \t\u00a0]+\S",
    re.IGNORECASE,
)
COMMAND: Final = re.compile(
    r"(?:[$>#%]\s+)?(curl|wget|https?|xhs?|grpcurl|websocat|wscat|kubectl|oc)(?:\.exe)?\s", re.IGNORECASE
)
_OPTION: Final = re.compile(
    r"-[sSvkLiIfgGNjlnpqRBOJZ0-9#]*([Huba])(.*)"
    r"|(--(?:header|oauth2-bearer|bearer|token|user|auth|cookie))(?:=(.*))?",
    re.DOTALL,
)
"""Before a letter of curl that takes a value, only those that take none."""
WRAPPED: Final = re.compile(r"[A-Za-z0-9._~+/\-]+=*")


def words_of(text: str) -> list[str]:
    """Return the words of a command, of a shell or of cmd.exe. Raises `ValueError` for open quotation."""
    if '^"' in text:  # as browsers copy for cmd.exe
        text = re.sub(r"\^(.)", r"\1", re.sub(r"\^\r?\n", " ", text))
    return shlex.split(re.sub(r"\\\r?\n|\^\r?\n|`\r?\n", " ", re.sub(r"\$(?=')", "", text)))


def of_command(text: str) -> Iterator[tuple[str, str]]:
    """Yield the credential fields of a curl command, or of a similar one."""
    command = COMMAND.match(text)
    if command is None:
        return
    try:
        words = words_of(text)
    except ValueError:
        return
    program = command[1].lower()
    bearer_named = "bearer" in {word.lower().removeprefix("--auth-type=") for word in words}
    option = ""
    for word in words:
        given = _OPTION.fullmatch(word)
        if option:
            yield from _of_option(option, word, program, bearer=bearer_named)
            option = ""
        elif given is None:
            yield from fields(word)  # as in `http GET … "Authorization: …"`
        elif given[2] or given[4] is not None:
            yield from _of_option(given[1] or given[3], given[2] or given[4], program, bearer=bearer_named)
        else:
            option = given[1] or given[3]


def _of_option(option: str, value: str, program: str, *, bearer: bool) -> Iterator[tuple[str, str]]:
    of_httpie = program in {"http", "https", "xh", "xhs"}
    match option:
        case "H" | "--header":
            yield from fields(value)
        case "--oauth2-bearer" | "--bearer":
            yield "Authorization", f"Bearer {value}"
        case "--token" if program in {"kubectl", "oc"}:
            yield "Authorization", f"Bearer {value}"
        case "a" | "--auth" if of_httpie:
            yield "Authorization", f"Bearer {value}" if bearer else "Basic (a user name and a password)"
        case "u" | "--user" if not of_httpie and program not in {"kubectl", "oc"}:
            yield "Authorization", "Basic (a user name and a password)"
        case "b" | "--cookie" if program == "curl":
            yield "Cookie", value
        case _:
            return


def fields(text: str) -> Iterator[tuple[str, str]]:
    """Yield the credential fields of header lines. A token may continue on the lines after."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        found = _FIELD.match(lines[at])
        at += 1
        if found is None:
            continue
        value = found[2]
        if not value and at < len(lines) and SCHEME.match(lines[at]):
            # As browsers copy a list of headers.
            value = lines[at].strip()
            at += 1
        while at < len(lines) and WRAPPED.fullmatch(lines[at].strip()):
            value += lines[at].strip()
            at += 1
        quote = text.lstrip()[:1]
        if quote in {'"', "'"} and value.endswith(quote) and value.count(quote) == 1:
            value = value[:-1]
        elif "'" in lines[at - 1][: found.start(1)] and "'" in value:
            value = value.partition("'")[0]
        elif '"' in lines[at - 1][: found.start(1)] and '"' in value and value.count('"') % 2:
            value = value.partition('"')[0]
        yield found[1].capitalize(), value.strip(" \t")
