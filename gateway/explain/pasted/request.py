"""The method and the URL of a request that was pasted: a command, a program, or the request itself."""

import re
from typing import Final

from gateway.explain.pasted.fields import COMMAND, words_of

_URL: Final = r"https?://[^\s\"'`<>^]+"
_HEAD: Final = re.compile(r"^([A-Z]{3,12}) (/\S*) HTTP/[12]", re.MULTILINE)
_HOST: Final = re.compile(r"^host:[ \t]*(\S+)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_CALL: Final = re.compile(
    rf"(?:fetch\(\s*[\"'`]|-Uri\s+[\"']?|[\"']url[\"']\s*:\s*[\"'])({_URL})", re.IGNORECASE
)
"""As browsers copy a request: `fetch`, PowerShell, HAR."""
_METHOD: Final = re.compile(r"[\"']?\bmethod[\"']?\s*[:=]?\s*[\"']([A-Za-z]{3,12})[\"']", re.IGNORECASE)
_DATA: Final = re.compile(r"-[dF].*|--(?:data|json|form)(?:-\w+)*(?:=.*)?", re.DOTALL)
_VERB: Final = re.compile(r"[A-Z]{3,12}")


def asked(text: str) -> tuple[str, str] | None:
    """Return the method and the URL; None if the text does not show one request."""
    if COMMAND.match(text):
        return _of_command(text)
    head, host = _HEAD.search(text), _HOST.search(text)
    if head is not None and host is not None:
        return head[1], f"http://{host[1]}{head[2]}"
    urls = [*dict.fromkeys(_CALL.findall(text))]
    if len(urls) != 1:
        return None
    method = _METHOD.search(text)
    return ("GET" if method is None else method[1].upper()), urls[0]


def _of_command(text: str) -> tuple[str, str] | None:
    try:
        words = words_of(text)
    except ValueError:
        return None
    urls = [word for word in words if re.fullmatch(_URL, word)]
    if len(urls) != 1:
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in {"-X", "--request"} and _VERB.fullmatch(following):
            return following, urls[0]
        named = re.fullmatch(r"(?:-X|--request=|--method=)([A-Z]{3,12})", word)
        if named is not None:
            return named[1], urls[0]
    if {"-I", "--head"} & {*words}:
        return "HEAD", urls[0]
    if re.fullmatch("https?|xhs?", words[0]) and len(words) > 1 and _VERB.fullmatch(words[1]):
        return words[1], urls[0]
    return ("POST" if any(map(_DATA.fullmatch, words)) else "GET"), urls[0]
