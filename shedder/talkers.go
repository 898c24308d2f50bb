package shedder

import (
	"cmp"
	"encoding/hex"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The dimensions in which requests are told apart.
const (
	bySource    = iota // an IPv4 address, an IPv6 /64
	byPrefix           // an IPv4 /24, an IPv6 /48
	byUserAgent        // its first bytes
	byPeerID           // the part of it that names the client, or the form it has
	byInfoHash
	dimensions
)

const (
	talkerCounters = 64 // of a sketch: what asks for more than a 64th is in it for certain
	talkerKeyBytes = 64 // longer strings are cut
	talkerWindow   = time.Minute
)

// Talkers find what a flood has in common. They look at a sample of requests and keep, in a bounded memory, who asks most in
// each of several dimensions; they know what is usual, from times without overload.
type Talkers struct {
	// ProposeLocal allows proposals of private and loopback addresses. Without it nobody's own proxy or network is ever
	// proposed. Set it before use.
	ProposeLocal bool

	seed   maphash.Seed
	missed atomic.Uint64 // samples dropped because another was being taken

	mu         sync.Mutex // guards the rest
	now, last  *talkerCounts
	usual      [dimensions]baseline
	learnt     float64 // windows, at most usualWindows
	overloaded bool
	stepped    time.Time
}

// NewTalkers makes talkers that know nothing yet. They take a few minutes to learn what is usual.
func NewTalkers() *Talkers {
	return &Talkers{seed: maphash.MakeSeed(), now: new(talkerCounts), last: new(talkerCounts)}
}

// Note counts one request of the sample. Leave out what a rule has refused: that must not become usual. What is not known of
// a request is the zero Addr or nil; an empty userAgent that is not nil says that there was none. Nothing is kept of the
// arguments and nothing is allocated. It waits for nobody: when another has the lock, the sample is dropped.
func (t *Talkers) Note(src netip.Addr, userAgent []byte, peerID *[20]byte, infoHash *[20]byte) {
	if !t.mu.TryLock() {
		t.missed.Add(1)
		return
	}
	defer t.mu.Unlock()
	w := t.now
	w.samples++
	var key talkerKey
	if src.IsValid() {
		b := src.Unmap().As16()
		host, network := b[:8], b[:6]
		if src.Is4() || src.Is4In6() {
			host, network = b[12:], b[12:15]
		}
		key.set(0, host)
		t.add(w, bySource, &key)
		key.set(0, network)
		t.add(w, byPrefix, &key)
	}
	if userAgent != nil {
		key.set(0, userAgent)
		t.add(w, byUserAgent, &key)
	}
	if peerID != nil {
		form, n := peerClient(peerID[:])
		key.set(form, peerID[:n])
		t.add(w, byPeerID, &key)
	}
	if infoHash != nil {
		key.set(0, infoHash[:])
		t.add(w, byInfoHash, &key)
	}
}

func (t *Talkers) add(w *talkerCounts, dimension int, key *talkerKey) {
	w.sketches[dimension].add(maphash.Bytes(t.seed, key.bytes()), key)
}

// Step tells the time and whether there is overload. A window lasts a minute; one without overload is learnt as usual when
// it is over. With an overload a window of its own begins, so that a flood is not weighed together with what was before it;
// and what was before it since the last full minute is not learnt, because the flood may have begun in it.
func (t *Talkers) Step(now time.Time, overloaded bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stepped, t.overloaded = now, overloaded
	switch w := t.now; {
	case w.began.IsZero():
		w.began, w.overloaded = now, overloaded
	case overloaded && !w.overloaded:
		t.rotate(now, true)
	case now.Sub(w.began) >= talkerWindow:
		if !w.overloaded {
			t.learn(w)
		}
		t.rotate(now, overloaded)
	}
}

// Renew begins a window of the overload anew, for when rules were added: what is left of it is then judged without what
// they block.
func (t *Talkers) Renew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.overloaded {
		t.rotate(t.stepped, true)
		t.last.overloaded = false // Proposals is not to look at it again
	}
}

func (t *Talkers) rotate(now time.Time, overloaded bool) {
	t.now, t.last = t.last, t.now
	t.now.reset()
	t.now.began, t.now.overloaded = now, overloaded
}

// Talker is one of those that ask most.
type Talker struct {
	Value string  // as in a Rule of that kind; or the form of peer ids that name no client, or "" for no User-Agent
	Share float64 // of the requests of the sample: at least that
	Usual float64
}

// Snapshot is who asks most, in the window that is running and the one before.
type Snapshot struct {
	Seconds    int    // that it is about
	Samples    uint64 // that it is made of
	Missed     uint64 // samples dropped since the start
	Overloaded bool
	Sources    []Talker
	Prefixes   []Talker
	UserAgents []Talker
	PeerIDs    []Talker
	InfoHashes []Talker
}

