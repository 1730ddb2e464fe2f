"""Scripts of the owner of Redis."""

from typing import Final

from gateway.stores.redis.scripts.common import OWNED

# KEYS: owner, or its places. A value that is not a string is neither.
READ_OWNER: Final = """
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'table' then return '?' end
return held
"""

# KEYS: owner, its places, epoch, ended, marker of the blacklist. ARGV: the value that was found, empty for
# none; the new value, and its id. For a new owner, all data is void: cached users count only with the id of
# their owner and an epoch, and a blacklist without its marker is refilled. New details of the same owner keep
# all data.
SET_OWNER: Final = """
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'table' then held = '?' end
if (held or '') ~= ARGV[1] then return held or '' end
if held == '?' or not held or not string.find(held, '"id":"' .. ARGV[3] .. '"', 1, true) then
    redis.call('DEL', unpack(KEYS))
end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
"""

# KEYS: owner, its places. ARGV: as in OWNED; the owner's id, the address, how many are kept. The value is the
# id and the addresses, separated by spaces, the latest last.
REMEMBER_PLACE: Final = f"""
{OWNED}
local held = redis.pcall('GET', KEYS[1])
local places = {{}}
if type(held) == 'string' and string.sub(held, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then
    for place in string.gmatch(string.sub(held, #ARGV[1] + 2), '%S+') do
        if place ~= ARGV[2] then places[#places + 1] = place end
    end
end
places[#places + 1] = ARGV[2]
local first = math.max(1, #places - tonumber(ARGV[3]) + 1)
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. table.concat(places, ' ', first))
"""
