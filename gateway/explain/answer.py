"""The parts of an explanation: steps, findings, a cause and its fix."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from gateway.core.model import JSON
from gateway.core.reasons import Reason
from gateway.explain.changes import Change

Outcome: TypeAlias = Literal["pass", "fail", "warn", "skipped"]


class Cause(StrEnum):
    """Why a request is, or may soon be, decided as it is. docs/explain.md describes each cause."""

    USER_UNKNOWN = "user_unknown"
    ACCOUNT_NOT_LINKED = "account_not_linked"
    USER_DELETED = "user_deleted"
    USER_SUSPENDED = "user_suspended"
    USER_LOCKED = "user_locked"
    USER_PENDING = "user_pending"
    SUBJECT_UNDER_OTHER_ISSUER = "subject_under_other_issuer"
    SUBJECT_CASE_DIFFERS = "subject_case_differs"
    SUBJECT_SPACING_OR_ENCODING = "subject_spacing_or_encoding"
    SUBJECT_PREFIX_DIFFERS = "subject_prefix_differs"
    SUBJECT_UUID_SPELLING = "subject_uuid_spelling"
    SUBJECT_IS_EMAIL = "subject_is_email"
    SUBJECT_IS_USER_ID = "subject_is_user_id"
    SUBJECT_CONFUSABLE = "subject_confusable"
    SUBJECT_NUMBER_DIFFERS = "subject_number_differs"
    SUBJECT_ADDRESS_DIFFERS = "subject_address_differs"
    SUBJECT_TRUNCATED = "subject_truncated"
    SUBJECT_IN_OTHER_CLAIM = "subject_in_other_claim"
    SUBJECT_IS_NAME = "subject_is_name"
    SUBJECT_IS_PHONE = "subject_is_phone"
    SUBJECT_NOT_A_STRING = "subject_not_a_string"
    SUBJECT_MISSING = "subject_missing"
    SUBJECT_AMBIGUOUS = "subject_ambiguous"
    ISSUER_WITHOUT_IDENTITIES = "issuer_without_identities"
    API_KEY_USED = "api_key_used"
    PLACEHOLDER_USED = "placeholder_used"
    PASSWORD_USED = "password_used"  # noqa: S105 -- the name of a cause, not a secret
    REFRESH_TOKEN_USED = "refresh_token_used"  # noqa: S105 -- the name of a cause, not a secret
    CREDENTIALS_MALFORMED = "credentials_malformed"
    ID_TOKEN_USED = "id_token_used"  # noqa: S105 -- the name of a cause, not a secret
    ISSUER_UNKNOWN = "issuer_unknown"
    ISSUER_ALMOST_CONFIGURED = "issuer_almost_configured"
    AUDIENCE_MISMATCH = "audience_mismatch"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 -- the name of a cause, not a secret
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"  # noqa: S105 -- the name of a cause, not a secret
    TOKEN_ISSUED_IN_FUTURE = "token_issued_in_future"  # noqa: S105 -- the name of a cause, not a secret
    CLOCK_SKEW = "clock_skew"
    TOKEN_LIFETIME_TOO_LONG = "token_lifetime_too_long"  # noqa: S105 -- the name of a cause, not a secret
    TOKEN_MALFORMED = "token_malformed"  # noqa: S105 -- the name of a cause, not a secret
    ALGORITHM_NOT_ALLOWED = "algorithm_not_allowed"
    KEY_UNKNOWN = "key_unknown"
    KEY_ROTATED_OUT = "key_rotated_out"
    KEYS_UNAVAILABLE = "keys_unavailable"
    SIGNATURE_INVALID = "signature_invalid"
    CLAIM_MISSING = "claim_missing"
    CLAIM_NOT_ACCEPTED = "claim_not_accepted"
    TOKEN_INACTIVE = "token_inactive"  # noqa: S105 -- the name of a cause, not a secret
    INTROSPECTION_UNAVAILABLE = "introspection_unavailable"
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 -- the name of a cause, not a secret
    USER_TOKENS_REVOKED = "user_tokens_revoked"
    ISSUER_TOKENS_REVOKED = "issuer_tokens_revoked"
    CACHE_STALE = "cache_stale"
    NEGATIVE_CACHE_ENTRY = "negative_cache_entry"
    REPLICA_LAG = "replica_lag"
    STORE_UNREACHABLE = "store_unreachable"
    STORE_NOT_MIGRATED = "store_not_migrated"
    STORE_HOST_UNKNOWN = "store_host_unknown"
    STORE_LOGIN_REFUSED = "store_login_refused"
    STORE_DATABASE_MISSING = "store_database_missing"
    STORE_CONNECTION_LIMIT = "store_connection_limit"
    STORE_TLS_REFUSED = "store_tls_refused"
    STORE_READ_ONLY = "store_read_only"
    STORE_WITHOUT_ISSUER = "store_without_issuer"
    STORE_SCHEMA_DIFFERS = "store_schema_differs"
    STORE_COLUMN_DIFFERS = "store_column_differs"
    STORE_ROW_SECURITY = "store_row_security"
    STORE_PERMISSION_DENIED = "store_permission_denied"
    CHANGES_UNREPORTED = "changes_unreported"
    TENANT_MISMATCH = "tenant_mismatch"
    IDENTITY_LINKED_TO_OTHER_TENANT = "identity_linked_to_other_tenant"
    ACCOUNT_RECREATED = "account_recreated"
    SCOPE_INSUFFICIENT = "scope_insufficient"
    ROLE_MISSING = "role_missing"
    CONDITION_NOT_MET = "condition_not_met"
    CONDITION_FAILED = "condition_failed"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    CONCURRENCY_EXCEEDED = "concurrency_exceeded"
    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_MALFORMED = "request_malformed"


@dataclass(frozen=True, slots=True)
class Step:
    """One check and its result."""

    name: str
    outcome: Outcome
    expected: str | None = None
    found: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Fix:
    """What to do about a cause."""

    text: str
    command: str | None = None
    """A shell command; values from a token are quoted."""
    config: str | None = None
    """A line for the configuration, with the path of its field."""
    change: Change | None = None
    """The same as the command, where it changes our data: it can be applied."""

    def to_json(self) -> dict[str, JSON]:
        """Return the fix as it is in the JSON of an explanation."""
        change = None if self.change is None else self.change.to_json()
        return {"text": self.text, "command": self.command, "config": self.config, "change": change}


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that was found."""

    cause: Cause | None
    """None if the reason itself says everything."""
    summary: str
    fix: Fix | None = None
    reason: Reason | None = None
    """The pipeline's denial for it; None if the request is still admitted."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """How the gateway decides on a request with this token, why, and what to do."""

    decision: Literal["allow", "deny"]
    reason: str | None
    """The code of the pipeline's reason (`gateway.core.reasons`); None if it admits the request."""
    cause: str | None
    """The code of a `Cause`. An admitted request may have one, too: then there is a problem to fix."""
    summary: str
    fix: Fix | None
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, JSON]:
        """Return the explanation as the JSON of `gateway explain --json` and `POST /v1/explain`."""
        return {
            "decision": self.decision,
            "reason": self.reason,
            "cause": self.cause,
            "summary": self.summary,
            "fix": None if self.fix is None else self.fix.to_json(),
            "steps": [asdict(step) for step in self.steps],
        }
