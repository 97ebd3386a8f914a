-- KEYS: a text. ARGV: whether it shall be there, and how it then reads; what it becomes, or
-- nothing for none; its life in ms. The answer is whether it was so.
local value = redis.call('GET', KEYS[1])
if ARGV[1] == '1' and value ~= ARGV[2] or ARGV[1] ~= '1' and value then
  return 0
end
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
end
return 1
