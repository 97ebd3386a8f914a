-- KEYS: the log. ARGV: how many entries it keeps, then of each change its kind, text, origin and
-- epoch.
for i = 2, #ARGV, 4 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*',
    'kind', ARGV[i], 'text', ARGV[i + 1], 'origin', ARGV[i + 2],
    'epoch', ARGV[i + 3])
end
return 1
