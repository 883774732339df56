// What RedisSessionStore has Redis do in one step, in Lua. Redis's clock is the only one: gateways may
// differ.
//
//   clamor:s:TENANT:NAME   hash of a session: uid version messages bytes created updated expires ttl
//   clamor:t:TENANT:NAME   list of its turns, each "REQUEST_ID:" and a Turn
//   clamor:n:TENANT        sorted set of the tenant's names, by name
//   clamor:expiry          sorted set of "TENANT:NAME" by time of expiry
//   clamor:r:TENANT:ID     a StoredStream
//
// A session and its turns expire by themselves; their names go with the next Create or List. Neither tenants
// nor names hold a colon. Every script but kErase answers {"ok", ...} or {what is wrong, ...}.
#pragma once

#include "absl/strings/string_view.h"

namespace clamor::redis_scripts {

// The start of every script.
inline constexpr absl::string_view kPrelude = R"lua(
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function head(key)
  return redis.call('HMGET', key, 'uid', 'version', 'messages', 'bytes', 'created', 'updated', 'expires', 'ttl')
end
local function drop(tenant, name)
  redis.call('DEL', 'clamor:s:' .. tenant .. ':' .. name, 'clamor:t:' .. tenant .. ':' .. name)
  redis.call('ZREM', 'clamor:n:' .. tenant, name)
  redis.call('ZREM', 'clamor:expiry', tenant .. ':' .. name)
end
local function prune()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', 'clamor:expiry', '-inf', '(' .. now, 'LIMIT', 0, 1000)) do
    drop(string.match(member, '^([^:]*):(.*)$'))
  end
end
local function put_off(session, turns, member, ttl)
  local expires = string.format('%d', now + ttl)
  redis.call('HSET', session, 'expires', expires)
  redis.call('PEXPIREAT', session, expires)
  redis.call('PEXPIREAT', turns, expires)
  redis.call('ZADD', 'clamor:expiry', expires, member)
end
)lua";

// KEYS: session, turns, names. ARGV: tenant, name, uid, ttl, most sessions, messages, opening turn or "".
inline constexpr absl::string_view kCreate = R"lua(
prune()
local there = head(KEYS[1])
if there[1] == ARGV[3] then return {'ok', there} end
if there[1] then return {'exists'} end
local count = redis.call('ZCARD', KEYS[3])
if count >= tonumber(ARGV[5]) then return {'full', count} end
local version = 0
redis.call('DEL', KEYS[2])
if ARGV[7] ~= '' then version = redis.call('RPUSH', KEYS[2], ':' .. ARGV[7]) end
local stamp = string.format('%d', now)
redis.call('HSET', KEYS[1], 'uid', ARGV[3], 'version', version, 'messages', ARGV[6], 'bytes', #ARGV[7],
           'created', stamp, 'updated', stamp, 'ttl', ARGV[4])
redis.call('ZADD', KEYS[3], 0, ARGV[2])
put_off(KEYS[1], KEYS[2], ARGV[1] .. ':' .. ARGV[2], ARGV[4])
return {'ok', head(KEYS[1])}
)lua";

// KEYS: session.
inline constexpr absl::string_view kFind = R"lua(
local there = head(KEYS[1])
if not there[1] then return {'missing'} end
return {'ok', there}
)lua";

// KEYS: session, turns. ARGV: the first and the last index.
inline constexpr absl::string_view kRead = R"lua(
local there = head(KEYS[1])
if not there[1] then return {'missing'} end
return {'ok', there, redis.call('LRANGE', KEYS[2], ARGV[1], ARGV[2])}
)lua";

// KEYS: session, turns. ARGV: tenant, name, uid, version, request id, turn, messages.
inline constexpr absl::string_view kAppend = R"lua(
local there = head(KEYS[1])
if there[1] ~= ARGV[3] then return {'missing'} end
local prefix = ARGV[5] .. ':'
if there[2] ~= ARGV[4] then
  local turn = redis.call('LINDEX', KEYS[2], ARGV[4])
  if not turn or string.sub(turn, 1, #prefix) ~= prefix then return {'conflict', there[2]} end
  there[2] = string.format('%d', ARGV[4] + 1)
  return {'ok', there}
end
redis.call('RPUSH', KEYS[2], prefix .. ARGV[6])
redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('HINCRBY', KEYS[1], 'messages', ARGV[7])
redis.call('HINCRBY', KEYS[1], 'bytes', #ARGV[6])
redis.call('HSET', KEYS[1], 'updated', string.format('%d', now))
put_off(KEYS[1], KEYS[2], ARGV[1] .. ':' .. ARGV[2], there[8])
return {'ok', head(KEYS[1])}
)lua";

// KEYS: session. ARGV: tenant, name.
inline constexpr absl::string_view kDelete = R"lua(
if redis.call('EXISTS', KEYS[1]) == 0 then return {'missing'} end
drop(ARGV[1], ARGV[2])
return {'ok'}
)lua";

// KEYS: names. ARGV: tenant, the name before, how many. Answers a name and a hash in turns.
inline constexpr absl::string_view kList = R"lua(
prune()
local list = {}
local after = ARGV[2] == '' and '-' or '(' .. ARGV[2]
while #list < 2 * ARGV[3] do
  local names = redis.call('ZRANGEBYLEX', KEYS[1], after, '+', 'LIMIT', 0, ARGV[3] - #list / 2)
  if #names == 0 then break end
  for _, name in ipairs(names) do
    local there = head('clamor:s:' .. ARGV[1] .. ':' .. name)
    if there[1] then
      list[#list + 1] = name
      list[#list + 1] = there
    end
    after = '(' .. name
  end
end
return {'ok', list}
)lua";

inline constexpr absl::string_view kCount = R"lua(
return {'ok', redis.call('ZCOUNT', 'clamor:expiry', string.format('%d', now), '+inf')}
)lua";

// KEYS: names. ARGV: tenant. Removes up to 1000 sessions, and answers how many.
inline constexpr absl::string_view kErase = R"lua(
local names = redis.call('ZRANGE', KEYS[1], 0, 999)
for _, name in ipairs(names) do drop(ARGV[1], name) end
return {'ok', #names}
)lua";

}  // namespace clamor::redis_scripts
