-- What all operations share: keys, the ring of 60 buckets, accounts, balances. Amounts are written with %.0f: Lua's own way keeps 14 digits.
local prefix = string.sub(KEYS[1], 1, -5) -- of "<prefix>meta"
local request = cjson.decode(ARGV[1])
local me = request.instance
local meta = redis.call('HMGET', KEYS[1], 'last', 'began', 'recovering', 'keys', 'run')
local now = math.max(clock(prefix), tonumber(meta[1] or 0)) -- a clock that went back stands still

local HOUR, DAY = 3600000000, 86400000000 -- µs
local GRACE = 25 * HOUR -- as periods.GRACE_NS
local STAYS_MS, ACCOUNT_MS, STONE_MS, CHARGED_MS = 35 * 86400000, 2 * 86400000, 3600000, 86400000
local OTHERS = '(others)'

local function int(number)
  return string.format('%.0f', number)
end

-- "a limit|its account", unmistakable also where a limit's name holds a bar
local function place_of(limit, account)
  if string.find(limit, '[%%|]') then
    limit = string.gsub(limit, '[%%|]', { ['%'] = '%25', ['|'] = '%7C' })
  end
  return limit .. '|' .. account
end

-- The accounts of a limit on unbounded identities, the longest unseen first.
local function book_of(limit)
  return prefix .. 'k:' .. limit
end

local function put_last(book, name)
  redis.call('ZADD', book, redis.call('HINCRBY', KEYS[1], 'order', 1), name)
  redis.call('PEXPIRE', book, int(STAYS_MS))
end

-- The period of now among those that the caller offers: its id, its end, and which it is. Time only goes forward, and so do they.
local function period_at(kind)
  if kind == 'total' then
    return 'total', nil, 0
  end
  for at, span in ipairs(request[kind]) do
    if now < span[2] or at == 3 then
      return span[1], span[2], at
    end
  end
end

-- The ring of admit/windows.py: a bucket is (index, instant of its last event, count) and counts in full until its last event is
-- a window old. Kept as doubles one behind the other, the sum first.
local ENTRY, WIDTH = '<ddd', 24

local function ring_of(packed, period_s)
  local ring = { period = period_s * 1000000, width = period_s * 1000000 / 60, total = 0, entries = '' }
  if packed then
    ring.total, ring.entries = struct.unpack('<d', packed), string.sub(packed, 9)
  end
  local over, from = now - ring.period, 1
  while from <= #ring.entries do
    local _, last, count = struct.unpack(ENTRY, ring.entries, from)
    if last > over then
      break
    end
    ring.total, from = ring.total - count, from + WIDTH
  end
  ring.entries = string.sub(ring.entries, from)
  return ring
end

-- Adds `change` to the bucket of the instant `at`; one that is not there is made only where `may_begin`.
local function ring_add(ring, change, at, may_begin)
  local index, stop = math.floor(at / ring.width), #ring.entries
  while stop > 0 do
    local its, last, count = struct.unpack(ENTRY, ring.entries, stop - WIDTH + 1)
    if its == index then
      local bucket = struct.pack(ENTRY, its, math.max(last, at), count + change)
      ring.entries = string.sub(ring.entries, 1, stop - WIDTH) .. bucket .. string.sub(ring.entries, stop + 1)
      ring.total, ring.is_changed = ring.total + change, true
      return
    elseif its < index then
      break
    end
    stop = stop - WIDTH
  end
  if may_begin and at > now - ring.period then
    local bucket = struct.pack(ENTRY, index, at, change)
    ring.entries = string.sub(ring.entries, 1, stop) .. bucket .. string.sub(ring.entries, stop + 1)
    ring.total, ring.is_changed = ring.total + change, true
  end
end

-- µs until `want` more fit under `limit`; -1 for never
local function ring_wait(ring, want, limit)
  if want > limit then
    return -1
  end
  local too_much, wait, from = ring.total + want - limit, 0, 1
  while too_much > 0 and from <= #ring.entries do
    local _, last, count = struct.unpack(ENTRY, ring.entries, from)
    too_much, wait, from = too_much - count, last + ring.period - now, from + WIDTH
  end
  return wait
end

