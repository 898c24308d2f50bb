package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Order is something that all nodes are to do. Of several about the same thing the last one given counts, by Redis's clock.
type Order struct {
	What  string // what it is about, as "switch ws"
	Text  string // what to do: the caller's
	At    time.Time
	Until time.Time // zero: for good
}

// An entry is an order as it is kept. Times are microseconds of Unix time by Redis's clock; 0: never.
type entry struct {
	What   string `json:"what"`
	Text   string `json:"text"`
	At     int64  `json:"at_us"`
	Until  int64  `json:"until_us,omitempty"`
	Gone   int64  `json:"gone_us,omitempty"` // when nobody needs to know of it any more
	Untold bool   `json:"untold,omitempty"`  // Redis has not confirmed it
	seen   uint64 // the round of sync in which Redis had it
}

// orders are all that this node has been given or told.
type orders struct {
	woken chan struct{} // holds one

	mu      sync.Mutex // guards what follows; not held over calls of Redis
	entries map[string]*entry
	changed bool   // since it was saved
	life    string // of Redis, as the last beat had it
	lastSeq int64  // the same

	telling sync.Mutex // one tells at a time; taken before mu
	saving  sync.Mutex // one writes file at a time; taken before mu
	file    string
}

// orderScript takes orders, unless Redis has one about the same that was given later. In Redis they are one hash, what to
// "at until gone text"; a sorted set that has them in the order in which they came; and one of when they can go.
var orderScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
for _, what in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], 0, now, 'LIMIT', 0, 256)) do
  redis.call('HDEL', KEYS[1], what)
  redis.call('ZREM', KEYS[2], what)
  redis.call('ZREM', KEYS[3], what)
