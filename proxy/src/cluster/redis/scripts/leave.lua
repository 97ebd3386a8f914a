-- ARGV: whether no client has found it there.
local is_unfound = ARGV[8] == '1'

local wrong = read()
if wrong then
  return wrong
end
local is_held = false
for _, it in ipairs(uses) do
  if it.proxy == me and is_its(it.origin) then
    redis.call('HDEL', beside, 'use|' .. me .. '|' .. it.origin)
  else
    is_held = true
  end
end
if is_unfound and owner and is_its(owner) and not found and not is_held then
  redis.call('DEL', url)
  redis.call('HDEL', beside, 'owner', 'found')
  -- The epoch stays for a while, so that the next one is greater within the same millisecond.
  redis.call('PEXPIRE', beside, hold_life)
end
return {}
