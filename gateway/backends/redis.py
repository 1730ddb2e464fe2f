"""Redis, the shared tier: cached users and the blacklist, read in one round trip per request.

A cached user is a JSON document that says when Postgres was asked and for which `iss`; one that
cannot be read, or that is another issuer's, is no entry. The blacklist counts whoever wrote it: any
value revokes a `jti`, a Unix time revokes what was issued until then, and a value that is no time
revokes everything. It mirrors Postgres and is complete only while its marker is there, which no
Redis has that came back empty. Gateways that share a prefix share their list of issuers, and
Redis must not evict keys (`maxmemory-policy noeviction`).
"""

import math
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
import redis.asyncio as aioredis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.backends.availability import Availability
from gateway.backends.reads import BatchedReads
from gateway.backends.revocations import Revocation, Revocations
from gateway.core.model import JSON, Claims, StoreUnavailable, Tier, User, UserStatus

_FORMAT: Final = 1
"""The version of the cached document; another one is no entry."""
_MAX_CONNECTIONS: Final = 64
_BATCH: Final = 500
_MIRROR_TIME: Final = 300.0
"""Seconds that filling the blacklist may take, all batches together."""

# A revocation only grows: the later instant and the later expiry win, whoever wrote them. A value
# that is no time already revokes everything, and stays.
# A key of another type than string is none, and makes room. Who copies from Postgres says which
# lifting was the last when it began to read (ARGV[1]): what it read may have been lifted since.
_REVOKE: Final = """
if ARGV[1] ~= '*' and (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
for i = 2, #KEYS do
    local key, at, ttl = KEYS[i], ARGV[2 * i - 2], tonumber(ARGV[2 * i - 1])
    local held = redis.call('TYPE', key)['ok'] == 'string' and redis.call('GET', key)
    if held then
        local held_ttl = redis.call('PTTL', key)
        if held_ttl == -1 or ttl == -1 then ttl = -1 else ttl = math.max(ttl, held_ttl) end
        local held_at = tonumber(held)
        if not held_at or not (held_at <= tonumber(at)) then at = held end
    end
    if ttl == -1 then redis.call('SET', key, at) else redis.call('SET', key, at, 'PX', ttl) end
end
return 1
"""

_LIFT: Final = """
redis.call('SET', KEYS[1], ARGV[1])
local lifted = 0
for i = 2, #KEYS do lifted = lifted + redis.call('DEL', KEYS[i]) end
return lifted
"""

