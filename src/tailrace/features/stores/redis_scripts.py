"""What Redis does for the writer in one step: scripts in Lua that look at a run's mark, compare and write.

Every key that a script touches is given to it, and lies in one slot of a cluster.
"""

from __future__ import annotations

from string import Template
from typing import Final

from tailrace.features.row_layout import EVENT_BYTE, HEADER_BYTES, WRITTEN_BYTE

BEGIN_RUN: Final = """
if redis.call('GET', KEYS[1]) ~= (ARGV[1] ~= '' and ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

# ARGV: the run's number and mark. Tells the mark that is there afterwards: a later run's stays.
MARK: Final = """
local mark = redis.call('GET', KEYS[1])
if mark and tonumber(mark:match('^%d+')) >= tonumber(ARGV[1]) then return mark end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
"""

# KEYS: the mark's, then each row's and its tombstone's. ARGV: the mark, whether only newer rows are written, the rows.
# A time is compared by its halves: a number of Lua holds 53 bits. Lua counts bytes from 1.
WRITE: Final = Template("""
local mark = redis.call('GET', KEYS[1])
if mark ~= ARGV[1] then return {mark} end
local newer_only = ARGV[2] == '1'
local written, unchanged, older, forgotten = 0, 0, 0, 0
for i = 1, #ARGV - 2 do
  local key, row = KEYS[2 * i], ARGV[i + 2]
  if redis.call('EXISTS', KEYS[2 * i + 1]) == 1 then
    forgotten = forgotten + 1
  else
    local stored = redis.call('GET', key)
    local keep = false
    if stored and #stored >= $header_bytes then
      if stored:sub(1, $written_byte) == row:sub(1, $written_byte)
        and stored:sub($header_bytes + 1) == row:sub($header_bytes + 1) then
        keep, unchanged = true, unchanged + 1
      elseif newer_only then
        local low, high = struct.unpack('<I4i4', row, $event_byte + 1)
        local stored_low, stored_high = struct.unpack('<I4i4', stored, $event_byte + 1)
        if stored_high > high or (stored_high == high and stored_low > low) then
          keep, older = true, older + 1
        end
      end
    end
    if not keep then
      redis.call('SET', key, row)
      written = written + 1
    end
  end
end
return {mark, written, unchanged, older, forgotten}
""").substitute(header_bytes=HEADER_BYTES, written_byte=WRITTEN_BYTE, event_byte=EVENT_BYTE)

REMOVE: Final = """
local mark = redis.call('GET', KEYS[1])
if mark ~= ARGV[1] then return {mark} end
local removed = 0
for i = 2, #KEYS do removed = removed + redis.call('DEL', KEYS[i]) end
return {mark, removed}
"""

NOTE: Final = """
local mark = redis.call('GET', KEYS[1])
if mark ~= ARGV[1] then return {mark} end
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[i]) end
return {mark}
"""

RENEW: Final = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""

RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"

# KEYS: each value's and its tombstone's. ARGV: for each, how long it was (-1 where it was not there), its first bytes,
# and what it is to be. Tells for each whether it was written: not where another has changed it, or it is forgotten.
SWAP: Final = """
local told = {}
for i = 1, #KEYS / 2 do
  local key, length, before = KEYS[2 * i - 1], tonumber(ARGV[3 * i - 2]), ARGV[3 * i - 1]
  local is_same = redis.call('EXISTS', key) == (length < 0 and 0 or 1)
    and (length <= 0 or redis.call('GETRANGE', key, 0, #before - 1) == before)
    and redis.call('STRLEN', key) == math.max(length, 0)
  if is_same and redis.call('EXISTS', KEYS[2 * i]) == 0 then
    redis.call('SET', key, ARGV[3 * i])
    told[i] = 1
  else
    told[i] = 0
  end
end
return told
"""

# KEYS: those that are written, then those that are removed. ARGV: the values. Tells how many of the latter were there.
EXCHANGE: Final = """
for i = 1, #ARGV do redis.call('SET', KEYS[i], ARGV[i]) end
local removed = 0
for i = #ARGV + 1, #KEYS do removed = removed + redis.call('DEL', KEYS[i]) end
return removed
"""
