"""Scripts of the blacklist."""

from typing import Final

from gateway.stores.redis.scripts.common import CHECK_MARKER, EVICTED, OWNED, RUN

# Blacklist entries of rows in Postgres are on record, in a hash by the names of the keys: `<filling> <order>
# <ends> <value>`. `filling` is the number of the last fill that had begun when the row was last known to
# exist, `order` that of the last change received (0: none), `ends` when the key expires (milliseconds, -1:
# never). A lifted row stays on record for a while, with the value `-`, so that a late worker does not restore
# it.
_RECORDS: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function read(record)
    local filling, order, ends, value = string.match(record or '', '^(%d+) (%d+) (-?%d+) (%S+)$')
    filling, order, ends = tonumber(filling or -1), tonumber(order or 0), tonumber(ends or 0)
    return {filling = filling, order = order, ends = ends, value = value}
end

-- The value of a key and when it expires. A key of another type than string is none, and makes room.
local function held_by(key)
    local value = redis.call('TYPE', key)['ok'] == 'string' and redis.call('GET', key)
    if not value then return nil end
    local left = redis.call('PTTL', key)
    return value, left == -1 and -1 or now + left
end

-- How a value stands in a record, which has room for one word, and where `-` is taken.
local function word(value)
    if value ~= '-' and string.match(value, '^%S+$') then return value end
    return 'sha1:' .. redis.sha1hex(value)
end

-- Five seconds are no difference: clocks of several gateways set these times.
local function is_as_recorded(record, value, ends)
    if not value or record.value ~= word(value) then return false end
    if record.ends == -1 or ends == -1 then return record.ends == ends end
    return math.abs(record.ends - ends) <= 5000
end
"""

LIFTED_SINCE: Final = -1
"""A row that the fill has read was lifted."""
EMPTIED_SINCE: Final = -2
"""Redis has been emptied, or restored to an earlier state."""
OVERTAKEN: Final = -3
"""A fill that began later is complete, and may have removed rows that this one has read."""
LEARNT: Final = -1
"""In place of an order: the row was learnt from Redis."""

# KEYS: records, number of the last fill that began, of the last complete one, marker, then each row's key.
# ARGV: number of the caller's fill or an empty text, milliseconds for which a lifted row stays on record;
# then for each row the time, or `-` if it was lifted, milliseconds to live or -1, order or 0. A change is
# skipped if a later one has been applied. A revocation is only extended: the later time and the later
# expiry win, from any writer; a value that is not a time revokes everything, and stays. But a fill
# overwrites an entry that is only the row's and has not been touched since the fill began. Returns how many
# keys were deleted, and which keys were skipped, as their places from 0 on; or why the fill must be
# abandoned: LIFTED_SINCE, EMPTIED_SINCE or OVERTAKEN. A fill does not restore the key of a row that was
# learnt (LEARNT) if a client has deleted it: it is skipped, for its row goes, too.
CHANGE: Final = f"""
{OWNED}{_RECORDS}
local own = tonumber(ARGV[1])
local filling = tonumber(redis.call('GET', KEYS[2]) or 0)
local complete = tonumber(redis.call('GET', KEYS[3]) or 0)
if own and own > filling then return {EMPTIED_SINCE} end
if own and own < complete and complete <= filling then return {OVERTAKEN} end
local keeps_all = false
if own then
    {RUN}{EVICTED}
    keeps_all = run ~= '-' and evicted == '0' and redis.call('GET', KEYS[4]) == run
