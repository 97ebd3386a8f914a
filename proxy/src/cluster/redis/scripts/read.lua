-- KEYS: a text. ARGV: most bytes of it. The answer: its length, its life in ms, its beginning.
return {
  redis.call('STRLEN', KEYS[1]),
  redis.call('PTTL', KEYS[1]),
  redis.call('GETRANGE', KEYS[1], 0, ARGV[1] - 1),
}
