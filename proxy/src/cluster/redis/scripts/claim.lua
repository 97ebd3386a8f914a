-- ARGV: the owner that may be replaced, or nothing; whether that is out for certain.
local over, is_out = ARGV[7], ARGV[8] == '1'

local wrong = read()
if wrong then
  return wrong
end
local is_held = false
for _, it in ipairs(uses) do
  is_held = is_held or it.proxy ~= me
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