end
local deleted, gone = 0, {{}}
for i = 5, #KEYS do
    local key = KEYS[i]
    local at, ttl, order = ARGV[3 * i - 12], tonumber(ARGV[3 * i - 11]), tonumber(ARGV[3 * i - 10])
    local record = read(redis.call('HGET', KEYS[1], key))
    local touched = own and record.filling >= own
    local counts = record.value and (record.ends == -1 or record.ends > now)
    if order == {LEARNT} and keeps_all and counts and not held_by(key) then
        local entry = string.format('%.0f %.0f %.0f %s', filling, record.order, record.ends, record.value)
        redis.call('HSET', KEYS[1], key, entry)
        order = -math.huge
        gone[#gone + 1] = i - 5
    elseif order == {LEARNT} then order = 0 end
    if touched and record.value == '-' and order ~= -math.huge then return {LIFTED_SINCE} end
    if order == 0 or order > record.order then
        local ends = ttl == -1 and -1 or now + ttl
        if at == '-' then
            deleted = deleted + redis.call('DEL', key)
            ends = now + tonumber(ARGV[2])
        else
            local held, held_ends = held_by(key)
            local ours = not held or is_as_recorded(record, held, held_ends)
            local wanted, wanted_ends = at, ends
            if held and not (ours and own and not touched) then
                wanted_ends = (ends == -1 or held_ends == -1) and -1 or math.max(ends, held_ends)
                local held_at = tonumber(held)
                if not held_at or not (held_at <= tonumber(at)) then wanted = held end
            end
            -- What is the same, or but for moments, is not written: every write is news to all workers.
            if wanted ~= held or (wanted_ends == -1) ~= (held_ends == -1)
                or wanted_ends > held_ends + 100 or wanted_ends < held_ends - 5000
            then
                if wanted_ends == -1 then redis.call('SET', key, wanted)
                else redis.call('SET', key, wanted, 'PX', wanted_ends - now) end
            end
            if ours then at, ends = word(wanted), wanted_ends end
        end
        order = math.max(order, record.order)
        redis.call('HSET', KEYS[1], key, string.format('%.0f %.0f %.0f %s', filling, order, ends, at))
    end
end
return {{deleted, gone}}
"""

# Reads the era, or begins one. An era ends with the run of the server, and with FLUSHALL.
_ERA: Final = """
local function era_in(key, name)
    local era = redis.call('GET', key)
    if era and string.sub(era, 1, #run + 1) == run .. ' ' then return era end
    redis.call('SET', key, run .. ' ' .. name)
    return run .. ' ' .. name
end
"""

# Whether Redis has lost no keys: it was not emptied since the blacklist was filled, and has evicted none.
# Otherwise a missing key need not have been deleted. KEYS[3] has the era, ARGV[1] is the name of a new one.
_INTACT: Final = f"""
{RUN}{_ERA}{EVICTED}
local intact = run ~= '-' and evicted == '0'
local era = era_in(KEYS[3], ARGV[1])
local complete = intact and redis.call('GET', KEYS[2]) == run
"""

# KEYS: records, marker, era, number of the last fill that began, then keys of the blacklist to examine. ARGV:
# name of a new era. A fill in progress that has read the row of a deleted key is abandoned (CHANGE). Returns
# the era, and for each key: its value, the milliseconds to live (-1: for ever) and whether it is on record;
# or `deleted` if it was on record and a client has deleted it, which is then put on record; or `absent`; or
# `lost`, if it may also have been evicted.
EXAMINE: Final = f"""
{OWNED}{_RECORDS}{_INTACT}
local filling = tonumber(redis.call('GET', KEYS[4]) or 0)
local found = {{era}}
for i = 5, #KEYS do
    local held, ends = held_by(KEYS[i])
    local record = read(redis.call('HGET', KEYS[1], KEYS[i]))
    if held then
        local left = ends == -1 and -1 or ends - now
        found[#found + 1] = {{held, left, is_as_recorded(record, held, ends) and 1 or 0}}
    elseif complete and record.value and record.value ~= '-'
        and (record.ends == -1 or record.ends > now)
    then
        local lifted = string.format('%.0f %.0f %.0f -', filling, record.order, now + 300000)
        redis.call('HSET', KEYS[1], KEYS[i], lifted)
        found[#found + 1] = 'deleted'
    else
        found[#found + 1] = intact and 'absent' or 'lost'
    end
end
return found
"""

# KEYS: records, marker, era, number of the last fill that began, then keys that now have a row in Postgres.
# ARGV: name of a new era, the era in which they were examined, then the value that each had. Returns for
# each: 1 it is on record, 0 it has another value now, -1 it was deleted, -2 Redis was emptied.
RECORD: Final = f"""
{OWNED}{_RECORDS}{_INTACT}
local filling = tonumber(redis.call('GET', KEYS[4]) or 0)
local done = {{}}
for i = 5, #KEYS do
    local held, ends = held_by(KEYS[i])
    if held == ARGV[i - 2] then
        local record = read(redis.call('HGET', KEYS[1], KEYS[i]))
        local entry = string.format('%.0f %.0f %.0f %s', filling, record.order, ends, word(held))
        redis.call('HSET', KEYS[1], KEYS[i], entry)
        done[#done + 1] = 1
    elseif held then done[#done + 1] = 0
    elseif intact and era == ARGV[2] then done[#done + 1] = -1
    else done[#done + 1] = -2 end
end
return done
"""

# KEYS: number of the last fill, the fill's own key, era. ARGV: milliseconds that the fill may take, and the
# name of a new era. The value of the fill's key is the run of the server in which it began.
BEGIN_FILLING: Final = f"""
{OWNED}{RUN}{_ERA}
era_in(KEYS[3], ARGV[2])
redis.call('SET', KEYS[2], run, 'PX', ARGV[1])
return redis.call('INCR', KEYS[1])
"""

# KEYS: records, the fill's own key, then keys whose records no fill has touched since this one began. ARGV:
# these records. Their rows are gone. A key that differs from its record belongs to another program, too, and
# stays.
SWEEP: Final = f"""
{OWNED}{_RECORDS}
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
for i = 3, #KEYS do
    local key = KEYS[i]
    if redis.call('HGET', KEYS[1], key) == ARGV[i - 2] then
        local record = read(ARGV[i - 2])
        if record.value ~= '-' then
            if is_as_recorded(record, held_by(key)) then redis.call('DEL', key) end
            redis.call('HDEL', KEYS[1], key)
        elseif record.ends < now then
            redis.call('HDEL', KEYS[1], key)
        end
    end
end
return 1
"""

# The blacklist is not complete if Redis was emptied during the fill: then the fill's key is gone, too. Nor is
# it complete after a fail-over during the fill, because entries may be missing. KEYS: marker, the fill's own
# key, number of the last complete fill. ARGV: the caller's number.
COMPLETE: Final = f"""
{OWNED}{RUN}
if redis.call('GET', KEYS[2]) ~= run then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], run)
if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[3]) or 0) then redis.call('SET', KEYS[3], ARGV[1]) end
return 1
"""

# KEYS: marker of the blacklist. Returns 1 while the blacklist is complete.
IS_COMPLETE: Final = f"""
{CHECK_MARKER}
return (marker and marker == run) and 1 or 0
"""

# KEYS: a lock. ARGV: milliseconds for which it is held. Returns 1 to the caller who takes it.
TAKE_TURN: Final = f"""
{OWNED}
return redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) and 1 or 0
"""
