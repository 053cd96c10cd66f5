-- Decide a list of calls. If all are allowed and `look` is false, write the changed records and leases.
-- The lines above this comment define `look` and the generated policies.
--
-- ARGV: the time in µs ('' for the server's clock), then for each call: policy, lease id, event and configuration.
-- KEYS: for each call the keys of its record and its leases (only those that the policy has), and of the index.
-- Returns the verdicts in the order of the calls. A key expires after everything stored in it has ended.

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function text(number)
  return string.format('%.0f', number) -- since tostring returns "1.79e+15" for large numbers
end

local function milliseconds(deadline)
  return text(math.max(1, math.ceil((deadline - now) / 1000)))
end

-- Return when the last member of a sorted set ends, in µs, or 0 if the set is empty.
local function last(set)
  return tonumber(redis.call('ZREVRANGE', set, 0, 0, 'WITHSCORES')[2] or 0)
end

-- Let a set expire at `deadline` or later. It is kept a quarter longer, so that not every call writes a new expiry.
local function keep(set, deadline)
  local left = math.max(1, math.ceil((deadline - now) / 1000))
  if redis.call('PTTL', set) < left then
    redis.call('PEXPIRE', set, text(math.ceil(1.25 * left)))
  end
end

local function named(lease_id, part)
  return part == 1 and lease_id or lease_id .. '/' .. part
end

-- Add a lease that can't be found by a lease id.
local function add_nameless(leases, lease_id, ends)
  local n = redis.call('ZCARD', leases)
  repeat
    n = n + 1
  until redis.call('ZADD', leases, 'NX', ends, lease_id .. '!' .. n) == 1
end

local function exchange(leases, lease_id, drop, add, ends)
  redis.call('ZREMRANGEBYSCORE', leases, '-inf', text(now))
  for part = 1, drop do
    redis.call('ZREM', leases, named(lease_id, part))
  end
  for _ = 1, -add do
    add_nameless(leases, lease_id, text(ends))
  end
  for part = 1, add do
    local member = named(lease_id, part)
    if redis.call('ZADD', leases, 'NX', text(ends), member) == 0 then
      add_nameless(leases, lease_id, redis.call('ZSCORE', leases, member))
      redis.call('ZADD', leases, text(ends), member)
    end
  end
end

local verdicts, lasts, records, all = {}, {}, {}, true
local key, argument = 1, 2
while argument <= #ARGV do
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

key, argument = 1, 2
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
