package shared

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/tracker/swarm"
	"spillway/tracker/swarm/shared/link"
)

// redisLink is what is known of Redis.
type redisLink struct {
	*link.Link
	breakers [laneCount]breaker
	skewNs   atomic.Int64 // how far Redis's clock is ahead of ours
	markers  [laneCount]string
	seen     [laneCount]string // the markers' values; only watchRedis looks at them
}

func (r *redisLink) init(cfg *Config) {
	c := cfg.Redis
	c.Name = "spillway-" + c.Name
	c.Timeout = 5 * cfg.Wait
	c.Conns, c.ClusterConns = soloSenders+4, laneCount+4
	r.Link = link.New(c)
	for i := range r.breakers {
		r.breakers[i].fail(link.ErrConnecting, time.Now())
	}
}

// markLanes finds a key for each lane that is in its slots.
func (s *Store) markLanes() {
	for n, found := 0, 0; found < laneCount; n++ {
		name := fmt.Sprintf("marker:%d", n)
		i := slotOf(s.cfg.Prefix, []byte(name)) >> (slotBits - laneBits)
		if s.redis.markers[i] == "" {
			s.redis.markers[i] = s.cfg.Prefix + name
			found++
		}
	}
}

// clock is Redis's, as far as it is known: nodes whose clocks differ must agree on who has expired.
func (s *Store) clock() time.Time {
	return s.cfg.Now().Add(s.skew())
}

func (s *Store) skew() time.Duration { return time.Duration(s.redis.skewNs.Load()) }

// watchRedis connects, and then looks once a second whether Redis is there, what its clock says and whether it has lost what it
// was told.
func (s *Store) watchRedis(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		if s.redis.Client() == nil {
			s.connect(ctx)
		}
		if s.redis.Client() != nil {
			s.look(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// connect fails for as long as nobody answers, which is no reason not to serve.
func (s *Store) connect(ctx context.Context) {
	addr, err := s.redis.Connect(ctx)
	if err == nil {
		if s.redis.Clustered() {
			s.active.Store(laneCount)
		} else {
			s.active.Store(soloSenders)
		}
		s.log.Info("redis connected", "addr", addr, "cluster", s.redis.Clustered())
		s.wakeAll()
		return
	}
	if ctx.Err() == nil {
		for i := range s.redis.breakers {
			s.redis.breakers[i].fail(err, time.Now())
		}
		s.metrics.failed.Add(1)
		s.log.Warn("redis cannot be connected to, going on with what this node knows", "addrs", s.cfg.Redis.Addrs, "why", reasonOf(err))
	}
}

// look reads Redis's clock and the markers. A marker is a key of chance, one a lane, made by whoever first finds it missing; if it
// has changed, or is gone, Redis has lost more than it.
func (s *Store) look(ctx context.Context) {
	client := s.redis.Client()
	if s.breakersOpen() {
		s.redis.Reload(ctx) // a replica may have taken over
	}
	ctx, cancel := context.WithTimeout(ctx, 5*s.cfg.Wait)
	defer cancel()
	pipe := client.Pipeline()
	began := time.Now()
	clock := pipe.Time(ctx)
	value := fmt.Sprintf("%d-%s", began.Unix(), rand64())
	var set, get [laneCount]*redis.Cmd
	for i, key := range s.redis.markers {
		set[i] = pipe.Do(ctx, "set", key, value, "nx")
		get[i] = pipe.Do(ctx, "get", key)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	if at, err := clock.Result(); err == nil {
		skew := at.Sub(began.Add(time.Since(began) / 2))
		if skew.Abs() < 2*time.Second {
			skew = 0 // a tick has four
		}
		s.redis.skewNs.Store(int64(skew))
	}
	lost := false
	for i := range s.lanes {
		b := s.breaker(&s.lanes[i])
		got, err := get[i].Text()
		if err == nil {
			_, err = set[i].Result()
			if errors.Is(err, redis.Nil) { // it was there
				err = nil
			}
		}
		if err != nil {
			if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.opened(b, err)
			}
			continue
		}
		s.healed(b)
		if old := s.redis.seen[i]; got != old {
			if old != "" || isNew(got, began) {
				s.refill.need()
			}
			lost = lost || old != ""
			s.redis.seen[i] = got
		}
	}
	if lost {
		s.metrics.lost.Add(1)
		s.log.Warn("redis has lost what it was told, this node's peers are announced to it again")
	}
}

// isNew tells of a marker that this node has not seen before, because it has just started, whether it is so young that Redis may lack
// peers of this node's snapshot: all were started together, or Redis was emptied while this one was away. An older Redis has had
// time to be told of whoever still lives.
func isNew(marker string, now time.Time) bool {
	text, _, _ := strings.Cut(marker, "-")
	madeUnixSec, err := strconv.ParseInt(text, 10, 64)
	return err != nil || now.Sub(time.Unix(madeUnixSec, 0)) < markerYouth
}

// markerYouth is longer than peers live at the usual interval.
const markerYouth = 2 * time.Hour

// opened and healed log the change, once.
func (s *Store) opened(b *breaker, err error) {
	if forgets(err) {
		s.refill.need()
	}
	if b.fail(err, time.Now()) {
		s.metrics.degraded.Add(1)
		s.log.Warn("redis does not answer, going on with what this node knows", "why", reasonOf(err))
	}
}

func (s *Store) healed(b *breaker) {
	if took := b.heal(time.Now()); took > 0 {
		s.log.Info("redis answers", "after", took.Round(time.Millisecond))
		s.wakeAll()
	}
}

func hexOf(h *swarm.InfoHash) string { return hex.EncodeToString(h[:]) }
