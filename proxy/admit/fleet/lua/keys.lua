-- Callers' keys: tells what a sidecar knows, and what is newer than what it has seen. What is known of a key only ever grows:
-- its record never changes, its ends only come earlier. Instants are 19 digits, so the earlier of two is the lesser text.
local book, log = prefix .. 'keys', prefix .. 'keys_log'
local version = tonumber(meta[4] or 0)
local ENDS = { 'expires', 'rotated', 'revoked' }

local function learn(digest, record, ends)
  local is_news = redis.call('HSETNX', book, digest, record) == 1
  for at, name in ipairs(ENDS) do
    local field, instant = digest .. ':' .. name, ends[at]
    local known = redis.call('HGET', book, field)
    if instant ~= '' and (not known or instant < known) then
      redis.call('HSET', book, field, instant)
      is_news = true
    end
  end
  return is_news
end

for _, key in ipairs(request.keys) do
  if learn(key[1], key[2], { key[3], key[4], key[5] }) then
    version = version + 1
    redis.call('ZADD', log, version, key[1])
  end
end
if version > tonumber(meta[4] or 0) then
  redis.call('HSET', KEYS[1], 'keys', int(version))
end
redis.call('HSETNX', book, 'born', request.nonce) -- another one: all that was here is gone; in another process some of it may be
local run = #request.keys == 0 and string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local told, seen = {}, request.since
local newer = redis.call('ZRANGEBYSCORE', log, '(' .. int(request.since), '+inf', 'WITHSCORES', 'LIMIT', 0, request.most)
for at = 1, #newer, 2 do
  local digest = newer[at]
  local found = redis.call('HMGET', book, digest, digest .. ':expires', digest .. ':rotated', digest .. ':revoked')
  told[#told + 1] = { digest, found[1] or '', found[2] or '', found[3] or '', found[4] or '' }
  seen = tonumber(newer[at + 1])
end
return { redis.call('HGET', book, 'born') .. run, version, seen, told }
