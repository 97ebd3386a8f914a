-- KEYS: what is noted beside the owner of a stream. ARGV: the proxy that is no more.
if redis.call('HLEN', KEYS[1]) > 1024 then
  return redis.error_reply('MALFORMED too many uses of a stream')
end
local mine = 'use|' .. ARGV[1] .. '|'
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, #mine) == mine then
    redis.call('HDEL', KEYS[1], field)
  end
end
return 1
