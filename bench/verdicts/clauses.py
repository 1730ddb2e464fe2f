"""Why the verdicts differ: for each class of differences, the clause that speaks of it."""

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final


class Side(StrEnum):
    """The stricter proxy."""

    GATEWAY = "gateway"
    ENVOY = "Envoy"


@dataclass(frozen=True, slots=True)
class Clause:
    """A class of differences."""

    title: str
    source: str
    """The document and the section."""
    stricter: Side
    why: str
    cases: tuple[str, ...]
    """Patterns of names of cases; `*` is any text."""
    reasons: tuple[str, ...] = ("*",)
    """Patterns of what the stricter proxy says."""

    def covers(self, case: str, stricter: Side, reason: str) -> bool:
        return (
            stricter is self.stricter
            and any(fnmatchcase(case, pattern) for pattern in self.cases)
            and any(fnmatchcase(reason, pattern) for pattern in self.reasons)
        )


CLAUSES: Final = (
    Clause(
        "Critical header parameters",
        "RFC 7515 §4.1.11",
        Side.GATEWAY,
        "A token whose `crit` names an extension that the verifier lacks must be refused, and so "
        "must an empty or malformed `crit`. Envoy does not read it.",
        ("header: crit *",),
        ("critical_header_unsupported",),
    ),
    Clause(
        "Algorithm of another kind of key",
        "RFC 7515 §5.2, RFC 8725 §3.1",
        Side.GATEWAY,
        "The signature is validated in the manner that `alg` defines. Envoy verifies as the key "
        "demands, whatever `alg` says.",
        ("alg: *, key *",),
        ("algorithm_not_allowed",),
    ),
    Clause(
        "Keys of small order",
        "RFC 8725 §3.4",
        Side.GATEWAY,
        "Inputs of the cryptography must be validated. For an Ed25519 key of small order, anyone "
        "can sign. Only an issuer can publish one.",
        ("Ed25519: key *",),
        ("key_unknown",),
    ),
    Clause(
        "Length of an ECDSA signature",
        "RFC 7518 §3.4",
        Side.GATEWAY,
        "The signature is two numbers of fixed length, and nothing more. Envoy takes the two halves of any "
        "length, and leaves an odd octet out.",
        ("signature: p*, zero after", "ECDSA: p*, longer numbers", "ECDSA: p521, shorter numbers"),
        ("signature_invalid",),
    ),
    Clause(
        "No `kid`, and several keys",
        "OpenID Connect Core 1.0 §10.1",
        Side.GATEWAY,
        "If an issuer has several keys, tokens must have a `kid`. Envoy tries each key that fits.",
        (
            "kid: absent, *",
            "kid: empty",
        ),
        ("key_unknown",),
    ),
    Clause(
        "Type of the token",
        "RFC 8725 §3.11",
        Side.GATEWAY,
        "`typ` keeps tokens of one kind from being taken for another. The gateway takes none, "
        "`JWT` and `at+jwt`. Envoy does not read it.",
        ("typ: *",),
        ("token_type_invalid",),
    ),
    Clause(
        "ID, refresh and logout tokens",
        "RFC 8725 §3.12",
        Side.GATEWAY,
        "Tokens of different kinds need rules that exclude each other. The gateway knows the "
        "marks of tokens that are no access tokens. Envoy knows no kinds.",
        ("kind: *",),
        ("id_token_not_accepted",),
    ),
    Clause(
        "Tokens bound to a key",
        "RFC 9449 §7.2, RFC 7800 §3",
        Side.GATEWAY,
        "A bound token is no bearer token: it counts with the proof of its client's key alone. "
        "Envoy does not read `cnf`.",
        ("kind: cnf *",),
        ("claim_not_accepted",),
    ),
    Clause(
        "Audience that is nearly equal",
        "RFC 7519 §2 (StringOrURI), §4.1.3",
        Side.GATEWAY,
        "Audiences are compared as case-sensitive strings, without transformations. Envoy removes "
        "the scheme and the last slash first.",
        ("audience: *",),
        ("audience_mismatch",),
    ),
    Clause(
        "Issued in the future",
        "OpenID Connect Core 1.0 §3.1.3.7 (10), RFC 7519 §4.1.6",
        Side.GATEWAY,
        "A token that is issued later than now has a wrong date. Its age, by which revocations "
        "decide, would be wrong, too. Envoy does not compare `iat`.",
        ("date: iat *",),
        ("token_issued_in_future",),
    ),
    Clause(
        "Dates after the year 9999",
        "RFC 7519 §2 (NumericDate)",
        Side.GATEWAY,
        "Dates are in seconds. Dates in milliseconds, and numbers that are no dates, would be "
        "valid for ever.",
        (
            "date: exp *",
            "date: iat *",
        ),
        ("claim_malformed",),
    ),
    Clause(
        "Subject missing or empty",
        "RFC 9068 §2.2, RFC 7519 §4.1.2",
        Side.GATEWAY,
        "An access token has a subject. Envoy does not need one.",
        ("claim: sub *",),
        (
            "subject_missing",
            "subject_malformed",
        ),
    ),
    Clause(
        "Subject that is too long",
        "OpenID Connect Core 1.0 §2 (sub)",
        Side.GATEWAY,
        "A subject has at most 255 characters.",
        ("subject: * characters",),
        ("subject_malformed",),
    ),
    Clause(
        "Subject with control characters",
        "RFC 9110 §5.5",
        Side.GATEWAY,
        "The subject becomes the value of a header field, which has no control characters. Envoy "
        "forwards the payload in base64url, if at all.",
        ("subject: *",),
        ("subject_malformed",),
    ),
    Clause(
        "Token identifier that is empty",
        "RFC 7519 §4.1.7",
        Side.GATEWAY,
        "`jti` is unique, so an empty one is none. Revocations go by it.",
        ("claim: jti empty",),
        ("claim_malformed",),
    ),
    Clause(
        "Scopes and roles of a wrong type",
        "RFC 8693 §4.2, RFC 9068 §2.2.3.1",
        Side.GATEWAY,
        "Scopes are a string of words, or a list of strings; roles likewise (RFC 7643 §4.1.2). "
        "The gateway decides by them. Envoy does not read them.",
        (
            "claim: scope *",
            "claim: roles *",
        ),
        ("claim_malformed",),
    ),
    Clause(
        "Tenant of a wrong type",
        "RFC 7519 §4.3",
        Side.GATEWAY,
        "A private claim means what issuer and recipient agree: the gateway compares `tenant_id`, "
        "a string or an integer, with the user's tenant. Envoy does not read it.",
        ("claim: tenant_id *",),
        ("claim_malformed",),
    ),
    Clause(
        "Padding and white space in segments",
        "RFC 7515 §2, RFC 6750 §2.1",
        Side.GATEWAY,
        "Segments are base64url without padding and white space. Envoy skips both.",
        ("segment: * padded", "segment: * within", "segment: * in standard base64", "field: padding after"),
        ("credentials_malformed", "token_malformed"),
    ),
    Clause(
        "Low bits of base64url",
        "RFC 4648 §3.5",
        Side.GATEWAY,
        "The unused bits of a segment's last character are zero, so that a token has one spelling. Envoy "
        "ignores them.",
        ("segment: * low bits",),
        ("token_malformed",),
    ),
    Clause(
        "Number of segments",
        "RFC 7515 §7.1",
        Side.GATEWAY,
        "A token has exactly three segments. Envoy leaves empty ones out.",
        (
            "segment: four, *",
            "segment: two dots",
        ),
        ("token_malformed",),
    ),
    Clause(
        "Levels of lists and objects",
        "RFC 8259 §9",
        Side.GATEWAY,
        "Readers of JSON may limit the depth. The gateway's limit is 64 levels, and Envoy's is higher.",
        ("JSON: * levels",),
        ("token_malformed",),
    ),
    Clause(
        "Text that is not JSON",
        "RFC 7519 §7.2 (3, 10), RFC 8259 §2, §7",
        Side.GATEWAY,
        "Header and payload must be completely valid JSON. Envoy accepts a last comma, single "
        "quotes, names without quotes, and raw control characters in strings.",
        ("JSON: *",),
        ("token_malformed",),
    ),
    Clause(
        "Size of a token",
        "RFC 9110 §5.4",
        Side.GATEWAY,
        "A recipient may limit fields. The gateway's limits are 16 KiB for a token and 32 KiB for a field; "
        "Envoy's is 60 KiB for all fields.",
        ("JSON: * kB",),
        (
            "token_too_large",
            "request_too_large",
        ),
    ),
    Clause(
        "What stands before the token",
        "RFC 6750 §2.1, RFC 9110 §11.4",
        Side.GATEWAY,
        "Credentials are `Bearer`, spaces and the token, with nothing before them and no quotes. "
        "Envoy looks for `Bearer ` anywhere in the field, and for the first character that a "
        "token may have.",
        (
            "field: * before",
            "field: Basic and Bearer",
        ),
        ("credentials_malformed",),
    ),
    Clause(
        "The name Ed25519",
        "RFC 9864 §2.2",
        Side.ENVOY,
        "`Ed25519` is the newer name of what `EdDSA` means with such keys. Envoy does not know it.",
        ("alg: Ed25519, *",),
    ),
    Clause(
        "Scheme in another case",
        "RFC 9110 §11.1",
        Side.ENVOY,
        "Names of schemes are case-insensitive. Envoy compares them exactly.",
        (
            "field: bearer",
            "field: BEARER",
        ),
    ),
    Clause(
        "Numbers beyond a double",
        "RFC 8259 §6",
        Side.ENVOY,
        "They are JSON, whose readers may limit them. The gateway accepts them in members that it "
        "does not read.",
        (
            "JSON: * with 1e999",
            "JSON: * with an integer of 400 digits",
        ),
    ),
    Clause(
        "Lone surrogates",
        "RFC 8259 §8.2, RFC 7493 §2.1",
        Side.ENVOY,
        "The grammar of JSON has them, and I-JSON does not. The gateway accepts them in members "
        "that it does not read.",
        ("JSON: * with a lone surrogate",),
    ),
    Clause(
        "A token identifier that is null",
        "RFC 7519 §4.1.7",
        Side.ENVOY,
        "`jti` is a string. For the gateway, a claim that is null is not there, and `jti` is optional.",
        ("claim: jti null",),
    ),
)


def clause_of(case: str, stricter: Side, reason: str) -> Clause | None:
    """Return the first class that covers a difference; None if there is none."""
    return next((clause for clause in CLAUSES if clause.covers(case, stricter, reason)), None)
