-- One call records what a node has heard of some swarms, and tells it what is known of them.
--
-- KEYS: swarms. ARGV: the tick (4 s of Unix time), the most peers a swarm may have, a random number below 2^31, and for each
-- swarm the most peers to tell of one list (0: only whether it was known; below 0: so many of WebSockets, and counts of the rest: who
-- counts those has to see whose they are) and the announces, packed.
-- Returns a string for each swarm; an empty one is a key that holds something else.
--
-- A swarm is one hash. Field m is its head; the peers are in six lists (IPv4, IPv6 and WebSocket; leechers, seeders), a list in
-- buckets of some thirty peers, a bucket a string: the expiry of whoever goes first, then the peers as they came, each
-- an endpoint and two bytes of expiry and flag. docs/redis.md has the bytes.
--
-- Whatever the size of a swarm, a call touches the buckets of the peers it brings, those it samples and one more; the
-- expired go from a bucket when it is touched. Buckets split and merge one at a time (linear hashing).
local byte, sub, find, concat, floor = string.byte, string.sub, string.find, table.concat, math.floor
local pack, unpk, call = struct.pack, struct.unpack, redis.call

local tick, most, dice = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local ENDS = {6, 6, 18, 18, 12, 12}         -- bytes of an endpoint, by list
local WIDTH = {8, 8, 20, 20, 14, 14}        -- and with expiry and flag
local NAME = {'a', 'b', 'c', 'd', 'e', 'f'} -- the field of a list's first bucket
local BIT = {1, 2, 4, 8, 16, 32}
local FILL, SPARSE = 32, 8                  -- peers a bucket, on average: split above, merge below
local MERGES = 16                           -- at most, of a list in a call

-- The swarm at hand.
local key, mult, paused
local n, b = {}, {}      -- peers and buckets of each list
local cache, dirty = {}, {}

-- life is how many ticks are left before an expiry, or nil. Expiries are the lower 15 bits of a tick, compared modulo.
local function life(e)
  local left = (e - tick) % 32768
  if left > 0 and left <= 16384 then return left end
end

local function field(l, i)
  if i == 0 then return NAME[l] end
  return NAME[l] .. pack('<I2', i)
end

local function store(f, s)
  cache[f] = s
  dirty[f] = true
end

