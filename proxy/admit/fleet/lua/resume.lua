-- What a process left open before its restart, a page at a time: open items (o:), then what was charged after its lease (x:).
local which, cursor = request.which, request.cursor
local found = redis.call('HSCAN', prefix .. which .. ':' .. me, cursor, 'COUNT', 100)
local items = {}
for at = 1, #found[2], 2 do
  local field, record = found[2][at], cmsgpack.unpack(found[2][at + 1])
  if string.sub(field, 1, 2) == 'c:' and which == 'o' then
    items[#items + 1] = { 'call', string.sub(field, 3) }
  else
    local id = which == 'o' and string.sub(field, 3) or field
    items[#items + 1] = { which == 'o' and 'hold' or 'charged', id, record[1], record[2], record[3] }
  end
end
return { found[1], tonumber(redis.call('HGET', prefix .. 'i:' .. me, 'seq') or 0), items }