local function ring_empty_at(ring)
  if ring.total == 0 then
    return now
  end
  local _, last = struct.unpack(ENTRY, ring.entries, #ring.entries - WIDTH + 1)
  return last + ring.period
end

-- Accounts (slots and rings) and balances (money of one period) are read once, changed here, and written at the end.
-- One that cannot be read (its key is of another type, its numbers are none) is `is_broken`: it counts as 0 here and is never written.
local accounts, balances = {}, {}

local function read_account(place)
  local found, fields = redis.pcall('HGETALL', prefix .. 'a:' .. place), {}
  for at = 1, #found, 2 do
    fields[found[at]] = found[at + 1]
  end
  local n, stay, kept_to = tonumber(fields.n or 0), tonumber(fields.stay or 0), tonumber(fields.kept_to or 0)
  return { place = place, is_broken = found.err or not (n and stay and kept_to), n = n or 0, stay = stay or 0, kept_to = kept_to or 0,
    fields = fields, rings = {} }
end

local function account_of(limit, name)
  local place = place_of(limit, name)
  if not accounts[place] then
    accounts[place] = read_account(place)
  end
  return accounts[place]
end

-- kind: "requests" or "tokens"
local function ring_in(account, kind, period_s)
  local field = kind .. period_s
  if not account.rings[field] then
    local packed = account.fields[field]
    if packed and #packed % WIDTH ~= 8 then
      packed, account.is_broken = nil, true
    end
    account.rings[field] = ring_of(packed, period_s)
  end
  return account.rings[field]
end

local function balance_of(limit, name, period, end_us)
  local place = period .. '|' .. place_of(limit, name)
  local balance = balances[place]
  if not balance then
    local key = prefix .. 'b:' .. place
    local found, numbers, is_broken = redis.pcall('HMGET', key, 'settled', 'held', 'told', 'tight', 'g:' .. me), {}, false
    for at = 1, 5 do
      numbers[at] = tonumber(found[at] or 0)
      is_broken = is_broken or found.err or not numbers[at]
      numbers[at] = numbers[at] or 0
    end
    local settled, held, told, tight, mine = unpack(numbers)
    balance = { key = key, place = place, period = period, is_broken = is_broken, is_new = not found[2], settled = settled, held = held,
      told = told, tight = tight, mine = mine, was_mine = mine }
    balances[place] = balance
  end
  balance.end_us = balance.end_us or end_us
  return balance
end

-- What `instance` settled: kept by process, so that it can be told again after a loss.
local function settle_on(balance, instance, nanousd)
  balance.settled, balance.is_changed = balance.settled + nanousd, true
  balance.by = balance.by or {}
  balance.by[instance] = (balance.by[instance] or 0) + nanousd
end

-- The share of `me` in the sum of what is told.
local function set_mine(balance, share)
  if share ~= balance.mine then
    balance.told, balance.mine, balance.is_changed = balance.told + share - balance.mine, share, true
  end
end

local function write_account(account)
  local key, fields = prefix .. 'a:' .. account.place, { 'n', int(account.n), 'stay', int(account.stay) }
  for field, ring in pairs(account.rings) do
    if ring.is_changed then
      fields[#fields + 1], fields[#fields + 2] = field, struct.pack('<d', ring.total) .. ring.entries
    end
  end
  local is_due = account.kept_to - now < ACCOUNT_MS * 750
  if is_due then
    fields[#fields + 1], fields[#fields + 2] = 'kept_to', int(now + ACCOUNT_MS * 1000)
  end
  redis.call('HSET', key, unpack(fields))
  if is_due then
    redis.call('PEXPIRE', key, int(ACCOUNT_MS))
  end
end

local function write_share(balance)
  redis.call('HINCRBY', balance.key, 'told', int(balance.mine - balance.was_mine))
  if balance.mine > 0 then
    redis.call('HSET', balance.key, 'g:' .. me, int(balance.mine))
    redis.call('HSET', prefix .. 's:' .. me, balance.place, '1')
  else
    redis.call('HDEL', balance.key, 'g:' .. me)
    redis.call('HDEL', prefix .. 's:' .. me, balance.place)
  end
end

local function write_balance(balance)
  redis.call('HSET', balance.key, 'held', int(balance.held))
  if balance.mine ~= balance.was_mine then
    write_share(balance)
  end
  if balance.by then
    redis.call('HSET', balance.key, 'settled', int(balance.settled))
    for instance, nanousd in pairs(balance.by) do
      redis.call('HINCRBY', balance.key, 'c:' .. instance, int(nanousd))
    end
  end
  if balance.is_new and balance.period ~= 'total' then
    redis.call('PEXPIRE', balance.key, int(((balance.end_us or now + 31 * DAY) - now) / 1000 + STAYS_MS))
  end
end

local function write_all()
  for _, balance in pairs(balances) do
    if balance.is_changed and not balance.is_broken then
      write_balance(balance)
    end
  end
  for _, account in pairs(accounts) do
    if account.is_changed and not account.is_broken then
      write_account(account)
    end
  end
  redis.call('HSET', KEYS[1], 'last', int(now), 'began', meta[2] or int(now))
end

-- Everybody stops taking for a moment, so that all can say what they know before anybody counts on what is here.
local function begin_recovery()
  if tonumber(meta[3] or 0) <= now then
    meta[3] = now + request.recover_ms * 1000
    redis.call('HSET', KEYS[1], 'recovering', int(meta[3]))
  end
end

local function is_recovering()
  return tonumber(meta[3] or 0) > now
end

-- Says that `me` lives; a lease of which more than nine tenths are left is long enough.
local function renew_lease()
  local lease_end, lease = redis.call('ZSCORE', prefix .. 'live', me), request.lease_ms * 1000
  if not lease_end then
    redis.call('ZREM', prefix .. 'doubt', me)
  elseif tonumber(lease_end) - now > lease * 0.9 then
    return
  end
  redis.call('ZADD', prefix .. 'live', int(now + lease), me)
end

local function live_count()
  return redis.call('ZCOUNT', prefix .. 'live', '(' .. int(now), '+inf')
end

-- Ends at most `most` of the shares told to `instance`; how many are left. Only after write_all.
local function free_shares(instance, most)
  local list = prefix .. 's:' .. instance
  for _, place in ipairs(redis.call('HRANDFIELD', list, most)) do
    local key = prefix .. 'b:' .. place
    local share = redis.pcall('HGET', key, 'g:' .. instance)
    if type(share) == 'string' then -- else it is given back already, or cannot be read
      redis.pcall('HINCRBY', key, 'told', '-' .. share)
      redis.call('HDEL', key, 'g:' .. instance)
    end
    redis.call('HDEL', list, place)
  end
  return redis.call('HLEN', list)
end
