"""All keys in Redis. No other module builds or parses a key.

| key, after the configured prefix | value |
|---|---|
| `owner` | the owner of Redis (`ownership`) |
| `owner:places` | digests of the addresses under which gateways have reached it |
| `epoch` | the current epoch: its name, the run of the server, the latest heartbeat |
| `epoch:ended` | the version at which the latest epoch was ended |
| `user:<realm>:<sub>` | a cached user, as JSON (`user_documents`) |
| `tombstone:<realm>:<sub>` | the version of the latest change of that user |
| `tombstone::<id>` | a heartbeat: the realm is empty, so it is not a user's key |
| `revoked:jti:<realm>:<jti>` | any value: that token is revoked |
| `revoked:user:<user id>`, `revoked:issuer:<realm>` | a Unix time: tokens issued by then are revoked |
| `revocations:loaded` | the marker of a complete blacklist |
| `revocations:records`, `:fillings`, `:filled`, `:era`, `:loading:<id>` | records of the blacklist |
| `revocations:turn` | a lock: one process fills the blacklist for all that receive no changes |
| `limit:<limit>:<period>:<digest>` | a budget of a limit (`scripts.limits`); the digest is the subject's |
| `limits:era` | the name of the time since which Redis has lost no budget |
| `limits:workers` | the workers that share the budgets, by their latest heartbeat |
| `limits:last:<worker>` | the latest command of a worker, which is never run twice |
| `check:<id>` | a test key of `gateway check --live`; no gateway reads it |

A realm is the configured name of an issuer. For a pattern with `{tenant}` it is `<issuer name>/<tenant>`, and
revocations under the name alone count for all tenants (`tokens.issuer_patterns`). A realm has no colon; a
subject, a `jti` and the id of a user may have one. So each key is unambiguous.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gateway.core.revocations import Target

Touched: TypeAlias = tuple[Literal["tombstone"], str, str] | Target
"""The meaning of a key: a change of a user, by realm and subject; or a revocation."""

_GLOB: Final = re.compile(r"([*?\[\]\\])")


@dataclass(frozen=True, slots=True)
class Tracked:
    """Keys whose changes Redis reports, including heartbeats."""

    prefixes: tuple[str, ...]
    """Their prefixes."""
    heartbeats: str
    """The prefix of the heartbeats."""

    def heartbeat(self, name: str) -> str:
        return self.heartbeats + name

    def is_heartbeat(self, key: str) -> bool:
        return key.startswith(self.heartbeats)


class Keys:
    """The keys with one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.owner = f"{prefix}owner"
        self.places = f"{prefix}owner:places"
        self.epoch = f"{prefix}epoch"
        self.ended_epoch = f"{prefix}epoch:ended"
        self.complete = f"{prefix}revocations:loaded"
        self.records = f"{prefix}revocations:records"
        self.fillings = f"{prefix}revocations:fillings"
        self.filled = f"{prefix}revocations:filled"
        self.era = f"{prefix}revocations:era"
        self.turn = f"{prefix}revocations:turn"
        self._user = f"{prefix}user:"
        self._tombstone = f"{prefix}tombstone:"
        self._revoked = f"{prefix}revoked:"
        self._revoked_token = f"{prefix}revoked:jti:"
        self._revoked_user = f"{prefix}revoked:user:"
        self._revoked_issuer = f"{prefix}revoked:issuer:"
        self.limits_era = f"{prefix}limits:era"
        self.limits_workers = f"{prefix}limits:workers"
        self._limits_last = f"{prefix}limits:last:"
        self._limit = f"{prefix}limit:"
        self._check = f"{prefix}check:"
        self.tracked = Tracked((self._tombstone, self._revoked), f"{self._tombstone}:")
        """The keys whose changes memory must receive."""
        self.checks = Tracked((self._check,), f"{self._check}:")
        """The keys that `gateway check --live` tracks."""

    def user(self, realm: str, subject: str) -> str:
        return f"{self._user}{realm}:{subject}"

    def user_in(self, key: str) -> tuple[str, str]:
        """Return the realm and the subject of a cached user's key."""
        name, _, subject = key.removeprefix(self._user).partition(":")
        return name, subject

    def tombstone(self, realm: str, subject: str) -> str:
        return f"{self._tombstone}{realm}:{subject}"

    def revoked_token(self, realm: str, jti: str) -> str:
        return f"{self._revoked_token}{realm}:{jti}"

    def revoked_user(self, user_id: str) -> str:
        return self._revoked_user + user_id

    def revoked_issuer(self, realm: str) -> str:
        return self._revoked_issuer + realm

    def revoked(self, target: Target) -> str:
        """Return the key of a revocation. Its issuer is the realm."""
        kind, realm, value = target
        match kind:
            case "jti":
                return self.revoked_token(realm, value)
            case "user":
                return self.revoked_user(value)
            case "issuer":
                return self.revoked_issuer(realm)

    def budget(self, limit: str, period: str, digest: str) -> str:
        return f"{self._limit}{limit}:{period}:{digest}"

    def last_command(self, worker: str) -> str:
        return self._limits_last + worker

    def loading(self, name: str) -> str:
        return f"{self.prefix}revocations:loading:{name}"

    def check(self, name: str) -> str:
        return self._check + name

    def patterns_of_users(self) -> tuple[str, str]:
        """Return the patterns (as of SCAN) of all cached users and of all tombstones."""
        return self._pattern(self._user), self._pattern(self._tombstone)

    def read(self, key: str) -> Touched | None:
        """Return the meaning of a tracked key; None if it has none."""
        if key.startswith(self._tombstone):
            realm, _, subject = key.removeprefix(self._tombstone).partition(":")
            return "tombstone", realm, subject
        if key.startswith(self._revoked_token):
            realm, _, jti = key.removeprefix(self._revoked_token).partition(":")
            return "jti", realm, jti
        if key.startswith(self._revoked_user):
            return "user", "", key.removeprefix(self._revoked_user)
        if key.startswith(self._revoked_issuer):
            return "issuer", key.removeprefix(self._revoked_issuer), ""
        return None

    @staticmethod
    def _pattern(prefix: str) -> str:
        return _GLOB.sub(r"\\\1", prefix) + "*"
