-- Entries and a hold: every dimension of every claim is checked as if what comes before it were taken; all is taken, or nothing.
local LIMIT, ACCOUNT, UNBOUNDED, CONCURRENCY, REQUESTS, TOKENS, SPENDS = 1, 2, 3, 4, 5, 6, 7

local function reply(status, ...)
  return { status, now, live_count(), ... }
end

-- 1. May this process take at all?
local open, state = prefix .. 'o:' .. me, prefix .. 'i:' .. me
local seq, takes, is_lost = unpack(redis.call('HMGET', state, 'seq', 'takes', 'lost'))
takes = tonumber(takes or 0)
if is_lost or tonumber(seq or 0) < request.seq or takes < request.takes then
  redis.call('HSET', state, 'lost', '1')
  begin_recovery()
  return reply('lost')
elseif is_recovering() then
  return reply('recovering')
end

-- 2. Which of it is taken already, and which may not be taken any more?
local known, stones = {}, {}
local function look_up(field, id)
  known[field] = redis.call('HGET', open, field)
  if not known[field] then
    stones[#stones + 1] = prefix .. 'v:' .. id
  end
end
for _, entry in ipairs(request.entries) do
  look_up('c:' .. entry[1], entry[1])
end
local hold = request.hold
if hold then
  look_up('h:' .. hold[1], hold[1])
end
if #stones > 0 and redis.call('EXISTS', unpack(stones)) > 0 then
  return reply('gone')
end

-- 3. Accounts of unbounded identities: beyond max_keys they share one, and idle ones are forgotten, the longest unseen first.
local function counts_still(span, place, may_go)
  local key = prefix .. 'b:' .. span[1] .. '|' .. place
  local found = redis.pcall('HMGET', key, 'settled', 'held')
  local settled, held = found[1], found[2]
  if found.err or tonumber(held or 0) > 0 or tonumber(settled or 0) > 0 and not (span[2] and span[2] + GRACE <= now) then
    return true
  elseif settled then
    may_go[#may_go + 1] = key
  end
  return false
end

local function is_idle(claim, place, may_go)
  local account = read_account(place)
  for field, packed in pairs(account.fields) do
    local period_s = string.match(field, '^[rt]%a+(%d+)$') -- requests60, tokens3600
    if period_s and #ring_of(packed, tonumber(period_s)).entries > 0 then
      return false
    end
  end
  if account.is_broken or account.n > 0 then
    return false
  end
  for _, spend in ipairs(claim[SPENDS]) do
    for _, span in ipairs(spend[2] == 'total' and { { 'total' } } or request[spend[2]]) do
      if counts_still(span, place, may_go) then
        return false
      end
    end
  end
  return true
end

local function forget_some(claim)
  local book = book_of(claim[LIMIT])
  for _ = 1, math.min(2, redis.call('ZCARD', book)) do
    local name, may_go = redis.call('ZRANGE', book, 0, 0)[1], {}
    local place = place_of(claim[LIMIT], name)
    if is_idle(claim, place, may_go) then
      redis.call('ZREM', book, name)
      redis.call('DEL', prefix .. 'a:' .. place, unpack(may_go))
    else
      put_last(book, name)
    end
  end
end

local function name_of(claim)
  if claim[UNBOUNDED] == 0 or redis.call('ZSCORE', book_of(claim[LIMIT]), claim[ACCOUNT]) or redis.call('ZCARD', book_of(claim[LIMIT])) < request.max_keys then
    return claim[ACCOUNT]
  end
  forget_some(claim)
  return redis.call('ZCARD', book_of(claim[LIMIT])) < request.max_keys and claim[ACCOUNT] or OTHERS
end

-- Each claim finds its account and balances once.
local names = {}
for at, claim in ipairs(request.claims) do
  names[at] = name_of(claim)
  claim.name = names[at]
end

local function its_account(claim)
  claim.account = claim.account or account_of(claim[LIMIT], claim.name)
  return claim.account
end

local function its_balances(claim)
  if not claim.balances then
    claim.balances = {}
    for at, spend in ipairs(claim[SPENDS]) do
      local id, end_us, which = period_at(spend[2])
      local balance = balance_of(claim[LIMIT], claim.name, id, end_us)
      claim.balances[at], balance.which = balance, which
    end
  end
  return claim.balances
end

-- 4. Check and take, in memory. What is told: how each dimension stands, one number behind the other, in the order of the claims;
-- before each part where it is refused, after all of it where it is taken.
local is_denied, is_squeezed, told = false, false, {}

-- Tells; and checks where something is wanted (not nil).
local function look_at_rates(account, kind, rates, want)
  for _, rate in ipairs(rates) do
    local ring, wait, size = ring_in(account, kind, rate[2]), 0, #told
    if want then
      wait = rate[1] == 0 and -1 or ring_wait(ring, want, rate[1])
      is_denied = is_denied or wait ~= 0
    end
    told[size + 1], told[size + 2], told[size + 3] = ring.total, ring_empty_at(ring), wait
  end
end

local function look_at_entry(entry, want)
  for _, at in ipairs(entry[2]) do
    local claim, size = request.claims[at], #told
    local account = its_account(claim)
    is_denied = is_denied or want and claim[CONCURRENCY] >= 0 and account.n >= claim[CONCURRENCY]
    told[size + 1], told[size + 2] = account.n, account.stay
    look_at_rates(account, 'requests', claim[REQUESTS], want)
  end
end

local function look_at_hold(tokens, nanousd)
  for _, at in ipairs(hold[2]) do
    local claim = request.claims[at]
    if #claim[TOKENS] > 0 then
      look_at_rates(its_account(claim), 'tokens', claim[TOKENS], tokens)
    end
    for index, balance in ipairs(its_balances(claim)) do
      local limit, size = claim[SPENDS][index][1], #told
      local room = limit - balance.settled - balance.held -- I1, without a sum that could round
      if nanousd and (limit == 0 or nanousd > room) then
        is_denied = true
      elseif nanousd and nanousd > room - (balance.told - balance.mine) then
        is_squeezed, balance.is_short = true, true
      end
      told[size + 1], told[size + 2] = balance.settled + balance.held, balance.which
    end
  end
end

local function add_to_rings(claim, kind, rates, count)
  local windows, account = {}, its_account(claim)
  for _, rate in ipairs(rates) do
    local ring = ring_in(account, kind, rate[2])
    if not ring.is_taken then -- two rates of one window are counted once
      ring.is_taken, windows[#windows + 1] = true, rate[2]
      ring_add(ring, count, now, true)
    end
  end
  for _, period_s in ipairs(windows) do
    ring_in(account, kind, period_s).is_taken = false
  end
  account.is_changed = true
  return windows
end

local function enter(entry)
  local charges = {}
  for index, at in ipairs(entry[2]) do
    local claim = request.claims[at]
    its_account(claim).n = its_account(claim).n + 1
    charges[index] = { claim[LIMIT], claim.name, add_to_rings(claim, 'requests', claim[REQUESTS], 1) }
  end
  return cmsgpack.pack({ now, charges })
end

local function take_hold(tokens, nanousd)
  local charges = {}
  for index, at in ipairs(hold[2]) do
    local claim, periods = request.claims[at], {}
    local windows = #claim[TOKENS] > 0 and add_to_rings(claim, 'tokens', claim[TOKENS], tokens) or {}
    for which, balance in ipairs(its_balances(claim)) do
      balance.held, balance.is_changed = balance.held + nanousd, true
      set_mine(balance, math.max(0, balance.mine - nanousd))
      periods[which] = balance.period
    end
    charges[index] = { claim[LIMIT], claim.name, windows, periods, claim[UNBOUNDED] }
  end
  return cmsgpack.pack({ now, tokens, nanousd, charges })
end

local taken = {}
for _, entry in ipairs(request.entries) do
  local is_new = not known['c:' .. entry[1]]
  look_at_entry(entry, is_new and 1)
  if is_new and not is_denied then
    taken[#taken + 1], taken[#taken + 2] = 'c:' .. entry[1], enter(entry)
  end
end
local held_before = hold and known['h:' .. hold[1]]
if held_before then
  look_at_hold()
elseif hold then
  look_at_hold(hold[3], hold[4])
  if not (is_denied or is_squeezed) then
    taken[#taken + 1], taken[#taken + 2] = 'h:' .. hold[1], take_hold(hold[3], hold[4])
  end
end

-- 5. Write all of it, or nothing.
local broken = {}
for place, account in pairs(accounts) do
  broken[#broken + 1] = account.is_broken and prefix .. 'a:' .. place or nil
end
for _, balance in pairs(balances) do
  broken[#broken + 1] = balance.is_broken and balance.key or nil
end
if #broken > 0 then
  return reply('broken', broken)
elseif is_denied then
  return reply('denied', names, told, '')
elseif is_squeezed then
  for _, balance in pairs(balances) do
    if balance.is_short then
      redis.call('HSET', balance.key, 'tight', int(now)) -- the others learn it at their next heartbeat
    end
  end
  return reply('squeezed')
end
renew_lease()
write_all()
if #taken > 0 then
  redis.call('HSET', open, unpack(taken))
end
redis.call('HSET', state, 'takes', int(takes + 1))
for at, claim in ipairs(request.claims) do
  if claim[UNBOUNDED] == 1 and #taken > 0 and not redis.call('ZSCORE', book_of(claim[LIMIT]), names[at]) then
    forget_some(claim)
    put_last(book_of(claim[LIMIT]), names[at])
  end
end
told = {}
for _, entry in ipairs(request.entries) do
  look_at_entry(entry)
end
if hold then
  look_at_hold()
end
return reply('taken', names, told, held_before and cjson.encode(cmsgpack.unpack(held_before)[4]) or '')
