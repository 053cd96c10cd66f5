-- Read the clock, and define the functions that write leases and expiries.
--
-- ARGV[1] is the time in µs, or '' for the server's clock.

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