end
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local seq = math.max(now, (tonumber(last[2]) or 0) + 1)
local reply = {string.format('%.0f', now)}
for i = 2, #ARGV, 5 do
  local what, at, gone = ARGV[i], math.min(tonumber(ARGV[i + 1]), now), tonumber(ARGV[i + 3])
  local old = redis.call('HGET', KEYS[1], what)
  if not old and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[1]) then
    reply[#reply + 1] = what
  elseif at > (old and tonumber(string.match(old, '^%d+')) or 0) then
    redis.call('HSET', KEYS[1], what, string.format('%.0f ', at) .. ARGV[i + 2] .. ' ' .. ARGV[i + 3] .. ' ' .. ARGV[i + 4])
    redis.call('ZADD', KEYS[2], string.format('%.0f', seq), what)
    redis.call('ZREM', KEYS[3], what)
    if gone > 0 then redis.call('ZADD', KEYS[3], ARGV[i + 3], what) end
    seq = seq + 1
  end
end
return reply
`)

// newsScript tells what came after a place in that order.
var newsScript = redis.NewScript(`
local list = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, 256)
local news = {}
for i = 1, #list, 2 do
  news[#news + 1] = list[i]
  news[#news + 1] = list[i + 1]
  news[#news + 1] = redis.call('HGET', KEYS[1], list[i]) or ''
end
return news
`)

const newsBatch = 256

func (n *Node) orderKeys() []string { return []string{n.key("orders"), n.key("index"), n.key("ends")} }

// ErrUntold comes with an order that is kept here, and told when Redis answers.
var ErrUntold = errors.New("not told to the other nodes yet; they are told as soon as redis answers")

// Order tells all nodes, those too that are down now and come back. d is how long it is in force, 0 for good; keep is how long after
// that, or if d is 0 after now, it has to be known, 0 for ever. The caller has done here what it says: Apply is not called for it on
// this node. An error that is ErrUntold means that it will be told; with any other nothing is.
func (n *Node) Order(ctx context.Context, what, text string, d, keep time.Duration) error {
	if len(what) > maxWhatBytes || len(text) > maxTextBytes {
		return fmt.Errorf("order of %d and %d bytes; must have %d and %d at most", len(what), len(text), maxWhatBytes, maxTextBytes)
	}
	e := &entry{What: what, Text: text, At: n.clock(time.Now()), Untold: true}
	if d > 0 {
		e.Until = e.At + d.Microseconds()
	}
	switch {
	case d > 0:
		e.Gone = e.Until + keep.Microseconds()
	case keep > 0:
		e.Gone = e.At + keep.Microseconds()
	}
	if !n.orders.put(e) {
		return fmt.Errorf("there are %d orders to all nodes, and cannot be more; remove some", maxOrders)
	}
	n.metrics.ordersGiven.Add(1)
	ctx, cancel := context.WithTimeout(ctx, 2*timeout)
	defer cancel()
	if err := n.tell(ctx); err != nil {
		n.orders.save(n)
		poke(n.orders.woken)
		return fmt.Errorf("%w (%w)", ErrUntold, err)
	}
	poke(n.beatNow)
	poke(n.orders.woken) // to save
	return nil
}

// put enters an order. False means that there is no room.
func (o *orders) put(e *entry) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.entries[e.What]
	if old == nil && len(o.entries) >= maxOrders {
		return false
	}
	if old != nil {
		e.At = max(e.At, old.At+1) // clocks that were set back
	}
	o.entries[e.What] = e
	o.changed = true
	return true
}

// heard takes over what a beat has brought of orders.
func (o *orders) heard(life string, lastSeq int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.life != life || o.lastSeq != lastSeq {
		o.life, o.lastSeq = life, lastSeq
		poke(o.woken)
	}
}

func (o *orders) count() (held, untold int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.entries {
		if e.Untold {
			untold++
		}
	}
	return len(o.entries), untold
}

// runOrders follows and tells orders as beats say that there are some.
func (n *Node) runOrders(ctx context.Context) {
	o := &n.orders
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	defer o.save(n)
	at := place{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.woken:
		case <-retry.C:
		}
		if !n.up.Load() {
			continue
		}
		if n.follow(ctx, &at) == nil {
			_ = n.tell(ctx) // what fails is tried again in a second
		}
		o.forget(n.clock(time.Now()))
		o.save(n)
	}
}

// place is how far a node has read.
type place struct {
	life  string
	seq   int64
	round uint64
}

// follow reads what is new in Redis and applies what is new here. Of a Redis that is new itself, it reads everything, and notes for
// telling what that lacks.
func (n *Node) follow(ctx context.Context, at *place) error {
	o := &n.orders
	o.mu.Lock()
	life, last := o.life, o.lastSeq
	o.mu.Unlock()
	if life == at.life && last == at.seq {
		return nil
	}
	whole := life != at.life
	seq := at.seq
	if whole {
		if at.life != "" {
			n.metrics.lost.Add(1)
		}
		seq = 0
		at.round++
	}
	for {
		news, err := n.news(ctx, seq)
		if err != nil {
			return err
		}
		for i := range news {
			seq = max(seq, news[i].seq)
			e := news[i].entry
			n.learn(&e, at.round)
		}
		if len(news) < newsBatch {
			break
		}
	}
	at.life, at.seq = life, seq
	if whole {
		o.lacking(at.round)
	}
	return nil
}

// learn applies an order that is news.
func (n *Node) learn(e *entry, round uint64) {
	o := &n.orders
	if e.What == "" || e.At > n.clock(time.Now())+maxAhead.Microseconds() {
		n.metrics.ordersUnheeded.Add(1)
		return
	}
	o.mu.Lock()
	old := o.entries[e.What]
	known := old != nil && old.At >= e.At || old == nil && len(o.entries) >= maxOrders
	if known && old != nil {
		old.seen = round
	}
	o.mu.Unlock()
	if known {
		return
	}
	// First done, then noted: a crash in between has it done again, which does no harm.
	n.cfg.Apply(Order{What: e.What, Text: e.Text, At: n.time(e.At), Until: n.time(e.Until)})
	n.metrics.ordersApplied.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	e.seen = round
	if old := o.entries[e.What]; old == nil || old.At < e.At {
		o.entries[e.What] = e
		o.changed = true
	}
}

// lacking notes for telling what Redis did not have in a round.
func (o *orders) lacking(round uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.entries {
		if e.seen != round && !e.Untold {
			e.Untold = true
			o.changed = true
		}
	}
}

// forget drops what nobody needs to know any more.
func (o *orders) forget(now int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for what, e := range o.entries {
		if e.Gone != 0 && e.Gone <= now {
			delete(o.entries, what)
			o.changed = true
		}
	}
}

// tell gives Redis what it has not confirmed.
func (n *Node) tell(ctx context.Context) error {
	o := &n.orders
	o.telling.Lock()
	defer o.telling.Unlock()
	untold := o.untold()
	full := false
	for len(untold) > 0 {
		batch := untold[:min(len(untold), newsBatch)]
		untold = untold[len(batch):]
		args := []any{maxOrders}
		for _, e := range batch {
			args = append(args, e.What, e.At, e.Until, e.Gone, e.Text)
		}
		client, err := n.redis()
		if err != nil {
			return err
		}
		call, cancel := context.WithTimeout(ctx, timeout)
		reply, err := orderScript.Run(call, client, n.orderKeys(), args...).StringSlice()
		cancel()
		if err != nil {
			return err
		}
		if len(reply) == 0 {
			return errReply
		}
		now, err := number(reply[0])
		if err != nil {
			return err
		}
		full = full || len(reply) > 1
		o.told(batch, reply[1:], now)
	}
	if full {
		return fmt.Errorf("redis has %d orders to all nodes; remove some", maxOrders)
	}
	return nil
}

// untold are copies of what Redis has not confirmed.
func (o *orders) untold() (list []entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.entries {
		if e.Untold {
			list = append(list, *e)
		}
	}
	return list
}

// told notes what Redis has confirmed, all but refused, at now.
func (o *orders) told(batch []entry, refused []string, now int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range batch {
		e := o.entries[batch[i].What]
		if e == nil || e.At != batch[i].At || slices.Contains(refused, e.What) {
			continue // there is a later one already
		}
		e.Untold = false
		e.At = min(e.At, now) // as Redis has it: a clock that is ahead must not have the last word until then
		o.changed = true
	}
}

// item is an order as Redis has it.
type item struct {
	entry
	seq int64
}

func (n *Node) news(ctx context.Context, since int64) ([]item, error) {
	client, err := n.redis()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	raw, err := newsScript.Run(ctx, client, n.orderKeys(), since).Slice()
	if err != nil {
		return nil, err
	}
	return parseNews(raw)
}

// parseNews reads newsScript's reply. What makes no sense has no What.
func parseNews(raw []any) (news []item, err error) {
	if len(raw)%3 != 0 {
		return nil, fmt.Errorf("%w: %d parts", errReply, len(raw))
	}
	for ; len(raw) > 0; raw = raw[3:] {
		seq, err := number(raw[1])
		if err != nil {
			return nil, err
		}
		what, _ := raw[0].(string)
		value, _ := raw[2].(string)
		e, ok := parseEntry(value)
		if ok && what != "" && len(what) <= maxWhatBytes {
			e.What = what
		}
		news = append(news, item{e, seq})
	}
	return news, nil
}

// parseEntry reads "at until gone text".
func parseEntry(value string) (e entry, ok bool) {
	for _, to := range [...]*int64{&e.At, &e.Until, &e.Gone} {
		text, rest, found := strings.Cut(value, " ")
		x, err := strconv.ParseInt(text, 10, 64)
		if !found || err != nil || x < 0 || x > maxTimeUs {
			return entry{}, false
		}
		*to, value = x, rest
	}
	if e.At == 0 || len(value) > maxTextBytes {
		return entry{}, false
	}
	e.Text = value
	return e, true
}

// maxAhead is what an order may be from the future, by Redis' clock, which is the one that stamps them: one that was written there by
// another hand must not have the last word for years.
const maxAhead = time.Minute

// maxTimeUs is in the year 2255: above, nanoseconds do not fit.
const maxTimeUs = 9e15
