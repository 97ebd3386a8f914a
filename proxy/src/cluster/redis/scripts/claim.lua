-- ARGV: the owner that may be replaced, or nothing; whether that is out for certain; whether what
-- this proxy publishes there counts as what others use.
local over, is_out, has_company = ARGV[8], ARGV[9] == '1', ARGV[10] == '1'

local wrong = read()
if wrong then
  return wrong
end
local is_held = false
for _, it in ipairs(uses) do
  local is_mine = has_company and it.is_published and owner and same_server(it.origin, owner)
  is_held = is_held or it.proxy ~= me or is_mine
end
local may_replace = owner and over ~= '' and same_server(over, owner) and (is_out or not is_held)
local is_changed = not owner or (may_replace and owner ~= name)
if is_changed then
  give(name)
  found = false
  use(name, false)
else
  use(owner, nil)
end
keep()
return answer(is_changed, owner)
