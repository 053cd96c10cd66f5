-- Decide batches of calls one after the other, until `most` of them are allowed.
--
-- The lines above define `decide_batch`, a function with the text of batch.lua.
--
-- ARGV: the time, `most` ('' for no maximum), then for each batch the number of its arguments, and the arguments.
-- KEYS: the keys of all batches.
-- Returns for each decided batch its verdicts.

local most, allowed, decided = tonumber(ARGV[2]) or math.huge, 0, {}
while argument <= #ARGV and allowed < most do
  last_argument = argument + tonumber(ARGV[argument])
  argument, all = argument + 1, true
  decided[#decided + 1] = decide_batch()
  if all then
    allowed = allowed + 1
  end
end
return decided
