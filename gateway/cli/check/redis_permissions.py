"""The version, policy and permissions of a Redis: for `gateway check --live`, never for a request.

Keys are written only below `<prefix>check:`, which no gateway reads, and never to another database's Redis.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import orjson
from redis.exceptions import ResponseError

from gateway.core.model import StoreUnavailable, Tier
from gateway.core.text import json_text
from gateway.stores.redis.errors import in_words, translated
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.topology import server_at

_FOREIGN: Final = b"foreign"

# Scripts run with the permissions of their caller (Redis ACL). KEYS: a temporary key, the owner's key.
# ARGV: how this database's owner value begins, or an empty text; for `_TRY`, `limits` if there are limits.
# Nothing is written to another's Redis.
_OURS: Final = """
local held = redis.pcall('GET', KEYS[2])
if type(held) == 'table' and string.find(held.err, 'NOPERM', 1, true) then
    return cjson.encode({{'GET', held.err}})
end
if held and (type(held) == 'table' or ARGV[1] == '' or string.sub(held, 1, #ARGV[1]) ~= ARGV[1]) then
    return 'foreign'
end
"""
_TRY: Final = (
    _OURS
    + """
local refused = {}
local function try_all(tries)
    for _, try in ipairs(tries) do
        local answer = redis.pcall(unpack(try))
        if type(answer) == 'table' and answer.err then
            refused[#refused + 1] = {try[1], answer.err}
        end
    end
    redis.pcall('DEL', KEYS[1])
end
try_all({
    {'SET', KEYS[1], '1', 'PX', '1000'}, {'GET', KEYS[1]}, {'MGET', KEYS[1]}, {'INCR', KEYS[1]},
    {'EXISTS', KEYS[1]}, {'PTTL', KEYS[1]}, {'PEXPIRE', KEYS[1], '1000'}, {'TYPE', KEYS[1]}, {'DEL', KEYS[1]},
    {'HSET', KEYS[1], 'field', '1'}, {'HGET', KEYS[1], 'field'}, {'HSCAN', KEYS[1], '0'},
    {'HDEL', KEYS[1], 'field'}, {'TIME'}, {'INFO', 'server'}
})
if ARGV[2] == 'limits' then
    try_all({
        {'ZADD', KEYS[1], '1', 'member'}, {'ZRANGE', KEYS[1], '0', '-1'},
        {'PEXPIREAT', KEYS[1], '9999999999999'}, {'ZREM', KEYS[1], 'member'},
        {'ZREMRANGEBYSCORE', KEYS[1], '-inf', '1'}
    })
end
return cjson.encode(refused)
"""
)
# ARGV: as above; the milliseconds after which the key expires.
_TOUCH: Final = _OURS + "return redis.call('SET', KEYS[1], '1', 'PX', ARGV[2])"
_STAYS_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of an inspection."""

    address: str
    version: str
    policy: str
    """Its `maxmemory-policy`; `unknown` where INFO is not allowed."""
    limited: bool
    """Whether it has a `maxmemory` at all."""
    refused: dict[str, str]
    """The commands that a gateway needs and that fail for this user, each with Redis's error."""
    foreign: bool = False
    """Whether it belongs to another database, as far as is known. Then no command that writes was tried."""

    @property
    def major(self) -> int:
        """The major version; a large number if the version is not known."""
        number = self.version.partition(".")[0]
        return int(number) if number.isdecimal() else 1000

    @property
    def evicts(self) -> bool:
        """Whether Redis may evict keys before they expire."""
        return self.limited and self.policy not in {"noeviction", "unknown"}


async def inspect(
    url: str,
    prefix: str,
    *,
    connect_timeout: float,
    tls_strict: bool = False,
    mark: bytes = b"",
    limits: bool = False,
) -> Inspection:
    """Try each command that a gateway uses, on a temporary key; with `limits`, also those of its limits.

    `mark` is how the value of the owner's key begins if Redis is this database's (`ownership`). With an empty
    `mark`, only a Redis without an owner is written to.
    Raises `StoreUnavailable` when Redis cannot be reached. `connect_timeout` limits connecting and
    each answer, in seconds.
    """
    keys = Keys(prefix)
    server = server_at(url, prefix, strict=tls_strict)
    connection = server.connection(
        protocol=3, socket_timeout=connect_timeout, socket_connect_timeout=connect_timeout
    )
    refused: dict[str, str] = {}

    foreign = False

    async def ask(name: str, *words: str | bytes) -> object:
        try:
            await connection.send_command(*words, check_health=False)
            return await connection.read_response()
        except ResponseError as error:
            refused[name] = in_words(error)
            return None

    try:
        with translated(server.address):
            await connection.connect()  # type: ignore[no-untyped-call] # has no annotations
            info = _sections(await ask("INFO", "INFO"))
            answer = await ask(
                "EVAL",
                "EVAL",
                _TRY,
                "2",
                keys.check(uuid4().hex),
                keys.owner,
                mark,
                "limits" if limits else "",
            )
            foreign = answer == _FOREIGN
            if not foreign and isinstance(answer, bytes):
                json_text.check_depth(answer)
                refused |= dict(orjson.loads(answer) or ())
            await ask("CLIENT TRACKING", "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", *keys.checks.prefixes)
    finally:
        await connection.disconnect(nowait=True)
    return Inspection(
        server.address,
        info.get("redis_version", "of unknown version"),
        info.get("maxmemory_policy", "unknown"),
        info.get("maxmemory", "0") != "0",
        refused,
        foreign,
    )


class Touches:
    """Writes keys over its own connection, as another program would, so that a stream reports them.

    The arguments are as for `inspect`. Raises ValueError when the URL cannot be read.
    """

    def __init__(
        self, url: str, prefix: str, *, connect_timeout: float, tls_strict: bool = False, mark: bytes = b""
    ) -> None:
        self.tracked = Keys(prefix).checks
        """The keys that it may write."""
        self._server = server_at(url, prefix, strict=tls_strict)
        self._connection = self._server.connection(
            socket_timeout=connect_timeout, socket_connect_timeout=connect_timeout
        )
        self._owner = Keys(prefix).owner
        self._mark = mark
        self._touched: set[str] = set()

    async def touch(self, key: str) -> None:
        """Write a key. Raises `StoreUnavailable`, also when Redis now belongs to another database."""
        self._touched.add(key)
        done = await self._ask("EVAL", _TOUCH, "2", key, self._owner, self._mark, str(_STAYS_MS))
        if done != b"OK":
            raise StoreUnavailable(
                Tier.REDIS,
                f"{self._server.address}: it belongs to another database, or its owner cannot be read",
            )

    async def close(self) -> None:
        """Delete the keys, and close the connection."""
        try:
            if self._touched:
                with suppress(StoreUnavailable):
                    await self._ask("DEL", *self._touched)
        finally:
            await self._connection.disconnect(nowait=True)

    async def _ask(self, *words: str | bytes) -> object:
        with translated(self._server.address):
            await self._connection.connect()  # type: ignore[no-untyped-call] # has no annotations
            await self._connection.send_command(*words, check_health=False)
            return await self._connection.read_response()


def _sections(info: object) -> dict[str, str]:
    """Parse the answer of INFO."""
    text = info.decode(errors="replace") if isinstance(info, bytes) else ""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
