-- Puts the key of an origin into the list of all, in place of those of the server's other runs.
-- KEYS: the list. ARGV: the origin's key, or nothing; what the keys of the server's runs begin
-- with; whether another run goes before this one; most bytes and most names of the list; then
-- the keys to drop. The answer: whether it is in the list, and the keys of the runs that are not
-- any more.
local key, head, is_old = ARGV[1], ARGV[2], ARGV[3] == '1'
local max_bytes, max_names = tonumber(ARGV[4]), tonumber(ARGV[5])
local drop = {}
for i = 6, #ARGV do
  drop[ARGV[i]] = true
end

local text = redis.call('GETRANGE', KEYS[1], 0, max_bytes - 1)
local whole = text
if redis.call('STRLEN', KEYS[1]) > max_bytes then
  -- Cut behind the last whole name; names have no quotes.
  text = (string.match(text, '^(.*)",[^,]*$') or '["') .. '"]'
end
local is_read, listed = pcall(cjson.decode, text)
if not is_read or type(listed) ~= 'table' then
  -- Nobody can read it, the existing proxy neither: whoever is there comes back by itself.
  listed = {}
end

local names, former, is_listed = {}, {}, key == ''
for _, it in ipairs(listed) do
  local is_other_run = head ~= '' and it ~= key and type(it) == 'string'
    and string.sub(it, 1, #head) == head
    and string.match(string.sub(it, #head + 1), '^[^-]*%-[^-]*$')
  if type(it) ~= 'string' or drop[it] or #names >= max_names - 1 then
    -- It goes.
  elseif is_other_run and is_old then
    return { '0' }
  elseif is_other_run then
    -- The keys of more than that expire by themselves.
    if #former < 100 then
      table.insert(former, it)
    end
  elseif it ~= key or not is_listed then
    is_listed = is_listed or it == key
    table.insert(names, it)
  end
end
if not is_listed then
  table.insert(names, key)
end
for i, it in ipairs(names) do
  names[i] = string.gsub(cjson.encode(it), '\\/', '/')
end
text = '[' .. table.concat(names, ',') .. ']'
if text ~= whole then
  redis.call('SET', KEYS[1], text)
end
return { '1', unpack(former) }
