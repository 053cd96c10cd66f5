-- Decide a batch of calls. If all are allowed and `look` is false, write the changed records and leases.
--
-- The lines above define `look`, the generated policies, and the functions of common.lua. `key` and `argument` are the
-- positions of the batch's first key and argument, and become those after the batch. `last_argument` is the position of
-- its last argument. `all` is true, and becomes false if a call is denied.
--
-- ARGV: for each call: policy, lease id, event and configuration.
-- KEYS: for each call the keys of its record and its leases (only those that the policy has), and of the index.
-- Returns the verdicts in the order of the calls. A key expires after everything stored in it has ended.

local verdicts, lasts, records = {}, {}, {}
local first_key, first_argument = key, argument
while argument <= last_argument do
  local policy = policies[ARGV[argument]]
  local i = #verdicts + 1
  verdicts[i], lasts[i], records[i] = policy.decide(now, text(now), key, argument + 1)
  all = all and verdicts[i][1] == 1
  key = key + policy.keys
  argument = argument + policy.arguments
end
if look or not all then
  return verdicts
end

key, argument = first_key, first_argument
for i, verdict in ipairs(verdicts) do
  local policy = policies[ARGV[argument]]
  local first, index = KEYS[key], KEYS[key + policy.keys - 1]
  local written, expires = records[i], lasts[i]
  if written then
    redis.call('SET', first, written, 'PX', milliseconds(expires))
  end
  if policy.leases then
    local leases, n = KEYS[key + policy.keys - 2], #verdict
    local drop, add, ends = verdict[n - 2], verdict[n - 1], verdict[n]
    if drop > 0 or add ~= 0 then
      exchange(leases, ARGV[argument + 1], drop, add, ends)
      written = true
    end
    if written then
      local ended = last(leases)
      expires = math.max(expires, ended)
      if ended > 0 then
        keep(leases, ended)
      end
    end
  end
  -- The index lists the records in use. Each new record removes up to two ended ones, so that the index stays small.
  if written then
    if expires == 0 then
      redis.call('ZREM', index, first)
    elseif redis.call('ZADD', index, text(expires), first) == 1 then
      for _, ended in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', text(now), 'LIMIT', 0, 2)) do
        redis.call('ZREM', index, ended)
      end
    end
    if expires > 0 then
      keep(index, expires)
    end
  end
  key = key + policy.keys
  argument = argument + policy.arguments
end
return verdicts
