package wsserver

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"spillway/tracker/swarm"
)

func TestOfferAndAnswer(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	seeder, leecher := ts.dial(t), ts.dial(t)

	seeder.send(announce(id("h"), id("s"), `,"left":0,"event":"started"`+offers(2)))
	g := seeder.read()
	if g.Action != "announce" || g.Complete != 1 || g.Incomplete != 0 || g.InfoHash != strings.Repeat("h", 20) {
		t.Errorf("reply to the seeder: got %s", g.raw)
	}
	if sec, err := strconv.Atoi(g.Interval.String()); err != nil || sec < 96 || sec > 144 {
		t.Errorf("interval: got %s, want a whole number, 120 give or take a fifth", g.Interval)
	}
	seeder.silent() // nobody was there for its offers

	sdp := `{"type":"offer","sdp":"v=0\r\n\u00e9 é \/ \ud83d\ude00","x":[1.50e1,null]}`
	leecher.send(announce(id("h"), id("l"), `,"left":null,"offers":[{"offer_id":"\u00ffid","offer":`+sdp+`}]`))
	if g = leecher.read(); g.Complete != 1 || g.Incomplete != 1 {
		t.Errorf("reply to the leecher: got %s", g.raw)
	}
	g = seeder.read()
	if string(g.Offer) != sdp {
		t.Errorf("offer: got %s, want it byte for byte, %s", g.Offer, sdp)
	}
	if g.Action != "announce" || g.PeerID != strings.Repeat("l", 20) || g.InfoHash != strings.Repeat("h", 20) || g.OfferID != "\u00ffid" {
		t.Errorf("offer: got %s", g.raw)
	}

	// The answer names the offer as another JSON writer would.
	answer := `,"to_peer_id":` + id("l") + `,"offer_id":"ÿid","answer":{"type":"answer","sdp":"a"}`
	seeder.send(announce(id("h"), id("s"), answer))
	g = leecher.read()
	if string(g.Answer) != `{"type":"answer","sdp":"a"}` || g.PeerID != strings.Repeat("s", 20) || g.OfferID != "\u00ffid" {
		t.Errorf("answer: got %s", g.raw)
	}
	seeder.silent() // no reply to an answer
	ts.wantCounts(t, 'h', 1, 1)

	// A second time nobody waits for it.
	seeder.send(announce(id("h"), id("s"), answer))
	seeder.silent()
	leecher.silent()
	if n := ts.metrics.dropped[dropUnexpected].Get(); n != 1 {
		t.Errorf("unexpected answers: got %d, want 1", n)
	}
}

// An answer nobody asked for is the way to send anything to anybody: not relayed, whatever it claims.
func TestAnswersNobodyAsked(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	a, b, c := ts.dial(t), ts.dial(t), ts.dial(t)
	for i, p := range []*client{a, b, c} {
		p.send(announce(id("h"), id(strconv.Itoa(i)), ``))
		p.read()
	}
	answer := func(hash, from, to, offer string) string {
		return announce(hash, from, `,"to_peer_id":`+to+`,"offer_id":"`+offer+`","answer":{"type":"answer","sdp":"a"}`)
	}
	b.send(answer(id("h"), id("1"), id("0"), "made up"))
	// a's offer goes to one of b and c; the other one answers it.
	a.send(announce(id("h"), id("0"), `,"offers":[{"offer_id":"x","offer":{}}]`))
	a.read()
	a.silent()
	var asked, other *client
	askedID, otherID := id("1"), id("2")
	if ts.waitingFor(t, b) {
		asked, other = b, c
	} else {
		asked, other, askedID, otherID = c, b, id("2"), id("1")
	}
	other.send(answer(id("h"), otherID, id("0"), "x")) // not who was asked
	other.send(answer(id("h"), askedID, id("0"), "x")) // nor by its name
	other.send(answer(id("g"), otherID, id("0"), "x")) // nor in another swarm
	other.silent()
	a.silent()
	asked.send(answer(id("h"), askedID, id("0"), "x"))
	if g := a.read(); string(g.Answer) != `{"type":"answer","sdp":"a"}` {
		t.Errorf("answer: got %s", g.raw)
	}
	// To a peer that has gone: silence.
	a.send(announce(id("h"), id("0"), `,"offers":[{"offer_id":"y","offer":{}},{"offer_id":"z","offer":{}}]`))
	a.read()
	a.conn.Close()
	ts.wantCounts(t, 'h', 0, 2)
	g := b.read()
	for g.Offer == nil {
		g = b.read()
	}
	b.send(answer(id("h"), id("1"), id("0"), g.OfferID))
	b.silent()
}

// waitingFor tells whether an offer has come for c.
func (ts *testServer) waitingFor(t *testing.T, c *client) bool {
	t.Helper()
	c.frame(true, ws.OpPing, "")
	f, err := c.next()
	if err != nil {
		t.Fatal(err)
	}
	if f.Header.OpCode == ws.OpPong {
		return false
	}
	if f, err = c.next(); err != nil || f.Header.OpCode != ws.OpPong {
		t.Errorf("after the offer: got %+v (%v), want the pong", f.Header, err)
	}
	return true
}

