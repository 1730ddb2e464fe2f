"""Scripts of limits: the budgets that all workers share, and the workers that share them.

A budget is a text of numbers, `<base> <epoch> <now> <before>`. `base` is of a rate the instant (in
microseconds) at which its bucket is full, of a quota what was spent, of a concurrency 0. `now` and `before`
are the tokens that workers hold in advance (of a concurrency: all that they hold), by the epoch in which they
were put on record. An epoch is `LEASE_SECONDS` long. What was put on record before the last epoch is
forgotten: its worker spends it no more, or has ended. A rate has one number more: the nanoseconds in which
one token comes, by which `base` was counted. A quota has one, too: of what was spent, the part that Redis
had to be told.
"""

from typing import Final

from gateway.stores.redis.scripts.common import OWNED

WORKER_MILLISECONDS: Final = 5_000
"""The time after which a worker that is not heard of is no more."""
ARGUMENTS: Final = 13
"""The number of arguments of each account."""
LATE: Final = "LATE"
"""The script ran after its deadline, and did nothing: its worker no longer waits for the answer."""
AGAIN: Final = "AGAIN"
"""The command had already been run, and its answer was lost."""

# KEYS: era, the worker's last command, then each budget. ARGV: the deadline (Unix microseconds), the id of
# the command, the length of an epoch (microseconds), the part of a budget that may be held in advance; then
# for each budget: era, kind, capacity, interval (microseconds), end (Unix milliseconds), want, ahead,
# registered, epoch, keep, back, debt, seed. Returns for each: granted, ahead, epoch, left, microseconds until
# the next token; or a number alone: -1 if the era is another, -2 if a quota is not known.
#
# Of a rate, what is in the bucket and what is held together are never more than the capacity: the bucket is
# full at `now + held * interval` at the earliest. So tokens that are held stay within the limit whenever they
# are spent.
LEASE: Final = f"""
{OWNED}
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
if now > tonumber(ARGV[1]) then return '{LATE}' end
if redis.call('GET', KEYS[2]) == ARGV[2] then return '{AGAIN}' end
redis.call('SET', KEYS[2], ARGV[2], 'PX', 10000)
local era = redis.call('GET', KEYS[1])
local length, spare = tonumber(ARGV[3]), tonumber(ARGV[4])
local epoch = math.floor(now / length)

local answers = {{}}
for i = 3, #KEYS do
    local first = 5 + (i - 3) * {ARGUMENTS}
    local kind, n = ARGV[first + 1], {{}}
    for j = 2, {ARGUMENTS} - 1 do n[j] = tonumber(ARGV[first + j]) end
    local capacity, interval, ends, want, ahead = n[2], n[3], n[4], n[5], n[6]
    local registered, since, keep, back, debt, seed = n[7], n[8], n[9], n[10], n[11], n[12]
    local held = redis.pcall('GET', KEYS[i])
    local base, at, current, before, told
    if type(held) == 'string' then
        base, at, current, before, told = string.match(held, '^(%-?[%d.]+) (%d+) (%d+) (%d+) ?(%d*)$')
    end
    if era ~= ARGV[first] then
        answers[#answers + 1] = -1
    elseif kind == 'quota' and not base and seed < 0 then
        answers[#answers + 1] = -2
    else
        base, at = tonumber(base or 0), tonumber(at or epoch)
        current, before = tonumber(current or 0), tonumber(before or 0)
        if at > epoch then
            -- The clock has gone back. What the bucket lacked at the last command, it lacks at most.
            if kind == 'rate' then base = now + math.max(0, base - at * length) end
        elseif at == epoch - 1 then
            current, before = 0, current
        elseif at ~= epoch then
            current, before = 0, 0
        end
        if kind == 'rate' then
            -- Under another rate, before a change of the configuration, the same tokens took another time.
            local was, own = tonumber(told) or 0, math.floor(interval * 1000 + 0.5)
            if was > 0 and was ~= own then base = now + math.max(0, base - now) / was * own end
            told = own
            base = math.min(base, now + 2 * capacity * interval)
            base = math.max(base, now + (current + before) * interval)
        elseif kind == 'quota' then
            told = tonumber(told) or 0
            base, told = base + math.max(0, seed - told), math.max(told, seed)
        end
        if since >= epoch then
            current = math.max(0, current - registered)
        elseif since == epoch - 1 then
            before = math.max(0, before - registered)
        end
        current = current + keep
        local room, left = math.floor(capacity * spare) - current - before, nil
        if kind == 'rate' then
            base = math.max(base + (debt - back) * interval, now + (current + before) * interval)
            left = math.floor(capacity - (base - now) / interval + 0.000001)
        elseif kind == 'quota' then
            base = math.max(0, base + debt - back)
            left = capacity - base
        else
            left, room = capacity - current - before, ahead
        end
        local granted = math.max(0, math.min(want, left))
        ahead = math.max(0, math.min(ahead, left - granted, math.ceil(room / 2)))
        left = left - granted - ahead
        current = current + ahead
        local wait = 10000
        if kind == 'rate' then
            base = base + (granted + ahead) * interval
            wait = math.max(0, base - now - (capacity - 1) * interval)
            held = string.format('%.2f %d %d %d %.0f', base, epoch, current, before, told)
            redis.call('SET', KEYS[i], held, 'PX', math.ceil(math.max(0, base - now) / 1000 + length / 500))
        elseif kind == 'quota' then
            base = base + granted + ahead
            wait = math.max(0, ends * 1000 - now)
            held = string.format('%.0f %d %d %d %.0f', base, epoch, current, before, told)
            redis.call('SET', KEYS[i], held)
            redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', ends))
        else
            current = current + granted
            redis.call('SET', KEYS[i], string.format('0 %d %d %d', epoch, current, before),
                'PX', math.ceil(length / 500))
        end
        answers[#answers + 1] = {{granted, ahead, epoch, math.max(0, left), math.ceil(wait)}}
    end
end
return answers
"""

# KEYS: era, workers. ARGV: the name of a new era, the worker. Returns the time in microseconds, the era, and
# the workers that were heard of lately.
BEAT: Final = f"""
{OWNED}
local clock = redis.call('TIME')
local milliseconds = clock[1] * 1000 + math.floor(clock[2] / 1000)
local era = redis.call('GET', KEYS[1])
if not era then
    era = ARGV[1]
    redis.call('SET', KEYS[1], era)
end
redis.call('ZADD', KEYS[2], milliseconds, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', milliseconds - {WORKER_MILLISECONDS})
redis.call('PEXPIRE', KEYS[2], {2 * WORKER_MILLISECONDS})
return {{string.format('%.0f', clock[1] * 1000000 + clock[2]), era, redis.call('ZRANGE', KEYS[2], 0, -1)}}
"""

# KEYS: workers. ARGV: the worker.
LEAVE: Final = f"""
{OWNED}
redis.call('ZREM', KEYS[1], ARGV[1])
"""

# KEYS: a budget. Returns its text, or nothing.
READ: Final = f"""
{OWNED}
return redis.call('GET', KEYS[1])
"""

# KEYS: a budget. ARGV: of a quota, the end of its period (Unix milliseconds); else 0. A quota that is missing
# would be told from the system of record, which may still be told the number of before.
RESET: Final = f"""
{OWNED}
local deleted = redis.call('DEL', KEYS[1])
if ARGV[1] ~= '0' then
    redis.call('SET', KEYS[1], '0 0 0 0 0')
    redis.call('PEXPIREAT', KEYS[1], ARGV[1])
end
return deleted
"""
