-- This process gives its shares back; at its graceful end it also leaves the fleet. Says how many shares are left: call again.
local left = free_shares(me, 64)
if left == 0 and request.is_end then
  if redis.call('EXISTS', prefix .. 'o:' .. me) == 1 then
    redis.call('ZADD', prefix .. 'live', int(now), me) -- swept as dead from now on
  else
    redis.call('ZREM', prefix .. 'live', me)
  end
  redis.call('ZREM', prefix .. 'doubt', me)
end
return left
