-- ARGV: whether a client has found it there, publishes it there; whether that origin is out.
local is_found, is_published, is_out = ARGV[7] == '1', ARGV[8] == '1', ARGV[9] == '1'

local wrong = read()
if wrong then
  return wrong
end
local is_changed = not owner
if not owner then
  found = false
else
  local is_published_there = false
  for _, it in ipairs(uses) do
    is_published_there = is_published_there or (it.is_published and same_server(it.origin, owner))
  end
  local takes = is_published and not is_out and not is_published_there
  is_changed = owner ~= name and (is_its(owner) or takes)
end
if is_changed then
  give(name)
end
found = found or is_found
use(name, is_published)
keep()
return answer(is_changed, name)
