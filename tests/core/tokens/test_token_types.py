"""The `typ` of a token's header (RFC 9068)."""

from dataclasses import replace

import pytest

from gateway.core.model import Issuer
from gateway.core.reasons import Denial
from gateway.core.tokens.token_types import check, known_to, media_type

ANY = Issuer("main", "https://idp.example.com/", frozenset({"api"}), frozenset({"ES256"}))
STRICT = replace(ANY, token_types=frozenset({"at+jwt"}))


@pytest.mark.parametrize("typ", [None, "jwt", "at+jwt"])
def test_the_usual_types_are_accepted(typ: str | None) -> None:
    check(typ, ANY)


@pytest.mark.parametrize(("typ", "issuer"), [("logout+jwt", ANY), (None, STRICT), ("jwt", STRICT)])
def test_others_are_not(typ: str | None, issuer: Issuer) -> None:
    with pytest.raises(Denial) as caught:
        check(typ, issuer)
    assert (caught.value.reason.code, caught.value.issuer) == ("token_type_invalid", "main")


def test_an_issuer_may_have_a_type_of_its_own() -> None:
    own = replace(ANY, token_types=frozenset({"vnd.example+jwt"}))
    check("vnd.example+jwt", own)
    assert known_to([ANY, own]) >= {None, "jwt", "at+jwt", "vnd.example+jwt"}


def test_the_application_may_be_left_out() -> None:
    assert media_type("application/AT+JWT") == media_type("at+jwt") == "at+jwt"
    assert media_type("text/plain") == "text/plain"
    # Only where no other slash follows (RFC 7515 §4.1.9).
    assert media_type("application/at/jwt") == "application/at/jwt"
