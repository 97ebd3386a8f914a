-- KEYS: names, each until its time. ARGV: a name; how many ms from now it is kept, 0 to drop it;
-- whether only if it is there. The answer is whether it was there.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local life = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local was_there = redis.call('ZSCORE', KEYS[1], ARGV[1])
if life == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
elseif was_there or ARGV[3] ~= '1' then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + life), ARGV[1])
  redis.call('PEXPIRE', KEYS[1], life)
end
return was_there and 1 or 0
