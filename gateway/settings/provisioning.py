"""The settings of users whom the gateway creates at their first request."""

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, WithJsonSchema

from gateway.settings.section import Section
from gateway.settings.values import ClaimPath, Text


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


AcceptedValues: TypeAlias = Annotated[
    tuple[StrictBool | StrictInt | StrictFloat | StrictStr, ...],
    Field(min_length=1),
    BeforeValidator(_as_list),
    WithJsonSchema({"x-kind": "value or list of values"}),
]


class Provisioning(Section):
    """The user that routes with `missing_user: provision` create for a token without one."""

    email: ClaimPath | None = None
    """The claim with the e-mail address, without which no user is created. `null`: users have none."""
    display_name: ClaimPath | None = None
    """The claim with the name. A token may lack it."""
    tenant: ClaimPath | None = None
    """The claim with the tenant, without which no user is created. `null`: as `claims.tenant`."""
    roles: tuple[Text, ...] = ()
    """The roles of each user that is created. None of the token's are taken over."""
    when: dict[ClaimPath, AcceptedValues] = Field(default_factory=dict)
    """Claims, each with its accepted value or values; all must hold, or no user is created. Of a claim that
    is a list, one element suffices."""
