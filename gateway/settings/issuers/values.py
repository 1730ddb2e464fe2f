"""The types of single values in the settings of an issuer."""

import re
from typing import Annotated, Final, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from gateway.core.model import Scalar
from gateway.core.tokens.issuer_patterns import MAX_TENANTS
from gateway.core.tokens.token_types import media_type
from gateway.settings.values import ClaimPath, mistake

AsymmetricAlgorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"
]
ASYMMETRIC_ALGORITHMS: Final[tuple[AsymmetricAlgorithm, ...]] = get_args(AsymmetricAlgorithm)
Algorithm: TypeAlias = Literal[AsymmetricAlgorithm, "HS256", "HS384", "HS512"]
_OF_JWT: Final = "eyJ"
"""The base64url of `{"`."""
# RFC 6838 §4.2, without the upper case that does not count.
_MEDIA_TYPE: Final = re.compile(r"(?:[a-z0-9!#$&^_.+-]+/)?[a-z0-9!#$&^_.+-]+")


def _one_or_more(value: object) -> object:
    """Take one value for a list of one."""
    return (value,) if isinstance(value, str) else value


def _accepted_values(value: object) -> tuple[Scalar, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not values:
        raise mistake("must have at least one entry")
    if not all(isinstance(each, str | int | float) for each in values):
        raise mistake(
            "must be a value or a list of values: text, numbers, true or false",
            "write access, or [web, mobile]; put dates and the like in quotes",
        )
    return values


def _tenants(value: object) -> tuple[str, ...] | Literal["any"]:
    if value == "any":
        return "any"
    values = tuple(value) if isinstance(value, list | tuple) else ()
    if not values or not all(isinstance(each, str) for each in values):
        raise mistake(
            "must be a list of tenants, or any", "write [8a1c, 77b2], each in quotes if it has only digits"
        )
    if len(values) > MAX_TENANTS:
        raise mistake(f"has more than {MAX_TENANTS} tenants", "write any: the issuer decides which it has")
    return values


def _token_type(value: str) -> str:
    typ = media_type(value)
    if not _MEDIA_TYPE.fullmatch(typ):
        raise mistake("must be a `typ` of a token's header", "write at+jwt")
    return typ


def _opaque_prefix(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]*", value):
        raise mistake("must be the beginning of a bearer token (RFC 6750 §2.1)", "write gho_")
    if value and (value.startswith(_OF_JWT) or _OF_JWT.startswith(value)):
        raise mistake("is how every JWT begins", "remove it, or write how the opaque tokens begin")
    return value


ClaimPaths: TypeAlias = Annotated[
    tuple[ClaimPath, ...],
    Field(min_length=1),
    BeforeValidator(_one_or_more),
    WithJsonSchema(
        {
            "x-kind": "path or list of paths",
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
        }
    ),
]
_SCALAR: Final = {"type": ["string", "number", "boolean"]}
AcceptedValues: TypeAlias = Annotated[
    tuple[Scalar, ...],
    PlainValidator(_accepted_values),
    WithJsonSchema(
        {
            "x-kind": "value or list of values",
            "oneOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}],
        }
    ),
]


class _MappingOrText:
    """Reads a mapping; a text is an expression, which `settings.conditions` checks."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: object, mapping: core_schema.ValidatorFunctionWrapHandler) -> object:
            return value if isinstance(value, str) and value else mapping(value)

        schema = handler.generate_schema(dict[ClaimPath, AcceptedValues])
        return core_schema.no_info_wrap_validator_function(read, schema)


When: TypeAlias = Annotated[dict[ClaimPath, AcceptedValues] | str, _MappingOrText]
OpaquePrefix: TypeAlias = Annotated[str, AfterValidator(_opaque_prefix)]
Tenants: TypeAlias = Annotated[
    tuple[str, ...] | Literal["any"],
    PlainValidator(_tenants),
    WithJsonSchema(
        {
            "x-kind": "list of text, or any",
            "oneOf": [
                {"const": "any"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_TENANTS},
            ],
        }
    ),
]
TokenType: TypeAlias = Annotated[str, AfterValidator(_token_type)]