-- trim returns bucket s of list l without its expired peers.
local function trim(l, s)
  local w, keep, soonest = WIDTH[l], {}, 16385
  for p = 3, #s, w do
    local lo, hi = byte(s, p + w - 2, p + w - 1)
    local left = life((lo + hi * 256) % 32768)
    if left then
      keep[#keep + 1] = sub(s, p, p + w - 1)
      if left < soonest then soonest = left end
    else
      n[l] = n[l] - 1
      if hi >= 128 then paused = paused - 1 end
    end
  end
  if #keep == 0 then return '' end
  return pack('<I2', (tick + soonest) % 32768) .. concat(keep)
end

-- load returns a bucket, trimmed if somebody in it has expired, and its field.
local function load(l, i)
  local f = field(l, i)
  local s = cache[f]
  if s then return s, f end
  s = call('HGET', key, f) or ''
  cache[f] = s
  if s ~= '' then
    local lo, hi = byte(s, 1, 2)
    if not life(lo + hi * 256) then
      s = trim(l, s)
      store(f, s)
    end
  end
  return s, f
end

-- hash is a polynomial over the endpoint's 16-bit words at a point that is this swarm's secret, modulo a prime: nobody outside
-- can choose endpoints that share a bucket. All products stay below 2^53.
local function hash(e)
  local h = 1
  for p = 1, #e, 2 do
    local x, y = byte(e, p, p + 1)
    h = (h * mult + x * 256 + y) % 2147483647
  end
  return h
end

-- place is the bucket of endpoint e: the hash's lower bits, one bit less for buckets that have not split yet.
local function place(l, e)
  local have = b[l]
  if have <= 1 then return 0 end
  local pow = 1
  while pow * 2 <= have do pow = pow * 2 end
  local i = hash(e) % (pow * 2)
  if i >= have then i = i - pow end
  return i
end

-- at returns where endpoint e begins in bucket s.
local function at(l, s, e)
  local w, p = WIDTH[l], 3
  while true do
    p = find(s, e, p, true)
    if not p then return nil end
    if (p - 3) % w == 0 then return p end
    p = p + 1
  end
end

-- append adds peers to a bucket; soonest is the earliest expiry among them.
local function append(s, peers, soonest)
  if s == '' then return pack('<I2', soonest) .. peers end
  local lo, hi = byte(s, 1, 2)
  local old = lo + hi * 256
  if (life(soonest) or 0) < (life(old) or 0) then return pack('<I2', soonest) .. sub(s, 3) .. peers end
  return s .. peers
end

local function split(l)
  local have, pow = b[l], 1
  while pow * 2 <= have do pow = pow * 2 end
  local from = have - pow
  local s, f = load(l, from)
  local w, stay, go = WIDTH[l], {}, {}
  for p = 3, #s, w do
    local peer = sub(s, p, p + w - 1)
    if hash(sub(peer, 1, ENDS[l])) % (pow * 2) == have then go[#go + 1] = peer else stay[#stay + 1] = peer end
  end
  local head = sub(s, 1, 2)
  store(f, #stay > 0 and head .. concat(stay) or '')
  store(field(l, have), #go > 0 and head .. concat(go) or '')
  b[l] = have + 1
end

local function merge(l)
  local last, pow = b[l] - 1, 1
  while pow * 2 <= last do pow = pow * 2 end
  local s, f = load(l, last)
  if s ~= '' then
    local lo, hi = byte(s, 1, 2)
    local into, g = load(l, last - pow)
    store(g, append(into, sub(s, 3), lo + hi * 256))
  end
  store(f, '')
  b[l] = last
end

-- take removes the peer at p of bucket s and tells whether it was paused.
local function take(l, s, f, p)
  local w = WIDTH[l]
  local was = byte(s, p + w - 1) >= 128
  s = sub(s, 1, p - 1) .. sub(s, p + w)
  if #s == 2 then s = '' end
  store(f, s)
  n[l] = n[l] - 1
  if was then paused = paused - 1 end
end

local function total() return n[1] + n[2] + n[3] + n[4] + n[5] + n[6] end

-- announce applies one: kind, endpoint and expiry with flag. It returns 1 when that completed a download.
local function announce(kind, e, meta)
  local l = kind % 4 * 2 + floor(kind / 4) % 2 + 1
  local other = l % 2 == 1 and l + 1 or l - 1
  local completed = 0
  local s, f, p
  if n[l] > 0 then
    s, f = load(l, place(l, e))
    if s ~= '' then p = at(l, s, e) end
  end
  local expiry = meta % 32768
  if p then -- where it was: the usual case
    if kind >= 128 then
      take(l, s, f, p)
      return 0
    end
    local w = WIDTH[l]
    local lo, hi = byte(s, p + w - 2, p + w - 1)
    if floor(kind / 64) % 2 == 1 and (life((lo + hi * 256) % 32768) or 0) >= (life(expiry) or 0) then return 0 end
    local first, second = byte(s, 1, 2)
    local head = sub(s, 1, 2)
    if (life(expiry) or 0) < (life(first + second * 256) or 0) then head = pack('<I2', expiry) end
    store(f, head .. sub(s, 3, p + w - 3) .. pack('<I2', meta) .. sub(s, p + w))
    if hi >= 128 then paused = paused - 1 end
    if meta >= 32768 then paused = paused + 1 end
    return 0
  end
  if n[other] > 0 then
    local t, g = load(other, place(other, e))
    local q = t ~= '' and at(other, t, e)
    if q then
      if floor(kind / 64) % 2 == 1 then
        local w = WIDTH[other]
        local lo, hi = byte(t, q + w - 2, q + w - 1)
        if (life((lo + hi * 256) % 32768) or 0) >= (life(expiry) or 0) then return 0 end
      end
      take(other, t, g, q)
    end
  end
  if kind >= 128 then return 0 end
  if not life(expiry) or total() >= most then return 0 end
  if floor(kind / 32) % 2 == 1 and l % 2 == 0 then completed = 1 end
  if b[l] == 0 then b[l] = 1 end
  s, f = load(l, place(l, e))
  store(f, append(s, e .. pack('<I2', meta), expiry))
  n[l] = n[l] + 1
  if meta >= 32768 then paused = paused + 1 end
  if n[l] > FILL * b[l] and b[l] < 65535 then split(l) end
  return completed
end

local function swarm(want, announces)
  local head = redis.pcall('HGET', key, 'm')
  if type(head) == 'table' then return '' end
  for f in pairs(cache) do cache[f] = nil end
  for f in pairs(dirty) do dirty[f] = nil end
  for l = 1, 6 do n[l], b[l] = 0, 0 end
  local downloaded, latest, till, known, changed = 0, 0, 0, 0, #announces > 0
  paused = 0
  if head then
    known = 1
    local mask, pos
    mult, downloaded, latest, till, paused, mask, pos = unpk('<I3I4I4I4I3B', head)
    for l = 1, 6 do
      if floor(mask / BIT[l]) % 2 == 1 then n[l], b[l], pos = unpk('<I3I2', head, pos) end
    end
    if latest <= tick then -- all have expired, maybe so long ago that their expiries mean the future
      if total() > 0 then
        call('DEL', key)
        changed, till, paused = true, 0, 0
      end
      for l = 1, 6 do n[l], b[l] = 0, 0 end
    end
  else
    -- Odd: times a multiple of a power of two, endpoints that differ in one word would have the same low bits.
    mult = 65537 + (dice * 7 + #announces) % 2000000 * 2
  end

  local pos = 1
  while pos <= #announces do
    local kind = byte(announces, pos)
    local w = ENDS[kind % 4 * 2 + 1]
    local e = sub(announces, pos + 1, pos + w)
    local lo, hi = byte(announces, pos + w + 1, pos + w + 2)
    local meta = lo + hi * 256
    pos = pos + w + 3
    downloaded = downloaded + announce(kind, e, meta)
    local left = kind < 128 and life(meta % 32768)
    if left and tick + left > latest then latest = tick + left end
  end

  local wide, reply = 1, {}
  for l = 1, 6 do
    if b[l] > b[wide] then wide = l end
  end
  if b[wide] > 1 then load(wide, dice % b[wide]) end

  for l = 1, 6 do
    local parts = {}
    local size = want
    if want < 0 and l > 4 then size = -want end
    if size > 0 and n[l] > 0 then
      local have, take = b[l], b[l]
      if n[l] > size then take = math.min(have, math.ceil(size * have / n[l])) end
      -- A list that was big and whose peers have gone has more buckets than peers, for a while: its sample is then smaller.
      take = math.min(take, floor(size / SPARSE) + 8)
      for j = 0, take - 1 do
        -- Spread over all buckets: those that have split are half as full as those that have not, and lie side by side.
        local s = load(l, (dice + floor(j * have / take)) % have)
        if s ~= '' then parts[#parts + 1] = sub(s, 3) end
      end
    end
    reply[l] = concat(parts)
  end

  for l = 1, 6 do
    if n[l] == 0 then
      b[l] = 0
    else
      for _ = 1, MERGES do
        if b[l] > 1 and n[l] < SPARSE * b[l] then merge(l) end
      end
    end
  end

  local all = total()
  if changed or next(dirty) then
    if all == 0 and (downloaded == 0 or known == 1) then
      call('DEL', key)
      till = 0
    end
    if all > 0 or downloaded > 0 then
      local set, del, mask, lists = {}, {}, 0, {}
      for f in pairs(dirty) do
        if cache[f] == '' then
          del[#del + 1] = f
        else
          set[#set + 1] = f
          set[#set + 1] = cache[f]
        end
      end
      for l = 1, 6 do
        if n[l] > 0 then
          mask = mask + BIT[l]
          lists[#lists + 1] = pack('<I3I2', n[l], b[l])
        end
      end
      -- The key outlives its last peer a little, and one with downloads by a day, as the memory store has it. Moved once in a while:
      -- to move it costs a call.
      local last = latest
      if downloaded > 0 then last = math.max(latest, tick) + 21600 end
      local expire = last > till
      if expire then till = last + 450 end
      set[#set + 1] = 'm'
      set[#set + 1] = pack('<I3I4I4I4I3B', mult, downloaded, latest, till, paused, mask) .. concat(lists)
      call('HSET', key, unpack(set))
      if #del > 0 and all > 0 then call('HDEL', key, unpack(del)) end
      if expire then call('EXPIRE', key, (till - tick) * 4) end
    end
  end
  if want == 0 then return pack('<B', known) end
  local out = {pack('<BI4I4', known, downloaded, paused)}
  for l = 1, 6 do out[#out + 1] = pack('<I4I4', n[l], #reply[l]) .. reply[l] end
  return concat(out)
end

local replies = {}
for i = 1, #KEYS do
  key = KEYS[i]
  replies[i] = swarm(tonumber(ARGV[2 + i * 2]), ARGV[3 + i * 2])
end
return replies