func TestOffersGoToOthersOneEach(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{MaxOffers: 4})
	var peers []*client
	for i := range 6 {
		c := ts.dial(t)
		c.send(announce(id("h"), id(string(rune('a'+i))), ``))
		c.read()
		peers = append(peers, c)
	}
	seen := map[string]bool{}
	receive := func(want int) {
		t.Helper()
		n := 0
		for _, c := range peers[1:] {
			c.frame(true, ws.OpPing, "")
			for {
				f, err := c.next()
				if err != nil {
					t.Fatal(err)
				}
				if f.Header.OpCode == ws.OpPong {
					break
				}
				seen[string(f.Payload)] = true
				n++
			}
		}
		if n != want || len(seen) != want {
			t.Errorf("offers: got %d, %d different ones, want %d", n, len(seen), want)
		}
		clear(seen)
	}
	peers[0].send(announce(id("h"), id("a"), offers(10)))
	peers[0].read()
	peers[0].silent() // never to oneself
	receive(4)        // max_offers
	peers[0].send(announce(id("h"), id("a"), `,"numwant":2`+offers(3)))
	peers[0].read()
	receive(2)
	peers[0].send(announce(id("h"), id("a"), `,"event":"stopped"`+offers(3)))
	peers[0].read()
	receive(0)
	ts.wantCounts(t, 'h', 0, 5)
}

func TestSeedersGetNoOffersOfSeeders(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	a, b := ts.dial(t), ts.dial(t)
	a.send(announce(id("h"), id("a"), `,"left":0`))
	a.read()
	b.send(announce(id("h"), id("b"), `,"left":0,"event":"completed"`+offers(1)))
	b.read()
	a.silent()
	// WebTorrent's seeders say completed first, and started after.
	b.send(announce(id("h"), id("b"), `,"left":0,"event":"started"`))
	if g := b.read(); g.Complete != 2 {
		t.Errorf("seeders: got %d, want 2", g.Complete)
	}
}

// Two clients of one page share a socket, in one swarm.
func TestTwoPeerIDsOnOneSocket(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	c := ts.dial(t)
	c.send(announce(id("h"), id("a"), `,"left":0`))
	c.read()
	c.send(announce(id("h"), id("b"), `,"left":5`+offers(1)))
	if g := c.read(); g.Complete != 1 || g.Incomplete != 1 {
		t.Errorf("reply: got %s", g.raw)
	}
	g := c.read()
	if g.Offer == nil || g.PeerID != strings.Repeat("b", 20) {
		t.Errorf("offer: got %s", g.raw)
	}
	c.send(announce(id("h"), id("a"), `,"to_peer_id":`+id("b")+`,"offer_id":"`+g.OfferID+`","answer":{}`))
	if g = c.read(); string(g.Answer) != `{}` {
		t.Errorf("answer: got %s", g.raw)
	}
	c.conn.Close()
	ts.wantCounts(t, 'h', 0, 0)
}

func TestManyTorrentsOnOneSocket(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{MaxHashes: 40, Burst: 1000})
	c := ts.dial(t)
	hash := func(i int) string { return fmt.Sprintf(`"%020d"`, i) }
	for range 2 {
		for i := range 45 {
			c.send(announce(hash(i), id("p"), ``))
			want := 1
			if i >= 40 {
				want = 0 // answered, not stored
			}
			if g := c.read(); g.Incomplete != want || g.Interval == "" {
				t.Errorf("torrent %d: got %s, want %d peers", i, g.raw, want)
			}
		}
	}
	for i := range 40 {
		c.send(announce(hash(i), id("p"), `,"event":"stopped"`))
		if g := c.read(); g.Incomplete != 0 {
			t.Errorf("stopped in torrent %d: got %s, want no peers", i, g.raw)
		}
	}
	if n := ts.members.len(); n != 0 {
		t.Errorf("members: got %d, want 0", n)
	}
}

func TestEventsAndCounts(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	c := ts.dial(t)
	for _, step := range []struct {
		more                 string
		complete, incomplete int
	}{
		{`,"left":null,"event":"started"`, 0, 1},
		{`,"left":-1`, 0, 1},
		{``, 0, 1},
		{`,"left":7,"event":"paused"`, 0, 1},
		{`,"left":0,"event":"completed"`, 1, 0},
		{`,"left":0,"event":"update"`, 1, 0},
		{`,"event":"stopped"`, 0, 0},
	} {
		c.send(announce(id("h"), id("p"), step.more))
		if g := c.read(); g.Complete != step.complete || g.Incomplete != step.incomplete {
			t.Errorf("after %s: got %s, want %d and %d", step.more, g.raw, step.complete, step.incomplete)
		}
	}
	// Peers of both kinds are counted together, and never told of one another.
	now := time.Now()
	a := swarm.Announce{Has4: true, V4: swarm.Endpoint4{1, 2, 3, 4, 5, 6}, NumWant: 50, TTL: time.Hour}
	copy(a.InfoHash[:], strings.Repeat("h", 20))
	var r swarm.Reply
	ts.table.Announce(&a, now, &r)
	c.send(announce(id("h"), id("p"), `,"left":0`+offers(3)))
	if g := c.read(); g.Complete != 1 || g.Incomplete != 1 {
		t.Errorf("with an HTTP peer: got %s, want 1 and 1", g.raw)
	}
	ts.table.Announce(&a, now, &r)
	if len(r.Peers4)+len(r.Peers6) != 0 || r.Complete != 1 {
		t.Errorf("reply to an HTTP peer: got %+v, want no peers", r)
	}
}

