-- KEYS: a word for each name. ARGV: how many there may be. The answer: name, word, and so on.
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then
  return redis.error_reply('MALFORMED more names than there can be')
end
return redis.call('HGETALL', KEYS[1])
