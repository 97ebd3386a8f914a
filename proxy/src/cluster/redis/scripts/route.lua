-- What claim, hold and leave have in common. They run on two keys of one slot: the owner of a
-- stream, which the existing proxy reads and writes as well, and what only proxies like this one
-- note beside it: `owner` as they last left it, `epoch`, `found`, and per proxy and origin a use,
-- `use|<proxy>|<origin>`: until when in ms, and whether it publishes there (`P` or `-`).
local url, beside = KEYS[1], KEYS[2]
local me, head, name, server = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local route_life, hold_life = tonumber(ARGV[5]), tonumber(ARGV[6])
local unfound_life = tonumber(ARGV[7])

local MAX_USES = 1024
local IDLE_LIFE = 86400000

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local owner, epoch, found
local uses = {}

-- The server of a run: service and pid have no hyphen.
local function server_of(run)
  return string.match(run, '^(.+)%-[^-]*%-[^-]*$')
end

local function same_server(one, other)
  local of_one = server_of(one)
  return one == other or (of_one ~= nil and of_one == server_of(other))
end

-- Whether a run is the call's one, or another one of its server.
local function is_its(run)
  return run == name or server_of(run) == server
end

local function next_epoch()
  return math.max(epoch + 1, now)
end

-- Reads both keys; uses that are over go. The answer is what is wrong with them.
local function read()
  if redis.call('HLEN', beside) > MAX_USES then
    return redis.error_reply('MALFORMED too many uses of a stream')
  end
  local noted = redis.call('HGETALL', beside)
  local by_name = {}
  for i = 1, #noted, 2 do
    by_name[noted[i]] = noted[i + 1]
    local proxy, origin = string.match(noted[i], '^use|([^|]*)|(.*)$')
    if proxy then
      local ends, mark = string.match(noted[i + 1], '^(%d+)|([P-])$')
      if ends and tonumber(ends) > now then
        table.insert(uses, { proxy = proxy, origin = origin, is_published = mark == 'P' })
      else
        redis.call('HDEL', beside, noted[i])
      end
    end
  end
  epoch = by_name.epoch or ''
  epoch = #epoch < 16 and string.match(epoch, '^%d+$') and tonumber(epoch) or 0
  found = by_name.found == '1'
  if redis.call('STRLEN', url) > 1024 then
    return redis.error_reply('MALFORMED the owner of a stream is too long')
  end
  local value = redis.call('GET', url)
  if not value then
    return nil
  end
  if string.sub(value, 1, #head) ~= head or #value == #head then
    return redis.error_reply('MALFORMED the owner of a stream is no origin')
  end
  owner = string.sub(value, #head + 1)
  if owner ~= by_name.owner then
    -- The existing proxy was here: it is right, and what its clients have found is not known.
    epoch, found = next_epoch(), true
  end
  return nil
end

-- This proxy uses the stream at no other origin than this one, unless it publishes there.
local function forget_mine(origin)
  local others = {}
  for _, it in ipairs(uses) do
    if it.proxy == me and it.origin ~= origin and not it.is_published then
      redis.call('HDEL', beside, 'use|' .. me .. '|' .. it.origin)
    else
      table.insert(others, it)
    end
  end
  uses = others
end

-- Notes this proxy's use. Without a word of it, it publishes as before.
local function use(origin, is_published)
  local mine
  for _, it in ipairs(uses) do
    if it.proxy == me and it.origin == origin then
      mine = it
    end
  end
  if not mine then
    mine = { proxy = me, origin = origin, is_published = false }
    table.insert(uses, mine)
  end
  if is_published ~= nil then
    mine.is_published = is_published
  end
  local value = string.format('%.0f|%s', now + hold_life, mine.is_published and 'P' or '-')
  redis.call('HSET', beside, 'use|' .. me .. '|' .. origin, value)
end

-- The stream belongs to this origin from now on.
local function give(origin)
  epoch = next_epoch()
  owner = origin
  redis.call('SET', url, head .. origin)
end

-- Writes what is not yet written, and how long it lives.
local function keep()
  redis.call('HSET', beside, 'epoch', string.format('%.0f', epoch), 'owner', owner,
    'found', found and '1' or '0')
  local life = route_life
  if not found and (life == 0 or life > unfound_life) then
    life = unfound_life
  end
  if life > 0 then
    redis.call('PEXPIRE', url, math.max(life, hold_life))
    redis.call('PEXPIRE', beside, math.max(life, hold_life))
  else
    redis.call('PERSIST', url)
    redis.call('PEXPIRE', beside, math.max(IDLE_LIFE, hold_life))
  end
end

-- Owner, epoch, whether it was changed, and proxy and origin of each rival of a use of `origin`.
local function answer(is_changed, origin)
  local said = { owner, string.format('%.0f', epoch), is_changed and '1' or '0' }
  for _, it in ipairs(uses) do
    if it.is_published and not same_server(it.origin, origin) then
      table.insert(said, it.proxy)
      table.insert(said, it.origin)
    end
  end
  return said
end