func TestScrape(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	c := ts.dial(t)
	hash := `"\u0000\u0001ÿ\"\\` + strings.Repeat("z", 15) + `"`
	c.send(announce(hash, id("p"), `,"left":0`))
	c.read()
	decoded := "\x00\x01\u00ff\"\\" + strings.Repeat("z", 15)
	c.send(`{"action":"scrape","info_hash":` + hash + `}`)
	g := c.read()
	if g.Action != "scrape" || len(g.Files) != 1 || g.Files[decoded].Complete != 1 {
		t.Errorf("scrape of one: got %s", g.raw)
	}
	c.send(`{"action":"scrape","info_hash":[` + hash + "," + id("q") + "," + hash + `]}`)
	g = c.read()
	if len(g.Files) != 2 || g.Files[decoded].Complete != 1 || g.Files[strings.Repeat("q", 20)].Complete != 0 {
		t.Errorf("scrape of several: got %s", g.raw)
	}
	many := `{"action":"scrape","info_hash":[` + id("q")
	for i := range 2000 {
		many += fmt.Sprintf(`,"%020d"`, i)
	}
	c.send(many + `]}`)
	if g = c.read(); len(g.Files) != maxScrape {
		t.Errorf("scrape of 2,000: got %d, want %d", len(g.Files), maxScrape)
	}
	c.send(`{"action":"scrape"}`)
	if g = c.read(); g.Action != "scrape" || g.Failure == "" {
		t.Errorf("scrape of everything: got %s, want a failure", g.raw)
	}
}

func TestRefusedTorrent(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{Refuses: func(h *swarm.InfoHash, _ *[20]byte) string {
		if h[0] == 'x' {
			return "unregistered torrent"
		}
		return ""
	}})
	c := ts.dial(t)
	c.send(announce(id("x"), id("p"), offers(1)))
	g := c.read()
	if sec, _ := g.Interval.Int64(); g.Warning != "unregistered torrent" || g.Failure != "" || sec < 3600 {
		t.Errorf("reply: got %s, want a warning and a long interval", g.raw)
	}
	ts.wantCounts(t, 'x', 0, 0)
	c.send(`{"action":"scrape","info_hash":` + id("x") + `}`)
	if g := c.read(); len(g.Files) != 1 {
		t.Errorf("scrape: got %s, want zeros", g.raw)
	}
}

// Text or binary, whole or in fragments with a ping between: all the same.
func TestFramesOfAllKinds(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	c := ts.dial(t)
	c.frame(true, ws.OpBinary, announce(id("h"), id("a"), ``))
	if g := c.read(); g.Incomplete != 1 {
		t.Errorf("binary: got %s", g.raw)
	}
	m := announce(id("h"), id("b"), `,"left":0,"x":"é"`)
	at := strings.Index(m, "é") + 1 // within a character
	c.frame(false, ws.OpText, m[:10])
	c.frame(false, ws.OpContinuation, "")
	c.frame(true, ws.OpPing, "hello")
	c.frame(false, ws.OpContinuation, m[10:at])
	c.frame(true, ws.OpContinuation, m[at:])
	if f, err := c.next(); err != nil || f.Header.OpCode != ws.OpPong || string(f.Payload) != "hello" {
		t.Errorf("ping between fragments: got %+v %q (%v)", f.Header, f.Payload, err)
	}
	if g := c.read(); g.Complete != 1 {
		t.Errorf("fragments: got %s", g.raw)
	}
	// One byte at a time.
	frame := ws.MaskFrame(ws.NewTextFrame([]byte(announce(id("h"), id("c"), ``))))
	b, err := ws.CompileFrame(frame)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if _, err := c.conn.Write(b[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if g := c.read(); g.Incomplete != 2 {
		t.Errorf("bytes: got %s", g.raw)
	}
	// Several in one write, the last one cut.
	two := append(append([]byte(nil), b...), b[:len(b)/2]...)
	if _, err := c.conn.Write(two); err != nil {
		t.Fatal(err)
	}
	c.read()
	if _, err := c.conn.Write(b[len(b)/2:]); err != nil {
		t.Fatal(err)
	}
	c.read()
	c.frame(true, ws.OpClose, "\x03\xe8")
	c.wantClose(ws.StatusNormalClosure)
	ts.wantCounts(t, 'h', 0, 0)
}
