-- ARGV: whether a client has found it there, publishes it there; whether that origin is out.
local is_found, is_published, is_out = ARGV[8] == '1', ARGV[9] == '1', ARGV[10] == '1'

local wrong = read()
if wrong then
  return wrong
end
if not is_published then
  -- A claim that was late may have left one at another origin.
  forget_mine(name)
end
local is_changed = not owner
if not owner then
  found = false
else
  local is_published_there, is_used_there = false, false
  for _, it in ipairs(uses) do
    if same_server(it.origin, owner) then
      is_published_there, is_used_there = is_published_there or it.is_published, true
    end
  end
  local is_free = not found and not is_used_there
  local takes = not is_out and ((is_published and not is_published_there) or is_free)
  is_changed = owner ~= name and (is_its(owner) or takes)
end
if is_changed then
  give(name)
end
found = found or is_found
use(name, is_published)
keep()
return answer(is_changed, name)
