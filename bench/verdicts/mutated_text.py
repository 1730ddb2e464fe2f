"""Tokens whose spelling is mutated: segments, base64url, JSON, and what stands around them.

The signature is over the mutated text, so a proxy that accepts it reads what is no token.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from bench.tokens import AUDIENCE, ISSUER
from bench.verdicts.minting import Case, claims, header, sealed, signed, text
from tests.tokens import base64url

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _low_bits(segment: bytes) -> bytes:
    return segment[:-1] + bytes([_ALPHABET[_ALPHABET.index(segment[-1]) ^ 1]])


def _middle(text: bytes) -> Callable[[bytes], bytes]:
    return lambda segment: segment[:8] + text + segment[8:]


_OF_SEGMENTS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "padded": lambda segment: segment + b"=" * (-len(segment) % 4),
    "padded too much": lambda segment: segment + b"====",
    "padded with %3D": lambda segment: segment + b"%3D",
    "one character more": lambda segment: segment + b"A",
    "one character less": lambda segment: segment[:-1],
    "low bits": _low_bits,
    "space within": _middle(b" "),
    "tab within": _middle(b"\t"),
    "padding within": _middle(b"===="),
    "plus and slash": _middle(b"+/+/"),
    "exclamation mark within": _middle(b"!"),
    "octet 0xC3 within": _middle(b"\xc3\xa9"),
    "NUL within": _middle(b"\0"),
    "swapped case": bytes.swapcase,
    "encoded twice": base64url,
    "in standard base64": lambda segment: base64.b64encode(base64.urlsafe_b64decode(segment + b"==")),
    "empty": lambda _: b"",
}


def of_segments() -> Iterator[tuple[str, bytes]]:
    """Each segment in other spellings. The lengths leave bits over, so that each spelling is another one."""
    head, payload = base64url(_fitting(text(header()))), base64url(_fitting(text(claims())))
    for what, change in _OF_SEGMENTS.items():
        yield f"header {what}", sealed(change(head), payload)
        yield f"payload {what}", sealed(head, change(payload))
        signed_part, _, mac = sealed(head, payload).rpartition(b".")
        yield f"signature {what}", signed_part + b"." + change(mac)
    good = sealed(head, payload)
    yield "one", good.split(b".")[1]
    yield "two", good.rpartition(b".")[0]
    yield "four", good + b".x"
    yield "four, last empty", good + b"."
    yield "four, first empty", b"." + good
    yield "two dots", good.replace(b".", b"..", 1)
    yield "five (JWE)", b".".join([base64url(b'{"alg":"dir","enc":"A128GCM"}'), b"", b"aa", b"aa", b"aa"])
    yield "dots only", b".."


def of_json() -> Iterator[tuple[str, bytes]]:
    """Header and payload in text that is nearly JSON, or JSON that parsers read differently."""
    for what, change in _OF_JSON.items():
        yield f"header {what}", signed(change(text(header())), None)
        yield f"payload {what}", signed(None, change(text(claims())))
    yield "payload with iss escaped", signed(None, text(claims()).replace(b'"iss"', b'"\\u0069ss"'))
    yield (
        "payload with iss twice, first another",
        signed(None, b'{"iss":"https://evil.example/",' + text(claims())[1:]),
    )
    yield (
        "payload with iss twice, last another",
        signed(None, text(claims())[:-1] + b',"iss":"https://evil.example/"}'),
    )
    yield "payload with aud twice, last another", signed(None, text(claims())[:-1] + b',"aud":"other"}')
    yield "payload with exp twice, first passed", signed(None, b'{"exp":1,' + text(claims())[1:])
    yield "payload with exp twice, last passed", signed(None, text(claims())[:-1] + b',"exp":1}')
    yield "payload with sub twice, once escaped", signed(None, text(claims())[:-1] + b',"\\u0073ub":"admin"}')
    yield "header with alg twice, first none", signed(b'{"alg":"none",' + text(header())[1:])
    yield "header with alg twice, last none", signed(text(header())[:-1] + b',"alg":"none"}')
    yield "header with kid twice", signed(text(header())[:-1] + b',"kid":"rsa"}')
    yield "header with Alg, too", signed(text(header())[:-1] + b',"Alg":"none"}')
    yield "header and payload swapped", signed(text(claims()), text(header()))


def _with(member: bytes) -> Callable[[bytes], bytes]:
    return lambda body: body[:-1] + b"," + member + b"}"


def _nested(levels: int) -> Callable[[bytes], bytes]:
    return _with(b'"x":' + b"[" * levels + b"]" * levels)


_OF_JSON: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "with an unknown member twice": lambda body: _with(b'"x":1,"x":2')(body),
    "with a name twice in a nested object": _with(b'"x":{"y":1,"y":2}'),
    "with a comment": lambda body: b"{/* x */" + body[1:],
    "with a comment of one line": lambda body: b"{//x\n" + body[1:],
    "with a comma at the end": lambda body: body[:-1] + b",}",
    "in single quotes": lambda body: body.replace(b'"', b"'"),
    "with a name without quotes": _with(b"x:1"),
    "with a BOM": lambda body: b"\xef\xbb\xbf" + body,
    "with white space around": lambda body: b" \r\n\t" + body + b"\n ",
    "with a form feed before": lambda body: b"\x0c" + body,
    "with text after": lambda body: body + b"x",
    "with NUL after": lambda body: body + b"\0",
    "with an object after": lambda body: body + b"{}",
    "in a list": lambda body: b"[" + body + b"]",
    "as a string": lambda body: b'"' + body.replace(b'"', b'\\"') + b'"',
    "is null": lambda _: b"null",
    "is a number": lambda _: b"1",
    "is empty": lambda _: b"",
    "is an empty object": lambda _: b"{}",
    "is cut off": lambda body: body[:-1],
    "with NaN": _with(b'"x":NaN'),
    "with -Infinity": _with(b'"x":-Infinity'),
    "with a number in hex": _with(b'"x":0x10'),
    "with a plus": _with(b'"x":+1'),
    "with a leading zero": _with(b'"x":01'),
    "with a leading dot": _with(b'"x":.5'),
    "with a dot at the end": _with(b'"x":5.'),
    "with 1e999": _with(b'"x":1e999'),
    "with an integer of 400 digits": _with(b'"x":' + b"9" * 400),
    "with an integer of 5000 digits": _with(b'"x":' + b"9" * 5000),
    "with True": _with(b'"x":True'),
    "with undefined": _with(b'"x":undefined'),
    "with a lone surrogate": _with(b'"x":"\\ud800"'),
    "with a pair of surrogates": _with(b'"x":"\\ud83d\\ude00"'),
    "with octets that are not UTF-8": _with(b'"x":"\xff"'),
    "with an overlong slash": _with(b'"x":"\xc0\xaf"'),
    "with a surrogate in UTF-8": _with(b'"x":"\xed\xa0\x80"'),
    "in UTF-16": lambda body: body.decode().encode("utf-16-le"),
    "with a raw line break in a string": _with(b'"x":"\n"'),
    "with a raw NUL in a string": _with(b'"x":"\0"'),
    "with an escaped NUL": _with(b'"x":"\\u0000"'),
    "with an unknown escape": _with(b'"x":"\\x41"'),
    "with an empty name": _with(b'"":1'),
    "with __proto__": _with(b'"__proto__":{"alg":"none"}'),
    "with 30 levels": _nested(30),
    "with 64 levels": _nested(63),
    "with 65 levels": _nested(64),
    "with 200 levels": _nested(200),
    "with 2000 levels": _nested(2000),
    "of 8 kB": _with(b'"x":"' + b"a" * 8000 + b'"'),
    "of 13 kB": _with(b'"x":"' + b"a" * 11_000 + b'"'),
    "of 20 kB": _with(b'"x":"' + b"a" * 20_000 + b'"'),
    "of 40 kB": _with(b'"x":"' + b"a" * 40_000 + b'"'),
}


def of_fields() -> Iterator[Case]:
    """Good tokens in an Authorization that is not quite right (RFC 6750 §2.1)."""
    good = signed()
    for what, before in {
        "bearer": b"bearer ",
        "BEARER": b"BEARER ",
        "two spaces": b"Bearer  ",
        "tab": b"Bearer\t",
        "no space": b"Bearer",
        "colon": b"Bearer: ",
        "Token": b"Token ",
        "Basic": b"Basic ",
        "no scheme": b"",
        "Bearer twice": b"Bearer Bearer ",
        "quote before": b'Bearer "',
        "word before": b"x Bearer ",
        "Basic and Bearer": b"Basic eDp5, Bearer ",
    }.items():
        yield Case(what, before + good)
    for what, after in {
        "space after": b" ",
        "word after": b" x",
        "comma after": b",x",
        "semicolon after": b";x=1",
        "quote after": b'"',
        "padding after": b"==",
        "padding and text after": b"==x",
        "percent after": b"%00",
        "tilde after": b"~",
        "parameter after": b", realm=x",
        "second token after": b", Bearer " + good,
        "token after a space": b" " + good,
        "octet 0xFF after": b"\xff",
        "brackets after": b"<>",
    }.items():
        yield Case(what, b"Bearer " + good + after)
    yield Case(
        "JSON serialisation", b"Bearer " + text({"payload": ISSUER, "signatures": [{"protected": AUDIENCE}]})
    )
    yield Case("nothing", b"Bearer ")


def _fitting(body: bytes) -> bytes:
    """Return a JSON text with white space, of 3n + 1 octets: four bits of its last character are unused."""
    return body + b" " * ((1 - len(body)) % 3)