// Top returns the n that ask most in each dimension, the first first.
func (t *Talkers) Top(n int) Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Snapshot{Samples: t.now.samples + t.last.samples, Missed: t.missed.Load(), Overloaded: t.overloaded}
	began := t.now.began
	if !t.last.began.IsZero() {
		began = t.last.began
	}
	if !began.IsZero() {
		s.Seconds = int(t.stepped.Sub(began) / time.Second)
	}
	for dimension, list := range []*[]Talker{&s.Sources, &s.Prefixes, &s.UserAgents, &s.PeerIDs, &s.InfoHashes} {
		shares := merge(dimension, t.now, t.last)
		for _, x := range shares[:min(max(n, 0), len(shares))] {
			*list = append(*list, Talker{Value: x.key.value(dimension), Share: x.share, Usual: t.usual[dimension].of(&x)})
		}
	}
	return s
}

// talkerCounts are one window's.
type talkerCounts struct {
	began      time.Time
	overloaded bool // from its beginning
	samples    uint64
	sketches   [dimensions]sketch
}

func (w *talkerCounts) reset() {
	w.began, w.overloaded, w.samples = time.Time{}, false, 0
	for i := range w.sketches {
		s := &w.sketches[i]
		s.n, s.total, s.least, s.at = 0, 0, 0, 0
	}
}

// talkerKey is what is counted, in a form that takes no pointer.
type talkerKey struct {
	n    uint8
	form PeerForm // byPeerID only
	b    [talkerKeyBytes]byte
}

func (k *talkerKey) set(form PeerForm, b []byte) {
	k.form = form
	k.n = uint8(copy(k.b[:], b))
}

func (k *talkerKey) bytes() []byte { return k.b[:k.n] }

func (k *talkerKey) equal(other *talkerKey) bool {
	return k.form == other.form && string(k.bytes()) == string(other.bytes())
}

// network is the key as the network it stands for.
func (k *talkerKey) network() netip.Prefix {
	var b [16]byte
	copy(b[:], k.bytes())
	if k.n == 4 || k.n == 3 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(b[:4])), 8*int(k.n))
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), 8*int(k.n))
}

// value is the key as a rule has it.
func (k *talkerKey) value(dimension int) string {
	switch dimension {
	case bySource, byPrefix:
		if p := k.network(); !p.IsSingleIP() {
			return p.String()
		}
		return k.network().Addr().String()
	case byInfoHash:
		return hex.EncodeToString(k.bytes())
	case byPeerID:
		if k.n == 0 {
			return k.form.String()
		}
	}
	return escapeValue(string(k.bytes()))
}

// sketch counts what comes most often, in a bounded memory: Space-Saving (Metwally, Agrawal, El Abbadi 2005). A count is
// too high by its err at the most, never too low, and no err is above total / talkerCounters.
type sketch struct {
	n      int
	total  uint64
	least  uint64 // no count is below it, once all counters are taken
	at     int    // where the next of that count is looked for
	hashes [talkerCounters]uint64
	counts [talkerCounters]uint64
	errs   [talkerCounters]uint64
	keys   [talkerCounters]talkerKey
}

func (s *sketch) add(hash uint64, key *talkerKey) {
	s.total++
	for i, h := range s.hashes[:s.n] {
		if h == hash && s.keys[i].equal(key) {
			s.counts[i]++
			return
		}
	}
	i := s.n
	if i < talkerCounters {
		s.n++
		s.counts[i], s.errs[i] = 1, 0
	} else {
		// The newcomer takes the place of the least, and its count too: it may have been here as often before.
		i = s.leastCounter()
		s.errs[i] = s.counts[i]
		s.counts[i]++
	}
	s.hashes[i] = hash
	s.keys[i].form, s.keys[i].n = key.form, key.n
	copy(s.keys[i].b[:], key.bytes())
}

// leastCounter goes on from where it was the last time: where nothing comes twice, the next counter is the one.
func (s *sketch) leastCounter() int {
	for {
		for range talkerCounters {
			i := s.at
			if s.at++; s.at == talkerCounters {
				s.at = 0
			}
			if s.counts[i] <= s.least {
				return i
			}
		}
		s.least = slices.Min(s.counts[:])
	}
}

// sharedKey is a key and the share it has for certain.
type sharedKey struct {
	hash  uint64
	key   talkerKey
	share float64
}

// merge returns the shares in several windows together, the greatest first.
func merge(dimension int, windows ...*talkerCounts) []sharedKey {
	var shares []sharedKey
	samples := uint64(0)
	for _, w := range windows {
		samples += w.samples
	}
	for _, w := range windows {
		s := &w.sketches[dimension]
		before := len(shares)
	counters:
		for i := range s.n {
			share := float64(s.counts[i]-s.errs[i]) / float64(samples)
			for j := range shares[:before] {
				if shares[j].hash == s.hashes[i] && shares[j].key.equal(&s.keys[i]) {
					shares[j].share += share
					continue counters
				}
			}
			shares = append(shares, sharedKey{s.hashes[i], s.keys[i], share})
		}
	}
	sortShares(shares)
	return shares
}

func sortShares(shares []sharedKey) {
	slices.SortStableFunc(shares, func(a, b sharedKey) int { return cmp.Compare(b.share, a.share) })
}
