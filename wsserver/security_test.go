package wsserver

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"spillway/tracker/swarm"
)

// Pings cost an answer each: they are counted against the rate as messages are, and a flood of them is neither answered nor read.
func TestPingFlood(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{Rate: 1.0 / 3600, Burst: 4})
	c := ts.dial(t)
	for range 4 + pauseAfter {
		c.frame(true, ws.OpPing, "x")
	}
	for i := range 4 {
		if f, err := c.next(); err != nil || f.Header.OpCode != ws.OpPong || string(f.Payload) != "x" {
			t.Fatalf("pong %d: got %+v, %v", i, f, err)
		}
	}
	wait(t, "a pause", func() bool { return ts.metrics.paused.Get() == 1 })
	if err := c.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if f, err := readFrame(c.br); err == nil {
		t.Errorf("above the rate: got %+v, want nothing", f)
	}
}

// A message in frames of nothing costs the rate too: it cannot keep a loop busy for ever.
func TestEmptyFragments(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{Rate: 1.0 / 3600, Burst: 4})
	c := ts.dial(t)
	c.frame(false, ws.OpText, "")
	for range 4 {
		c.frame(false, ws.OpContinuation, "")
	}
	c.wantClose(ws.StatusPolicyViolation)
}

// Depth is bounded before it costs a stack, and length is all that parsing costs.
func TestNestedMessages(t *testing.T) {
	t.Parallel()
	var m message
	for _, open := range []string{"[", `{"a":`, `{"offers":[{"offer":{"a":`, `{"answer":[`} {
		b := []byte(strings.Repeat(open, (64<<10)/len(open)))
		if err := parseMessage(b, &m, 20); err == nil {
			t.Errorf("%q without end: got no error", open)
		}
	}
	deep := func(n int) []byte { return []byte(`{"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`) }
	if parseMessage(deep(maxDepth-1), &m, 20) != nil || parseMessage(deep(maxDepth+1), &m, 20) == nil {
		t.Errorf("the bound of depth is not %d", maxDepth)
	}
	// Members of one name, or of many: none is kept but the few that are known.
	var many strings.Builder
	many.WriteString(`{"action":"announce"`)
	for i := range 4000 {
		fmt.Fprintf(&many, `,"k%d":0,"info_hash":1`, i)
	}
	if err := parseMessage([]byte(many.String()+"}"), &m, 20); err != nil || m.hasInfoHash || m.action != actionAnnounce {
		t.Errorf("many members: got %+v, %v", m, err)
	}
}

// Whatever an offer is called and has in it, the frame that its receiver gets is one announce with that offer in it, and the peer id is
// the one under which its sender announced.
func TestOffersStayOffers(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{Rate: 1e6, Burst: 1e6})
	victim, evil := ts.dial(t), ts.dial(t)
	victim.send(announce(id("h"), id("v"), ``))
	victim.read()
	for _, o := range []string{
		`{"offer_id":"x\",\"peer_id\":\"forged","offer":{"sdp":"}"}}`,
		`{"offer_id":"\u0022,\u0022action\u0022:\u0022scrape","offer":{"offer_id":"y","peer_id":"forged","action":"scrape","info_hash":"forged"}}`,
		`{"offer_id":"x","offer":{"a":"\ud800","b":"\u2028</script>"},"peer_id":"forged","action":"scrape"}`,
	} {
		evil.send(announce(id("h"), id("e"), `,"offers":[`+o+`]`))
		evil.read()
		g := victim.read()
		var frame map[string]json.RawMessage
		if err := json.Unmarshal([]byte(g.raw), &frame); err != nil || len(frame) != 5 {
			t.Errorf("%s: got %s, %v", o, g.raw, err)
		}
		if g.Action != "announce" || g.PeerID != strings.Repeat("e", 20) || g.InfoHash != strings.Repeat("h", 20) || len(g.Offer) == 0 || g.Answer != nil {
			t.Errorf("%s: got %s", o, g.raw)
		}
	}
	for _, o := range []string{`{"offer_id":"x","offer":"text"}`, `{"offer_id":5,"offer":{}}`, `{"offer_id":"x","offer":[]}`, `{"offer":{}}`} {
		evil.send(announce(id("h"), id("e"), `,"offers":[`+o+`]`))
		evil.read()
	}
	victim.silent()
}

// Nobody is an endpoint that he was not given: names of places are made of where they are and a generation.
func TestEndpointsCannotBeMadeUp(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	c := ts.dial(t)
	c.send(announce(id("h"), id("p"), ``))
	c.read()
	found := 0
	for place := range byte(8) {
		for gen := range byte(8) {
			e := swarm.EndpointWeb{place, 0, 0, 0, gen}
			if ts.members.find(e[:]) != nil {
				found++
			}
		}
	}
	if found != 1 {
		t.Errorf("sockets found by names made up: got %d, want the one there is", found)
	}
	for _, e := range []swarm.EndpointWeb{{}, {0xff, 0xff, 0xff, 0xff, 1}, {0, 0, 0, 0x80, 1}, {1, 0, 1, 0, 1}} {
		if ts.members.find(e[:]) != nil {
			t.Errorf("%x: got a socket", e)
		}
	}
}
