-- KEYS: one that is not used, in a slot of the node that is asked. ARGV: where to go on, the
-- pattern, how many keys are looked at. The answer: where to go on, the keys.
return redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
