"""The atomic changes in Redis are Lua scripts. This file has what they have in common.

Versions are Postgres's transaction ids; Lua's numbers are exact up to 2^53. A script that must succeed in a
full Redis deletes before it sets: Redis refuses memory to scripts that have not written yet.
"""

from typing import Final

# The id of this run of the server. A restart or a fail-over gives a new id, and the last writes of the
# previous run may be lost. The id is unknown if INFO is forbidden.
RUN: Final = """
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '-'
"""

# How many keys this run of the server has evicted, as text. Unknown if INFO is forbidden.
EVICTED: Final = """
local stats = redis.pcall('INFO', 'stats')
local evicted = type(stats) == 'string' and string.match(stats, 'evicted_keys:(%d+)') or '-'
"""

NOT_OURS: Final = "NOTOURS"
"""The code of the error if Redis belongs to another system of record (`ownership`)."""

# KEYS: owner, then those of the script. ARGV: the beginning of the owner's value, or an empty text if owners
# are not compared; then those of the script. The script's own begin at 1.
OWNED: Final = f"""
local owned = redis.pcall('GET', KEYS[1])
if ARGV[1] ~= '' and (type(owned) ~= 'string' or string.sub(owned, 1, #ARGV[1]) ~= ARGV[1]) then
    return redis.error_reply('{NOT_OURS} the owner is another')
end
table.remove(KEYS, 1)
table.remove(ARGV, 1)
"""

# KEYS: marker of the blacklist. A blacklist that was filled in another run of the server is not complete.
CHECK_MARKER: Final = f"""
{OWNED}{RUN}
local marker = redis.call('GET', KEYS[1])
if marker and marker ~= run then redis.call('DEL', KEYS[1]) end
"""
