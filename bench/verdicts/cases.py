"""All mutated tokens, one after the other. Each is made when it is asked for, so its dates are near."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from bench.verdicts import mutated_claims, mutated_headers, mutated_signatures, mutated_text
from bench.verdicts.minting import KEYS, Case, signed

_GROUPS: Final[Mapping[str, Callable[[], Iterator[tuple[str, bytes]]]]] = {
    "claim": mutated_claims.of_wrong_types,
    "date": mutated_claims.of_dates,
    "audience": mutated_claims.of_audiences,
    "issuer": mutated_claims.of_issuers,
    "subject": mutated_claims.of_subjects,
    "kind": mutated_claims.of_kinds,
    "alg": mutated_headers.of_algorithms,
    "no alg": mutated_headers.of_no_algorithm,
    "public key as secret": mutated_headers.of_public_keys_as_secrets,
    "kid": mutated_headers.of_key_names,
    "typ": mutated_headers.of_types,
    "header": mutated_headers.of_extensions,
    "segment": mutated_text.of_segments,
    "JSON": mutated_text.of_json,
    "signature": mutated_signatures.of_bits,
    "RSA": mutated_signatures.of_rsa,
    "ECDSA": mutated_signatures.of_ecdsa,
    "Ed25519": mutated_signatures.of_ed25519,
}


def good() -> Iterator[Case]:
    """Tokens that both proxies accept, one of each key."""
    for key in KEYS:
        yield Case(f"good: {key.kid}", b"Bearer " + signed(key=key))


def mutated() -> Iterator[Case]:
    for group, make in _GROUPS.items():
        for name, token in make():
            yield Case(f"{group}: {name}", b"Bearer " + token)
    for case in mutated_text.of_fields():
        yield Case(f"field: {case.name}", case.field)
