"""Scripts of cached users, their epoch, and the heartbeat of their changes."""

from typing import Final

from gateway.stores.redis.scripts.common import CHECK_MARKER, OWNED

TOMBSTONE_MILLISECONDS: Final = 300_000
"""The time for which rows older than a change cannot be stored. No reader takes as long as that."""

# KEYS: epoch, ended, then tombstone and user of each answer. ARGV: for each answer the reader's epoch, its
# horizon, document, milliseconds. Returns for each whether it was stored: 1 or 0. A tombstone that is no
# number, or no string, is above every horizon. Where another state of the user is replaced, no notification
# may ever name the change: one process looks for it, and finds the new state alone. So a tombstone tells all
# workers whose memory has the state before. Rows that were read before this one are refused.
FILL: Final = f"""
{OWNED}
local function state(document)
    return type(document) == 'string' and string.match(document, '"user":.*') or ''
end
local epoch = redis.call('GET', KEYS[1])
epoch = epoch and string.match(epoch, '^%S+') or ''
local ended = redis.call('GET', KEYS[2])
local function reaches(version, horizon)
    return version and (tonumber(version) or math.huge) >= horizon
end
local stored = {{}}
for i = 3, #KEYS, 2 do
    local first = 2 * i - 5
    local horizon = tonumber(ARGV[first + 1])
    if epoch == ARGV[first] and not reaches(ended, horizon)
        and not reaches(redis.pcall('GET', KEYS[i]), horizon)
    then
        local held = state(redis.pcall('GET', KEYS[i + 1]))
        if held ~= '' and held ~= state(ARGV[first + 2]) then
            redis.call('SET', KEYS[i], string.format('%.0f', horizon - 1), 'PX', {TOMBSTONE_MILLISECONDS})
        end
        redis.call('SET', KEYS[i + 1], ARGV[first + 2], 'PX', ARGV[first + 3])
        stored[#stored + 1] = 1
    else
        stored[#stored + 1] = 0
    end
end
return stored
"""

# KEYS: tombstone and user of each identity. ARGV: version, milliseconds. A later transaction may be reported
# first. Then its tombstone must outlive that of the earlier one: while the earlier one ran, no horizon was
# above it, so every cached row has seen both.
BURY: Final = f"""
{OWNED}
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

# KEYS: the keys to delete.
FORGET: Final = f"{OWNED}return redis.call('DEL', unpack(KEYS))"

# KEYS: the heartbeat of a tracking connection. ARGV: milliseconds. It deletes first, for a full Redis.
BEAT: Final = f"""
{OWNED}redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
"""

# An epoch is `<name> <run of the server> <heartbeat>`. It ends with the run in which it began.

# KEYS: marker of the blacklist, epoch, ended. ARGV: name, heartbeat, lifetime, version, milliseconds.
BEGIN_EPOCH: Final = f"""
{CHECK_MARKER}
local held = redis.call('GET', KEYS[2])
if held and string.match(held, '^%S+ (%S+) %S+$') == run then return held end
local epoch = ARGV[1] .. ' ' .. run .. ' ' .. ARGV[2]
redis.call('SET', KEYS[2], epoch, 'PX', ARGV[3])
local ended = tonumber(redis.call('GET', KEYS[3]) or 0)
if tonumber(ARGV[4]) > ended then redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5]) end
return epoch
"""

# KEYS: marker of the blacklist, epoch. ARGV: name, heartbeat, lifetime.
KEEP_EPOCH: Final = f"""
{CHECK_MARKER}
local held = redis.call('GET', KEYS[2])
if not held then return 0 end
local name, began_in = string.match(held, '^(%S+) (%S+) %S+$')
if name ~= ARGV[1] then return 0 end
if began_in ~= run then
    redis.call('DEL', KEYS[2])
    return 0
end
redis.call('SET', KEYS[2], name .. ' ' .. run .. ' ' .. ARGV[2], 'PX', ARGV[3])
return 1
"""

# KEYS: epoch, ended. ARGV: version, milliseconds, name of the next epoch, lifetime.
# `ended` is a tombstone of all users, with the rules of tombstones.
END_EPOCH: Final = f"""
{OWNED}
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
