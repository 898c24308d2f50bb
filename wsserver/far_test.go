package wsserver

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

// farStore is the store of one of two nodes: its own table, and what it sees of the other's.
type farStore struct {
	own, other *swarm.Table
	otherNode  [4]byte

	mu    sync.Mutex // guards what follows
	cold  bool       // the other has to be asked first
	asked []func()
}

func (f *farStore) Announce(a *swarm.Announce, now time.Time, r *swarm.Reply) {
	f.own.Announce(a, now, r)
	r.FarWeb = r.FarWeb[:0]
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cold {
		return
	}
	b, o := *a, swarm.Reply{}
	b.Unreachable, b.Web = true, swarm.EndpointWeb{255, 255, 255, 255}
	f.other.Announce(&b, now, &o)
	for p := o.PeersWeb; len(p) > 0; p = p[endpointBytes:] {
		r.FarWeb = append(append(r.FarWeb, f.otherNode[:]...), p[:endpointBytes]...)
	}
}

func (f *farStore) Scrape(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts {
	return f.own.Scrape(hashes, dst)
}

func (f *farStore) Ask(_ *swarm.InfoHash, _ time.Time, done func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cold {
		f.asked = append(f.asked, done)
	}
	return !f.cold
}

// warm is the answer of those who were asked.
func (f *farStore) warm() {
	f.mu.Lock()
	f.cold = false
	asked := f.asked
	f.asked = nil
	f.mu.Unlock()
	for _, done := range asked {
		done()
	}
}

// wire carries messages between them.
type wire struct {
	mu    sync.Mutex // guards what follows
	to    map[[4]byte]*Server
	last  []byte
	count int
}

func (w *wire) Send(node [4]byte, message []byte) bool {
	w.mu.Lock()
	s := w.to[node]
	w.last, w.count = bytes.Clone(message), w.count+1
	b := w.last
	w.mu.Unlock()
	if s == nil {
		return false
	}
	s.Receive(b)
	return true
}

func (w *wire) sent() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// twoNodes serves two that know of one another.
func twoNodes(t *testing.T) (a, b *testServer, storeA *farStore, w *wire) {
	t.Helper()
	w = &wire{to: map[[4]byte]*Server{}}
	nodeA, nodeB := [4]byte{'a'}, [4]byte{'b'}
	tableA, tableB := swarm.New(swarm.Config{}), swarm.New(swarm.Config{})
	storeA = &farStore{own: tableA, other: tableB, otherNode: nodeB}
	storeB := &farStore{own: tableB, other: tableA, otherNode: nodeA}
	a = serveSwarms(t, Config{Nodes: w, Node: nodeA}, storeA, tableA, nil, nil)
	b = serveSwarms(t, Config{Nodes: w, Node: nodeB}, storeB, tableB, nil, nil)
	w.mu.Lock()
	w.to[nodeA], w.to[nodeB] = a.Server, b.Server
	w.mu.Unlock()
	return a, b, storeA, w
}

func TestOfferAndAnswerAcrossNodes(t *testing.T) {
	t.Parallel()
	a, b, _, _ := twoNodes(t)
	leecher, seeder, thief := a.dial(t), b.dial(t), b.dial(t)
	seeder.send(announce(id("h"), id("s"), `,"left":0`))
	seeder.read()
	sdp := `{"type":"offer","sdp":"v=0\r\n\u00e9 é \/ \ud83d\ude00","x":[1.50e1,null]}`
	leecher.send(announce(id("h"), `"\u00ffllllllllllllllllll\\"`, `,"left":null,"offers":[{"offer_id":"\u00ffid","offer":`+sdp+`},{"offer_id":"2","offer":{}}]`))
	leecher.read()
	g := seeder.read()
	peer := "\u00ff" + strings.Repeat("l", 18) + `\`
	if string(g.Offer) != sdp || g.Action != "announce" || g.PeerID != peer || g.InfoHash != strings.Repeat("h", 20) || g.OfferID != "\u00ffid" {
		t.Errorf("offer: got %s", g.raw)
	}
	seeder.silent() // there is one peer, so one offer

	answer := `,"to_peer_id":"\u00ffllllllllllllllllll\\","offer_id":"ÿid","answer":{"type":"answer","sdp":"a"}`
	thief.send(announce(id("h"), id("t"), ``))
	thief.read()
	thief.send(announce(id("h"), id("t"), answer)) // it was not asked
	thief.silent()
	leecher.silent()
	seeder.send(announce(id("h"), id("s"), answer))
	g = leecher.read()
	if string(g.Answer) != `{"type":"answer","sdp":"a"}` || g.PeerID != strings.Repeat("s", 20) || g.OfferID != "\u00ffid" || g.InfoHash != strings.Repeat("h", 20) {
		t.Errorf("answer: got %s", g.raw)
	}
	seeder.send(announce(id("h"), id("s"), answer)) // a second time
	seeder.silent()
	leecher.silent()
	if n := b.metrics.dropped[dropUnexpected].Get(); n != 2 {
		t.Errorf("unexpected answers: got %d, want 2", n)
	}
	if of, af := a.metrics.offersFar.Get(), b.metrics.answersFar.Get(); of != 1 || af != 1 {
		t.Errorf("sent to the other node: got %d offers and %d answers, want 1 and 1", of, af)
	}
}

// Whoever announces first has its offers put aside until the other node's peers are known; one that has gone meanwhile does not.
func TestOffersPutAside(t *testing.T) {
	t.Parallel()
	a, b, storeA, w := twoNodes(t)
	far, here, gone := b.dial(t), a.dial(t), a.dial(t)
	far.send(announce(id("h"), id("f"), `,"left":1`))
	far.read()
	storeA.mu.Lock()
	storeA.cold = true
	storeA.mu.Unlock()
	here.send(announce(id("h"), id("n"), `,"left":1,"event":"completed"`+offers(3)))
	if g := here.read(); g.Incomplete+g.Complete != 1 {
		t.Errorf("reply: got %s, want the counts at once", g.raw)
	}
	gone.send(announce(id("g"), id("g"), offers(3)))
	gone.read()
	gone.conn.Close()
	a.wantCounts(t, 'g', 0, 0)
	here.silent()
	if n := a.buffered.used.Load(); n == 0 || w.sent() != 0 {
		t.Errorf("put aside: got %d bytes and %d messages, want some and none", n, w.sent())
	}
	storeA.warm()
	if g := far.read(); g.PeerID != strings.Repeat("n", 20) {
		t.Errorf("offer: got %s", g.raw)
	}
	wait(t, "nothing is kept", func() bool { return a.buffered.used.Load() == 0 })
	a.wantCounts(t, 'g', 0, 0)
	far.silent()
	if w.sent() != 1 {
		t.Errorf("messages: got %d, want 1", w.sent())
	}

	// What is put aside when the server stops is given back, and asked of a server that has stopped as well.
	storeA.mu.Lock()
	storeA.cold = true
	storeA.mu.Unlock()
	here.send(announce(id("i"), id("n"), offers(3)))
	here.read()
	storeA.mu.Lock()
	late := storeA.asked
	storeA.mu.Unlock()
	stopping := make(chan struct{})
	go func() { defer close(stopping); a.waitClosed(); late[0]() }()
	a.stop()
	<-stopping
}

// waitClosed returns when nothing is put aside any more.
func (ts *testServer) waitClosed() {
	for {
		ts.asides.mu.Lock()
		closed := ts.asides.closed
		ts.asides.mu.Unlock()
		if closed {
			return
		}
		<-time.After(time.Millisecond)
	}
}

// A message of another version, or cut short, or for nobody, is dropped and counted.
func TestReceiveRefuses(t *testing.T) {
	t.Parallel()
	a, b, _, w := twoNodes(t)
	far, here := b.dial(t), a.dial(t)
	far.send(announce(id("h"), id("f"), ``))
	far.read()
	here.send(announce(id("h"), id("n"), offers(1)))
	here.read()
	far.read()
	w.mu.Lock()
	whole := w.last
	w.mu.Unlock()
	for n := range len(whole) {
		b.Receive(whole[:n])
	}
	for _, bad := range []string{"\x03" + string(whole[1:]), string(whole) + "x", string(whole[:farHeader]) + `"offer000000000000000"{"a":}`} {
		b.Receive([]byte(bad))
	}
	if got, want := b.metrics.dropped[dropNode].Get(), uint64(len(whole)+3); got != want {
		t.Errorf("dropped: got %d, want %d", got, want)
	}
	far.silent()
	far.conn.Close()
	b.wantCounts(t, 'h', 0, 0)
	b.Receive(whole)
	if got := b.metrics.dropped[dropGone].Get(); got != 1 {
		t.Errorf("for one that has gone: got %d dropped, want 1", got)
	}
}

func FuzzParseFar(f *testing.F) {
	f.Add(appendFar(nil, &farMessage{kind: farOffer, offerID: []byte(`"x"`), description: []byte(`{"sdp":"v=0"}`)}))
	f.Add(appendFar(nil, &farMessage{kind: farAnswer, offerID: []byte(`"\u00ff"`), description: []byte(`{}`)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m farMessage
		if !parseFar(b, &m) {
			return
		}
		if again := appendFar(nil, &m); !bytes.Equal(again, b) {
			t.Errorf("got %x, want %x", again, b)
		}
		frame := appendRelayed(nil, "offer", m.description, m.offerID, []byte(`""`), []byte(`""`))
		if !json.Valid(bytes.ToValidUTF8(frame, []byte("?"))) {
			t.Errorf("frame: got %q, want JSON", frame)
		}
	})
}
