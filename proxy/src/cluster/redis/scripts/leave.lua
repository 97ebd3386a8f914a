-- ARGV: whether no client has found it there. The answer: the epoch of the
-- owner that ended by that, or nothing.
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
local is_gone = is_unfound and owner and is_its(owner) and not found and not is_held
if is_gone then
  redis.call('DEL', url)
  redis.call('HDEL', beside, 'owner', 'found')
  -- The epoch stays for a while, so that the next one is greater within the same millisecond.
  redis.call('PEXPIRE', beside, hold_life)
end
return { is_gone and string.format('%.0f', epoch) or '' }
