"""The types of tokens: `typ` in a token's header (RFC 7515 §4.1.9, RFC 9068 §2.1)."""

from collections.abc import Iterable
from typing import Final

from gateway.core.model import Issuer
from gateway.core.reasons import TOKEN_TYPE_INVALID, Denial

USUAL: Final[frozenset[str | None]] = frozenset({None, "jwt", "at+jwt"})
"""The types of access tokens unless the issuer says otherwise, as `media_type` writes them; None: none."""


def media_type(typ: str) -> str:
    """Return a `typ` in the form in which types are compared (RFC 7515 §4.1.9).

    Upper and lower case are the same, and `application/` may be left out.
    """
    lower = typ.lower()
    short = lower.removeprefix("application/")
    return lower if "/" in short else short


def known_to(issuers: Iterable[Issuer]) -> frozenset[str | None]:
    """Return the types that tokens of some issuer may have."""
    return USUAL.union(*(issuer.token_types or () for issuer in issuers))


def check(typ: str | None, issuer: Issuer) -> None:
    """Raise a `Denial` unless tokens of the issuer may have this type (RFC 9068 §4)."""
    types = issuer.token_types
    if types is None and typ not in USUAL:
        raise Denial(TOKEN_TYPE_INVALID, issuer=issuer.name, realm=issuer.realm)
    if types is not None and typ not in types:
        accepted = ", ".join(sorted(types))
        detail = f"the issuer's `token_types` are {accepted}"
        raise Denial(TOKEN_TYPE_INVALID, detail, issuer=issuer.name, realm=issuer.realm)
