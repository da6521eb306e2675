-- Gives a process parts of one account's limits, for calls that are decided in another slot. What is given counts as used at once:
-- money and slots as a level that the process tells anew with each call, rates as taken at the instant the grant ends.
local place = place_of(request.limit, request.account)
local account = account_of(request.limit, request.account)
assert(not account.is_broken, 'WRONGTYPE what is kept of this account cannot be read')
local ledger = prefix .. 'g:' .. place -- by process: number of its last call, slots it has, end of its lease

local function told_by(packed)
  local seq, slots, lease_end = string.match(packed or '0 0 0', '^(%d+) (%d+) (%d+)$')
  return tonumber(seq), tonumber(slots), tonumber(lease_end)
end

local seq, slots = told_by(redis.call('HGET', ledger, me))
if request.seq <= seq then
  return { 'stale', now }
end

-- Beyond what is kept: all that is needed or nothing, and with it a part that shrinks with what is left.
local function raised(keep, need, chunk, room)
  local left = room - keep
  if need > left then
    return keep
  end
  return keep + math.max(need, math.min(chunk, math.floor(left / 8)), 0)
end

local function grant_money(kind, most, period, keep, need, want, chunk)
  local id, end_us, which = period_at(kind)
  local balance = balance_of(request.limit, request.account, id, end_us)
  assert(not balance.is_broken, 'WRONGTYPE what is kept of this account cannot be read')
  if period ~= id then -- what the process has is of another period
    keep, need = 0, want
  end
  local others = balance.settled - tonumber(redis.call('HGET', balance.key, 'x:' .. me) or 0)
  local room = most - others - balance.held - balance.told
  local level = raised(keep, need, chunk, room)
  balance.settled, balance.is_changed = others + level, true
  redis.call('HSET', balance.key, 'settled', int(balance.settled), 'x:' .. me, int(level))
  return { level, which, math.max(0, room - keep) }
end

-- `backs`: what was given to end at an instant and was not used, or used beyond it. Of what is given now, nothing is used after
-- `now + valid_us`.
local function grant_rate(kind, most, period_s, need, chunk, valid_us, backs)
  local ring = ring_in(account, kind, period_s)
  assert(not account.is_broken, 'WRONGTYPE what is kept of this account cannot be read')
  for _, back in ipairs(backs) do
    ring_add(ring, -back[2], back[1], false)
  end
  local wait = ring_wait(ring, need, most)
  local left, given = math.max(0, most - ring.total), 0
  if need > 0 and wait == 0 then
    given = math.max(need, math.min(chunk, math.floor(left / 8)))
    ring_add(ring, given, now + valid_us, true)
  end
  account.is_changed = true
  return { given, now + valid_us, wait, left }
end

-- Slots of processes whose lease is over come back, when somebody is in need of them.
local function free_the_dead()
  local found = redis.call('HGETALL', ledger)
  for at = 1, #found, 2 do
    local _, its, lease_end = told_by(found[at + 1])
    if lease_end > 0 and lease_end <= now and found[at] ~= me then
      redis.call('HDEL', ledger, found[at])
      account.n = math.max(0, account.n - its)
    end
  end
end

local function grant_slots(most, keep, need, chunk)
  local others = math.max(0, account.n - slots)
  if need > most - others - keep then
    free_the_dead()
    others = math.max(0, account.n - slots)
  end
  slots = raised(keep, need, chunk, most - others)
  account.n, account.is_changed = others + slots, true
  return { slots, math.max(0, most - others - keep) }
end

local GRANTS = { spend = grant_money, rate = grant_rate, slots = grant_slots }
local told = {}
for at, ask in ipairs(request.asks) do
  told[at] = GRANTS[ask[1]](unpack(ask, 2))
end
redis.call('HSET', ledger, me, string.format('%.0f %.0f %.0f', request.seq, slots, now + request.lease_ms * 1000))
redis.call('PEXPIRE', ledger, int(ACCOUNT_MS))
write_all()
return { 'granted', now, told }
