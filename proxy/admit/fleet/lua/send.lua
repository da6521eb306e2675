-- The closes of a process, in order and exactly once, with its heartbeat: also the time to look after those that died.
local open, state = prefix .. 'o:' .. me, prefix .. 'i:' .. me
local SWEEP = 16 -- items a call: no script may keep the others waiting

local function put_stone(id)
  redis.call('SET', prefix .. 'v:' .. id, '', 'PX', int(STONE_MS))
end

local function is_stone(id)
  return redis.call('EXISTS', prefix .. 'v:' .. id) == 1
end

-- Settles a hold, or voids it (0, 0), in its own buckets and periods.
local function close(instance, packed, tokens, nanousd)
  local at, held_tokens, held, charges = unpack(cmsgpack.unpack(packed))
  for _, charge in ipairs(charges) do
    local limit, name, windows, periods, is_unbounded = unpack(charge)
    if is_unbounded == 1 and not redis.call('ZSCORE', book_of(limit), name) then
      put_last(book_of(limit), name) -- was forgotten while nothing counted
    end
    if #windows > 0 and tokens ~= held_tokens then
      local account = account_of(limit, name)
      for _, period_s in ipairs(windows) do
        ring_add(ring_in(account, 'tokens', period_s), tokens - held_tokens, at, false)
      end
      account.is_changed = true
    end
    for _, period in ipairs(periods) do
      local balance = balance_of(limit, name, period)
      balance.held = math.max(0, balance.held - held)
      settle_on(balance, instance, nanousd)
    end
  end
end

-- After the holder was taken for dead, its holds stand charged at the estimate: the difference, once.
local function correct(id, tokens, nanousd)
  local stones = prefix .. 'x:' .. me
  local packed = redis.call('HGET', stones, id)
  if packed then
    local at, held_tokens, held, charges = unpack(cmsgpack.unpack(packed))
    redis.call('HDEL', stones, id)
    for _, charge in ipairs(charges) do
      for _, period_s in ipairs(charge[3]) do
        local account = account_of(charge[1], charge[2])
        ring_add(ring_in(account, 'tokens', period_s), tokens - held_tokens, at, false)
        account.is_changed = true
      end
      for _, period in ipairs(charge[4]) do
        settle_on(balance_of(charge[1], charge[2], period), me, nanousd - held)
      end
    end
  end
  return packed
end

local function settle(id, tokens, nanousd)
  local packed = redis.call('HGET', open, 'h:' .. id)
  if packed then
    redis.call('HDEL', open, 'h:' .. id)
    close(me, packed, tokens, nanousd)
  elseif not correct(id, tokens, nanousd) then
    return false
  end
  return true
end

local function free_slots(packed, is_over)
  local since, charges = unpack(cmsgpack.unpack(packed))
  for _, charge in ipairs(charges) do
    local account = account_of(charge[1], charge[2])
    account.n, account.is_changed = math.max(0, account.n - 1), true
    if is_over then
      local took = (now - since) * 1000 -- ns, as in admit/counters.py
      account.stay = account.stay > 0 and math.floor((account.stay * 7 + took) / 8) or took
    end
  end
end

local function count(kind, at, number, charges)
  for _, charge in ipairs(charges) do
    for _, period_s in ipairs(charge[3]) do
      local account = account_of(charge[1], charge[2])
      ring_add(ring_in(account, kind, period_s), number, math.min(at, now), true)
      account.is_changed = true
    end
  end
end

local OPS = {}

function OPS.settle(id, tokens, nanousd)
  settle(id, tokens, nanousd)
end

function OPS.void(id)
  if not settle(id, 0, 0) then
    put_stone(id)
  end
end

function OPS.leave(uid)
  local packed = redis.call('HGET', open, 'c:' .. uid)
  if packed then
    redis.call('HDEL', open, 'c:' .. uid)
    free_slots(packed, true)
  else
    put_stone(uid)
  end
end

function OPS.uncount(uid)
  local packed = redis.call('HGET', open, 'c:' .. uid)
  if packed then
    local since, charges = unpack(cmsgpack.unpack(packed))
    for at, charge in ipairs(charges) do
      for _, period_s in ipairs(charge[3]) do
        local account = account_of(charge[1], charge[2])
        ring_add(ring_in(account, 'requests', period_s), -1, since, false)
        account.is_changed = true
      end
      charges[at] = { charge[1], charge[2], {} }
    end
    redis.call('HSET', open, 'c:' .. uid, cmsgpack.pack({ since, charges }))
  end
end

OPS.count = count

function OPS.adopt(id, at, tokens, nanousd, charges)
  if redis.call('HEXISTS', open, 'h:' .. id) == 1 or redis.call('HEXISTS', prefix .. 'x:' .. me, id) == 1 or is_stone(id) then
    return
  end
  for _, charge in ipairs(charges) do
    for _, period in ipairs(charge[4]) do
      local balance = balance_of(charge[1], charge[2], period)
      balance.held, balance.is_changed = balance.held + nanousd, true
    end
  end
  redis.call('HSET', open, 'h:' .. id, cmsgpack.pack({ math.min(at, now), tokens, nanousd, charges }))
