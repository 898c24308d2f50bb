package shared

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// A breaker knows whether Redis answers: one Redis has one, of a cluster each lane has its own. While it is open nobody waits,
// announces are answered from what is known here, and a call is tried now and then.
type breaker struct {
	openedAt atomic.Int64 // Unix time in ns; 0: closed
	callAt   atomic.Int64 // when the call under way was made; 0: none
	retryAt  atomic.Int64 // no call before that, while open
	pause    atomic.Int64 // ns between two tries
	why      atomic.Pointer[string]
}

// A try follows the first failure soon, and later ones once a second.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

func (b *breaker) down() bool { return b.openedAt.Load() != 0 }

// healthy tells whether to wait is worth it: not if the call under way already takes as long as one may wait.
func (b *breaker) healthy(wait time.Duration) bool {
	at := b.callAt.Load()
	return !b.down() && (at == 0 || time.Now().UnixNano()-at < int64(wait))
}

// fail opens the breaker and tells whether it was closed.
func (b *breaker) fail(err error, now time.Time) (opened bool) {
	why := reasonOf(err)
	b.why.Store(&why)
	pause := min(max(2*time.Duration(b.pause.Load()), firstPause), lastPause)
	b.pause.Store(int64(pause))
	b.retryAt.Store(now.Add(pause).UnixNano())
	return b.openedAt.CompareAndSwap(0, now.UnixNano())
}

// heal closes it and returns for how long it was open.
func (b *breaker) heal(now time.Time) time.Duration {
	b.pause.Store(0)
	b.retryAt.Store(0)
	if at := b.openedAt.Swap(0); at != 0 {
		return max(now.Sub(time.Unix(0, at)), 1)
	}
	return 0
}

// breaker is the one a lane goes by.
func (s *Store) breaker(l *lane) *breaker {
	if s.redis.Clustered() {
		return &s.redis.breakers[l.number]
	}
	return &s.redis.breakers[0]
}

// Degraded is what an operator is to know when Redis does not answer.
type Degraded struct {
	Since time.Time
	Why   string
	Part  float64 // of the swarms; below 1 with a cluster that has lost some masters
}

// Degraded tells whether this node answers from what it knows alone, of some swarms or all; ok is false when it does not.
func (s *Store) Degraded() (d Degraded, ok bool) {
	n := 0
	for i := range s.lanes {
		b := s.breaker(&s.lanes[i])
		at := b.openedAt.Load()
		if at == 0 {
			continue
		}
		n++
		if since := time.Unix(0, at); d.Since.IsZero() || since.Before(d.Since) {
			d.Since = since
			if why := b.why.Load(); why != nil {
				d.Why = *why
			}
		}
	}
	d.Part = float64(n) / laneCount
	return d, n > 0
}

// Stretch is how many times later clients should come back: half as much again when Redis answers for none of the swarms. What they
// would be told now is less than what they will be told then, and what they say has to be kept.
func (s *Store) Stretch() float64 {
	if !s.redis.Clustered() {
		if s.redis.breakers[0].down() {
			return 1.5
		}
		return 1
	}
	d, _ := s.Degraded()
	return 1 + d.Part/2
}

// reasonOf is an error in an operator's words, with the key to turn.
func reasonOf(err error) string {
	var netErr net.Error
	text := err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout():
		return "redis does not answer in time (" + text + ")"
	case strings.HasPrefix(text, "OOM"):
		return "redis is out of memory; raise its maxmemory"
	case strings.HasPrefix(text, "WRONGPASS"), strings.HasPrefix(text, "NOAUTH"):
		return "redis refuses store.redis.username and store.redis.password (" + text + ")"
	case strings.HasPrefix(text, "NOPERM"):
		return "redis allows store.redis.username too little (" + text + ")"
	case strings.HasPrefix(text, "READONLY"):
		return "redis is a replica; name its master in store.redis.addrs, or its sentinels (" + text + ")"
	case strings.Contains(text, "sentinels"):
		return "no sentinel names a master; see whether store.redis.addrs are the sentinels', and store.redis.sentinel the name they know it by (" + text + ")"
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "redis's certificate is of an authority that is not trusted here; name it in store.redis.tls_ca (" + text + ")"
	case errors.As(err, new(x509.HostnameError)):
		return "redis's certificate is for another name; give that in store.redis.tls_name (" + text + ")"
	case strings.Contains(text, "tls: certificate required"):
		return "redis asks for a certificate; give one in store.redis.tls_cert and tls_key (" + text + ")"
	}
	return text
}

// forgets tells whether an error may mean that Redis has been started anew or another has taken its place: it may have lost
// something. A mere timeout does not.
func forgets(err error) bool {
	var netErr net.Error
	return !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &netErr) && netErr.Timeout())
}
