"""The changes in Redis that must be one step, in Lua: nothing happens between their lines.

Versions are Postgres's transaction ids; Lua's numbers hold them exactly up to 2^53. A script that must
succeed in a full Redis deletes before it sets: Redis refuses memory to scripts that have written nothing.
"""

from typing import Final

# The id of this run of the server. One that restarted, or took over from another, has a new one; and
# what the last run wrote at its end may be lost. Unknown where INFO is forbidden.
_RUN: Final = """
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '-'
"""

# A revocation only grows: the later instant and the later expiry win, whoever wrote them. A value
# that is no time already revokes everything, and stays.
# A key of another type than string is none, and makes room. Who copies from Postgres says which
# lifting was the last when it began to read (ARGV[1]): what it read may have been lifted since.
REVOKE: Final = """
if ARGV[1] ~= '*' and (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
for i = 2, #KEYS do
    local key, at, ttl = KEYS[i], ARGV[2 * i - 2], tonumber(ARGV[2 * i - 1])
    local held = redis.call('TYPE', key)['ok'] == 'string' and redis.call('GET', key)
    local held_ttl = held and redis.call('PTTL', key)
    if held then
        if held_ttl == -1 or ttl == -1 then ttl = -1 else ttl = math.max(ttl, held_ttl) end
        local held_at = tonumber(held)
        if not held_at or not (held_at <= tonumber(at)) then at = held end
    end
    -- What is the same already, or but for moments, is not written: every write is news to all workers.
    if at ~= held or (ttl ~= held_ttl and (ttl == -1 or ttl - held_ttl > 100)) then
        if ttl == -1 then redis.call('SET', key, at) else redis.call('SET', key, at, 'PX', ttl) end
    end
end
return 1
"""

LIFT: Final = """
redis.call('SET', KEYS[1], ARGV[1])
local lifted = 0
for i = 2, #KEYS do lifted = lifted + redis.call('DEL', KEYS[i]) end
return lifted
"""

# Emptied while it was being filled, the blacklist is not complete: its first key is gone too.
COMPLETE: Final = f"""
{_RUN}
if redis.call('DEL', KEYS[2]) == 0 then return 0 end
redis.call('SET', KEYS[1], run)
return 1
"""

# KEYS: epoch, ended, tombstone, user. ARGV: the reader's epoch, its horizon, document, milliseconds.
FILL: Final = """
local epoch = redis.call('GET', KEYS[1])
if (epoch and string.match(epoch, '^%S+') or '') ~= ARGV[1] then return 0 end
for i = 2, 3 do
    local version = redis.call('GET', KEYS[i])
    if version and (tonumber(version) or math.huge) >= tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[4])
return 1
"""

# KEYS: tombstone and user of each identity. ARGV: version, milliseconds.
# A later transaction may be heard of first, and its tombstone must then outlive the earlier one's: while
# that ran, no horizon was above it, so whatever is cached has seen both.
BURY: Final = """
local version = tonumber(ARGV[1])
for i = 1, #KEYS, 2 do
    local held = redis.pcall('GET', KEYS[i])
    held = type(held) == 'string' and tonumber(held)
    if not held or held < version then
        redis.call('DEL', KEYS[i + 1])
        redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[2])
    elseif held > version then
        redis.call('PEXPIRE', KEYS[i], ARGV[2])
    end
end
"""

# An epoch is `<name> <run of the server> <heartbeat>`. It ends with the run that it began in, and the
# blacklist that was filled in another run is not complete.

# KEYS: epoch, marker of the blacklist, ended. ARGV: name, heartbeat, lease, version, milliseconds.
BEGIN_EPOCH: Final = f"""
{_RUN}
local held = redis.call('GET', KEYS[1])
if held and string.match(held, '^%S+ (%S+) %S+$') == run then return held end
local marker = redis.call('GET', KEYS[2])
if marker and marker ~= run then redis.call('DEL', KEYS[2]) end
local epoch = ARGV[1] .. ' ' .. run .. ' ' .. ARGV[2]
redis.call('SET', KEYS[1], epoch, 'PX', ARGV[3])
local ended = tonumber(redis.call('GET', KEYS[3]) or 0)
if tonumber(ARGV[4]) > ended then redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5]) end
return epoch
"""

# KEYS: epoch, marker of the blacklist. ARGV: name, heartbeat, lease.
KEEP_EPOCH: Final = f"""
{_RUN}
local marker = redis.call('GET', KEYS[2])
if marker and marker ~= run then redis.call('DEL', KEYS[2]) end
local held = redis.call('GET', KEYS[1])
if not held then return 0 end
local name, began_in = string.match(held, '^(%S+) (%S+) %S+$')
if name ~= ARGV[1] then return 0 end
if began_in ~= run then
    redis.call('DEL', KEYS[1])
    return 0
end
redis.call('SET', KEYS[1], name .. ' ' .. run .. ' ' .. ARGV[2], 'PX', ARGV[3])
return 1
"""

# KEYS: epoch, ended. ARGV: version, milliseconds, name of the next epoch, lease.
# `ended` is a tombstone of everybody, and what is said of those holds for it.
END_EPOCH: Final = """
local ended = tonumber(redis.call('GET', KEYS[2]) or -1)
local version = tonumber(ARGV[1])
if ended >= version then
    if ended > version then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
    return 0
end
local held = redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
local rest = held and string.match(held, '^%S+( %S+ %S+)$')
if rest then redis.call('SET', KEYS[1], ARGV[3] .. rest, 'PX', ARGV[4]) end
return 1
"""
