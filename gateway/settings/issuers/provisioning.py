"""The settings of users whom the gateway creates at their first request."""

from pydantic import Field

from gateway.settings.issuers.values import When
from gateway.settings.sections.section import Section
from gateway.settings.values import ClaimPath, Text


class Provisioning(Section):
    """The user that routes with `missing_user: provision` create for a token without one."""

    email: ClaimPath | None = None
    """The claim with the e-mail address, without which no user is created. `null`: users have none."""
    display_name: ClaimPath | None = None
    """The claim with the name. A token may lack it."""
    tenant: ClaimPath | None = None
    """The claim with the tenant, without which no user is created. `null`: as `claims.tenant`."""
    roles: tuple[Text, ...] = ()
    """The roles of each user that is created. The roles in the token are not copied."""
    when: When = Field(default_factory=dict)
    """Claims, each with its accepted value or values; all must hold, or no user is created. Of a claim that
    is a list, one element suffices. Or a condition over `claims`, in CEL (docs/policy.md)."""
