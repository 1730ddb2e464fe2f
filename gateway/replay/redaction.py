"""What is left out of records: what names or reaches a person, and what opens a session.

Names are compared without case, namespace and separators: `phoneNumber`, `custom:phone_number` and
`https://example.com/phone-number` are the same. Values are looked at, too: a text with a token or an e-mail
address is left out under any name.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from gateway.core.model import JSON

REPLACED: Final = "redacted"
_PERSONAL: Final = frozenset({
    "name", "givenname", "familyname", "middlename", "nickname", "preferredusername", "profile", "picture",
    "website", "email", "gender", "birthdate", "phonenumber", "phone", "address", "fullname", "firstname",
    "lastname", "surname", "displayname", "upn", "uniquename", "username", "login", "emails", "mail",
    "emailaddress", "verifiedprimaryemail", "verifiedsecondaryemail", "avatarurl", "avatar", "photo",
    "mobile", "mobilephone", "dateofbirth", "birthday", "streetaddress", "postalcode", "ipaddr",
    "ipaddress", "ssn",
})  # fmt: skip
"""Claims about a person (OpenID Connect Core 1.0 §5.1), and what providers call them."""
_SECRET: Final = frozenset({
    "jti", "sid", "nonce", "athash", "chash", "shash", "sessionstate", "sessionid", "accesstoken",
    "refreshtoken", "idtoken", "providertoken", "providerrefreshtoken", "password", "secret", "apikey",
})  # fmt: skip
_FIXED: Final = frozenset({"iss", "aud"})
"""What tells the issuer and the audience, whatever stands there."""
_TELLING: Final = re.compile(
    # The beginning of a JWS or JWE (`{"` in base64url), or an e-mail address.
    r"eyJ[\w-]{8,}\.[\w-]+\.|[^\s@/:<>\"]{1,64}(?:@|%40)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+"
)


def members(given: Mapping[str, JSON]) -> tuple[dict[str, JSON], list[str]]:
    """Return claims or attributes without what is personal, and the names of those that are not complete."""
    kept: dict[str, JSON] = {}
    missing: list[str] = []
    for name, value in given.items():
        kept[name] = value if name in _FIXED else _without(name, value)
        if kept[name] != value:
            missing.append(name)
    return kept, missing


def path(text: str) -> str:
    """Return a path with a word in place of each segment that has a token or an e-mail address."""
    if _TELLING.search(text) is None:
        return text
    return "/".join(REPLACED if _TELLING.search(part) else part for part in text.split("/"))


def _without(name: str, value: JSON) -> JSON:
    if value is None or isinstance(value, bool) or value == [] or value == {}:
        return value
    return REPLACED if _is_personal(name) else _within(value)


def _within(value: JSON) -> JSON:
    if isinstance(value, str):
        return REPLACED if _TELLING.search(value) else value
    if isinstance(value, dict):
        return {name: _without(name, each) for name, each in value.items()}
    return [_within(each) for each in value] if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def _is_personal(name: str) -> bool:
    plain = name.replace(":", "/").rpartition("/")[2].lower().replace("_", "").replace("-", "")
    return plain in _PERSONAL or plain in _SECRET
