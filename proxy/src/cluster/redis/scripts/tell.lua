-- KEYS: the log. ARGV: how many entries it keeps, then of each change its kind, text and origin.
for i = 2, #ARGV, 3 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*',
    'kind', ARGV[i], 'text', ARGV[i + 1], 'origin', ARGV[i + 2])
end
return 1