end

function OPS.join(uid, at, charges)
  if redis.call('HEXISTS', open, 'c:' .. uid) == 1 or is_stone(uid) then
    return
  end
  for _, charge in ipairs(charges) do
    local account = account_of(charge[1], charge[2])
    account.n, account.is_changed = account.n + 1, true
  end
  redis.call('HSET', open, 'c:' .. uid, cmsgpack.pack({ math.min(at, now), charges }))
end

function OPS.rebase(limit, name, period, nanousd)
  local balance = balance_of(limit, name, period)
  if balance.is_broken then
    return
  end
  local known = tonumber(redis.call('HGET', balance.key, 'c:' .. me) or 0) + (balance.by and balance.by[me] or 0)
  if nanousd > known then
    settle_on(balance, me, nanousd - known)
  end
end

function OPS.rebased()
  redis.call('HDEL', state, 'lost')
  redis.call('HSET', state, 'takes', int(request.takes))
end

-- A process without a heartbeat: its slots come back, its money is charged at the estimate until its journal corrects it.
local function sweep()
  local dead = redis.call('ZRANGEBYSCORE', prefix .. 'live', '-inf', int(now), 'LIMIT', 0, 1)[1]
  if not dead then
    return ''
  end
  local its = prefix .. 'o:' .. dead
  local found = redis.call('HRANDFIELD', its, SWEEP, 'WITHVALUES')
  for at = 1, #found, 2 do
    local field, packed = found[at], found[at + 1]
    local id = string.sub(field, 3)
    put_stone(id)
    if string.sub(field, 1, 1) == 'h' then
      local _, tokens, nanousd = unpack(cmsgpack.unpack(packed))
      close(dead, packed, tokens, nanousd)
      redis.call('HSET', prefix .. 'x:' .. dead, id, packed)
    else
      free_slots(packed, false)
    end
    redis.call('HDEL', its, field)
  end
  if #found > 0 then
    redis.call('PEXPIRE', prefix .. 'x:' .. dead, int(CHARGED_MS))
  end
  if redis.call('EXISTS', its) == 0 then
    local lease_end = tonumber(redis.call('ZSCORE', prefix .. 'live', dead))
    redis.call('ZREM', prefix .. 'live', dead)
    redis.call('ZADD', prefix .. 'doubt', int(lease_end - request.lease_ms * 1000 + HOUR), dead)
  end
  return dead
end

-- What a dead process may have spent of its share stays aside for an hour: then its journal had its time to say so.
local function free_doubt()
  local dead = redis.call('ZRANGEBYSCORE', prefix .. 'doubt', '-inf', int(now), 'LIMIT', 0, 1)[1]
  if not dead or free_shares(dead, SWEEP) > 0 then
    return ''
  end
  redis.call('ZREM', prefix .. 'doubt', dead)
  return dead
end

local function share_of(watch, live)
  local limit, name, kind, nanousd, left, is_wanted = unpack(watch)
  local period, end_us, which = period_at(kind)
  local balance = balance_of(limit, name, period, end_us)
  if balance.is_broken then
    return { which, 0 }
  end
  local room = nanousd - balance.settled - balance.held
  if balance.tight > 0 and room * 5 > nanousd and now - balance.tight > 2000000 then
    balance.tight = 0
    redis.call('HDEL', balance.key, 'tight')
  end
  local share = 0
  if is_wanted and balance.tight == 0 and not is_recovering() then
    local others = balance.told - balance.mine
    share = math.max(0, math.min(room - others, math.floor(room / live)))
  end
  local kept = is_recovering() and left or math.min(left, balance.mine) -- after a loss only the process itself knows
  set_mine(balance, math.max(share, kept))
  return { which, share }
end

local run = request.asks_run and string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or meta[5]
if request.asks_run and run ~= meta[5] then -- another server process: it may have forgotten, so all say first what they know
  redis.call('HSET', KEYS[1], 'run', run)
  if meta[2] or not request.comes_new then -- on a Cluster a space begins with its first call, and nobody has anything to say
    begin_recovery()
  end
end
renew_lease()
local seq, takes, is_lost = unpack(redis.call('HMGET', state, 'seq', 'takes', 'lost'))
seq = tonumber(seq or 0)
if seq < request.acked or tonumber(takes or 0) < request.takes then
  is_lost = '1'
  redis.call('HSET', state, 'lost', '1')
  begin_recovery()
end
if request.seq > seq then
  for _, op in ipairs(request.ops) do
    OPS[op[1]](unpack(op, 2))
  end
  seq = request.seq
  is_lost = redis.call('HGET', state, 'lost')
end
redis.call('HSET', state, 'seq', int(seq))
redis.call('PEXPIRE', state, int(STAYS_MS))
local live, shares, expired = live_count(), {}, sweep()
for at, watch in ipairs(request.watch) do
  shares[at] = share_of(watch, live)
end
write_all()
return { now, seq, live, is_lost and 1 or 0, is_recovering() and 1 or 0, shares, expired, free_doubt() }