# Emptied while it was being filled, the blacklist is not complete: its first key is gone too.
_COMPLETE: Final = """
if redis.call('DEL', KEYS[2]) == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CachedUser:
    """A user and the instant, in Unix seconds, at which Postgres said so."""

    user: User
    stored_at: float


@dataclass(frozen=True, slots=True)
class SharedAnswer:
    """What Redis holds about one token."""

    cached: CachedUser | None
    revocations: Revocations
    complete: bool
    """False: the blacklist has not been filled from Postgres, and its silence proves nothing."""


@dataclass(frozen=True, slots=True)
class Filling:
    """A filling of the blacklist that has begun."""

    loading: str
    """A key that is there until it is complete, unless Redis has been emptied."""
    lifted: bytes
    """Names the last lifting before it."""


class Redis:
    """A bounded pool of connections that opens when first needed and recovers by itself.

    `timeout` and `connect_timeout` are seconds. Every method raises `StoreUnavailable` when Redis
    does not answer. Raises ValueError when the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "gateway:",
        timeout: float = 0.25,
        connect_timeout: float = 1.0,
        availability: Availability | None = None,
    ) -> None:
        self.address = _address_of(url)
        """Host and port, for messages."""
        self._prefix = prefix
        self._marker = f"{prefix}revocations:loaded"
        self._lifted = f"{prefix}revocations:lifted"
        self.availability = availability or Availability()
        """As reads and pings find it; what a write is refused for says little of them."""
        self._warned = False
        try:
            pool = aioredis.BlockingConnectionPool.from_url(
                url,
                max_connections=_MAX_CONNECTIONS,
                # Waiting for a connection means that this process is busy, not that Redis is down.
                timeout=4 * timeout,
                # A request waits for `timeout` only (see BatchedReads); this bounds what nobody waits for.
                socket_timeout=4 * timeout,
                socket_connect_timeout=connect_timeout,
                # A connection that was closed is replaced when it is taken; for the rest there is Postgres.
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
            # A parameter that is none shows only when a connection is made.
            pool.connection_class(**pool.connection_kwargs)
        except (TypeError, ValueError):
            # Without a cause, which would show the URL and the password in it.
            raise ValueError("the Redis URL cannot be read") from None
        self._redis: aioredis.Redis = aioredis.Redis(connection_pool=pool)
        self._reads = BatchedReads(self._fetch, timeout, self.address, self.availability)

    async def read(self, claims: Claims, user_id: str | None) -> SharedAnswer:
        """Read user, revocations and marker in one round trip.

        `user_id` is a guess of who is behind the token, or None; with a wrong one, ask
        `user_revoked_at` for the right one.
        """
        name = claims.issuer_name
        keys = [self._marker, self._user_key(name, claims.subject), f"{self._prefix}revoked:issuer:{name}"]
        if user_id is not None:
            keys.append(self._user_revocation_key(user_id))
        if claims.jti is not None:
            keys.append(f"{self._prefix}revoked:jti:{name}:{claims.jti}")
        values = await self._reads.get(keys)
        marker, document, issuer_at, *rest = values
        user_at = rest.pop(0) if user_id is not None else None
        return SharedAnswer(
            cached=None if document is None else _decode(document, claims.issuer),
            revocations=Revocations(
                token=bool(rest) and rest[0] is not None,
                user_at=self._instant(user_at),
                issuer_at=self._instant(issuer_at),
            ),
            complete=marker is not None,
        )

    async def user_revoked_at(self, user_id: str) -> float | None:
        """Return the instant until which a user's tokens are revoked, if they are."""
        (value,) = await self._reads.get([self._user_revocation_key(user_id)])
        return self._instant(value)

    async def _fetch(self, keys: list[str]) -> list[bytes | None]:
        with self._translated():
            return cast("list[bytes | None]", await self._redis.mget(keys))  # bytes: nothing is decoded

    async def store_user(self, claims: Claims, cached: CachedUser, ttl: float) -> None:
        """Remember a user for `ttl` seconds."""
        key = self._user_key(claims.issuer_name, claims.subject)
        with self._translated():
            await self._redis.set(key, _encode(cached, claims.issuer), px=max(1, round(ttl * 1000)))

    async def forget_users(self, identities: Iterable[tuple[str, str]]) -> None:
        """Drop cached users, each given as (issuer name, subject)."""
        keys = [self._user_key(name, subject) for name, subject in identities]
        if keys:
            with self._translated():
                await self._redis.delete(*keys)

    async def revoke(self, revocations: Sequence[Revocation]) -> None:
        """Put revocations on the blacklist; their `issuer` is the configured name.

        What is there already is only ever extended.
        """
        await self._revoke(revocations, b"*")

    async def lift(self, revocations: Sequence[Revocation]) -> int:
        """Take revocations off the blacklist; returns how many were on it.

        A filling that is under way, and may have read them before, fails.
        """
        keys = [self._revocation_key(revocation) for revocation in revocations]
        with self._translated():
            lifted = await self._redis.eval(_LIFT, 1 + len(keys), self._lifted, *keys, str(uuid4()))
        return int(lifted)

    async def begin_mirror(self) -> Filling:
        """Begin to fill the blacklist; the revocations are to be read after this."""
        loading = f"{self._prefix}revocations:loading:{uuid4()}"
        with self._translated():
            await self._redis.set(loading, b"1", px=round(_MIRROR_TIME * 1000))
            lifted = cast("bytes | None", await self._redis.get(self._lifted))  # bytes: nothing is decoded
        return Filling(loading, lifted or b"")

    async def mirror(self, revocations: Sequence[Revocation], filling: Filling) -> None:
        """Fill the blacklist with all revocations there are, and mark it as complete."""
        if not await self._revoke(revocations, filling.lifted):
            raise StoreUnavailable(
                Tier.REDIS, f"{self.address}: a revocation was lifted while they were loaded"
            )
        with self._translated():
            done = await self._redis.eval(_COMPLETE, 2, self._marker, filling.loading, repr(time.time()))
        if done != 1:
            raise StoreUnavailable(Tier.REDIS, f"{self.address}: was emptied while revocations were loaded")

    async def _revoke(self, revocations: Sequence[Revocation], lifted: bytes) -> bool:
        """Write revocations, and tell whether the last lifting is still `lifted`; `*` stands for any."""
        with self._translated():
            now = time.time()
            for start in range(0, len(revocations), _BATCH):
                keys: list[str] = []
                arguments: list[str] = []
                for revocation in revocations[start : start + _BATCH]:
                    ttl = _ttl_ms(revocation, now)
                    if ttl != 0:
                        keys.append(self._revocation_key(revocation))
                        arguments += [repr(revocation.revoked_at), str(ttl)]
                if keys and not await self._redis.eval(
                    _REVOKE, 1 + len(keys), self._lifted, *keys, lifted, *arguments
                ):
                    return False
        return True

    async def ping(self) -> None:
        """Find out whether Redis answers."""
        try:
            with self._translated():
                await self._redis.ping()
        except StoreUnavailable as error:
            self.availability.failed(error.detail)
            raise
        self.availability.answered()

    async def close(self) -> None:
        """Close all connections."""
        await self._reads.close()
        with self._translated():
            await self._redis.aclose(close_connection_pool=True)

    def _user_key(self, issuer_name: str, subject: str) -> str:
        # Unambiguous, whatever is in the subject: the name of an issuer has no colon.
        return f"{self._prefix}user:{issuer_name}:{subject}"

    def _user_revocation_key(self, user_id: str) -> str:
        return f"{self._prefix}revoked:user:{user_id}"

    def _revocation_key(self, revocation: Revocation) -> str:
        match revocation.kind:
            case "jti":
                return f"{self._prefix}revoked:jti:{revocation.issuer}:{revocation.value}"
            case "user":
                return self._user_revocation_key(revocation.value)
            case "issuer":
                return f"{self._prefix}revoked:issuer:{revocation.issuer}"

    def _instant(self, value: bytes | None) -> float | None:
        """Read a revocation's Unix time; what is no time revokes everything."""
        if value is None:
            return None
        try:
            instant = float(value)
        except ValueError:
            instant = math.nan
        if not math.isnan(instant):
            return instant
        if not self._warned:
            self._warned = True
            log.warning("revocation_is_no_unix_time", effect="all tokens that it covers are refused")
        return math.inf

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (TimeoutError, RedisTimeoutError) as error:
            raise StoreUnavailable(Tier.REDIS, f"{self.address}: no answer in time") from error
        except RedisConnectionError as error:
            raise StoreUnavailable(Tier.REDIS, f"{self.address}: {_words(error)}") from error
        except RedisError as error:
            raise StoreUnavailable(Tier.REDIS, f"{self.address}: refuses the command: {error}") from error
        except (OSError, ValueError, TypeError) as error:
            raise StoreUnavailable(Tier.REDIS, f"{self.address}: cannot be asked") from error


def _words(error: RedisConnectionError) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        # An event loop's own text names the address again; with several addresses, it has no number.
        number = cause.errno or next(iter(map(int, re.findall(r"\[Errno (\d+)\]", str(cause)))), None)
        if number is not None and not isinstance(cause, socket.gaierror):
            return os.strerror(number)
        return cause.strerror or "cannot connect"
    return str(error) or "the connection was lost"


def _address_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "the configured URL"
    if "@" in url and "@" not in parts.netloc:
        # An unescaped character in the password: what looks like the host may be part of it.
        return "the configured URL"
    if parts.scheme == "unix":
        return parts.path
    return f"{host or 'localhost'}:{port or 6379}"


def _ttl_ms(revocation: Revocation, now: float) -> int:
    """Return the milliseconds for which a revocation still counts, -1 for ever, 0 not any more."""
    if revocation.expires_at is None or math.isinf(revocation.expires_at):
        return -1
    return max(0, math.ceil((revocation.expires_at - now) * 1000))


def _encode(cached: CachedUser, iss: str) -> bytes:
    user = cached.user
    return orjson.dumps(
        {
            "version": _FORMAT,
            "iss": iss,
            "stored_at": cached.stored_at,
            "id": user.id,
            "status": user.status.value,
            "tenant": user.tenant,
            "email": user.email,
            "display_name": user.display_name,
            "roles": list(user.roles),
            "attributes": dict(user.attributes),
            # An infinite instant has no number in JSON.
            "tokens_valid_after": None if user.tokens_valid_after is None else repr(user.tokens_valid_after),
        }
    )


def _decode(document: bytes, iss: str) -> CachedUser | None:
    """Read a cached user; None when it is of another format or for another issuer's tokens."""
    try:
        fields = orjson.loads(document)
        if fields["version"] != _FORMAT or fields["iss"] != iss:
            return None
        after: JSON = fields["tokens_valid_after"]
        user = User(
            id=_text(fields["id"]),
            status=UserStatus(fields["status"]),
            tenant=_text_or_none(fields["tenant"]),
            email=_text_or_none(fields["email"]),
            display_name=_text_or_none(fields["display_name"]),
            roles=tuple(_text(role) for role in fields["roles"]),
            attributes=dict(fields["attributes"]),
            tokens_valid_after=None if after is None else float(_text(after)),
        )
        return CachedUser(user, float(fields["stored_at"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _text(value: JSON) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _text_or_none(value: JSON) -> str | None:
    return None if value is None else _text(value)
