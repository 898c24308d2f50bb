package tracker

import (
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// failing is a store with a bug in one of its ways, until it is repaired.
type failing struct {
	*swarm.Table
	announces, scrapes bool
}

func (f *failing) Announce(a *swarm.Announce, now time.Time, r *swarm.Reply) {
	if f.announces {
		panic("an announce too many")
	}
	f.Table.Announce(a, now, r)
}

func (f *failing) Scrape(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts {
	if f.scrapes {
		panic("a scrape too many")
	}
	return f.Table.Scrape(hashes, dst)
}

const scrapeURI = "/scrape?info_hash=" + hash20

// An endpoint that panics in a loop is switched off by itself, and is polite about it; the others do not notice.
func TestPanicLoopTurnsItsEndpointOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		endpoint shedder.Endpoint
		store    *failing
		uri      string
		others   []string // and what is in their replies
		off      string
	}{
		{shedder.Announce, &failing{announces: true}, announceURI("&event=started"), []string{scrapeURI, "incomplete", "/healthz", "ok", "/stats.json", "leechers"}, string(errOff)},
		{shedder.Scrape, &failing{scrapes: true}, scrapeURI, []string{announceURI("&event=started"), "external ip", "/healthz", "ok", "/stats.json", "leechers"}, "8:completei0e"},
	} {
		t.Run(c.endpoint.String(), func(t *testing.T) {
			t.Parallel()
			gate := gated(shedder.Config{})
			c.store.Table = swarm.New(swarm.Config{})
			s := serveOn(t, func(cfg *Config) { cfg.Gate = gate }, "tcp4", "127.0.0.1:0", c.store)
			others := func(when string) {
				t.Helper()
				for i := 0; i < len(c.others); i += 2 {
					if r := s.get(c.others[i]); r.StatusCode != http.StatusOK || !strings.Contains(r.body, c.others[i+1]) {
						t.Errorf("%s, %s: got %s %q, want %q in it", when, c.others[i], r.Status, r.body, c.others[i+1])
					}
				}
			}
			const most = 10 // in ten seconds
			for i := range most {
				if mode := gate.Switches.Mode(c.endpoint); mode != shedder.On {
					t.Fatalf("after %d panics: got %v, want on", i, mode)
				}
				if r := s.get(c.uri); r.StatusCode != http.StatusInternalServerError {
					t.Fatalf("panic %d: got %s", i+1, r.Status)
				}
				others("in the loop")
			}
			state := gate.Switches.State(c.endpoint)
			if d := time.Until(state.Until); state.Mode != shedder.Off || state.By != "spillway" || d <= 0 || d > time.Minute {
				t.Fatalf("after %d panics: got %+v, want off for a minute", most, state)
			}
			for range 3 {
				if r := s.get(c.uri); r.StatusCode != http.StatusOK || !strings.Contains(r.body, c.off) {
					t.Errorf("off: got %s %q, want %q", r.Status, r.body, c.off)
				}
			}
			if reply, _ := s.tracker.Early(someone, head(c.uri), time.Now(), 0); c.endpoint == shedder.Announce && !strings.Contains(string(reply), c.off) {
				t.Errorf("off, before it is parsed: got %q", reply)
			}
			others("afterwards")
			if got := s.tracker.metrics.panics.Get(); got != most {
				t.Errorf("panics: got %d, want %d; one that is off reaches no store", got, most)
			}

			// Repaired, or not reached again: it is on by itself when the minute is over.
			c.store.announces, c.store.scrapes = false, false
			gate.Switches.Expire(time.Now().Add(time.Minute))
			if mode := gate.Switches.Mode(c.endpoint); mode != shedder.On {
				t.Errorf("a minute later: got %v, want on", mode)
			}
			if r := s.get(c.uri); r.StatusCode != http.StatusOK || strings.Contains(r.body, string(errOff)) {
				t.Errorf("a minute later: got %s %q", r.Status, r.body)
			}
		})
	}
}

// A panic in a handshake counts for ws, whatever its path says.
func TestPanicsOfHandshakesTurnWebSocketsOff(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	s := serve(t, func(cfg *Config) {
		cfg.Gate = gate
		cfg.Upgrade = func(*fasthttp.RequestCtx, netip.Addr) { panic("a handshake too many") }
	})
	for range 10 {
		if r := s.get("/announce", "Connection: Upgrade", "Upgrade: websocket"); r.StatusCode != http.StatusInternalServerError {
			t.Fatalf("got %s", r.Status)
		}
	}
	for e, want := range map[shedder.Endpoint]shedder.Mode{shedder.WS: shedder.Off, shedder.Announce: shedder.On, shedder.Scrape: shedder.On} {
		if got := gate.Switches.Mode(e); got != want {
			t.Errorf("%v: got %v, want %v", e, got, want)
		}
	}
	if d := s.announce(announceURI("")); d.FailureReason != "" {
		t.Errorf("an announce meanwhile: got %v", d.raw)
	}
}

// senseless is a store whose replies make no sense while broken is set.
type senseless struct {
	*swarm.Table
	broken atomic.Bool
}

func (f *senseless) Announce(a *swarm.Announce, now time.Time, r *swarm.Reply) {
	if f.Table.Announce(a, now, r); f.broken.Load() {
		r.Peers4 = append(r.Peers4, 1, 2, 3, 4, 5)
	}
}

func (f *senseless) Scrape(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts {
	if f.broken.Load() {
		return dst
	}
	return f.Table.Scrape(hashes, dst)
}

// So is one that errs in a loop; and clients are told nothing that would bring them back soon.
func TestErrorLoopTurnsItsEndpointOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		endpoint      shedder.Endpoint
		uri, ok       string
		failing, off  string // what is in the reply
		other, theirs string
	}{
		{shedder.Announce, announceURI("&event=started"), "external ip", string(errInternal) + "8:intervali", string(errOff), "/healthz", "ok"},
		{shedder.Scrape, scrapeURI, "incompletei1e", "incompletei0e", "incompletei0e", announceURI("&event=started"), "external ip"},
	} {
		t.Run(c.endpoint.String(), func(t *testing.T) {
			t.Parallel()
			gate := gated(shedder.Config{})
			store := &senseless{Table: swarm.New(swarm.Config{})}
			s := serveOn(t, func(cfg *Config) { cfg.Gate = gate }, "tcp4", "127.0.0.1:0", store)
			want := func(when, uri, body string) {
				t.Helper()
				if r := s.get(uri); r.StatusCode != http.StatusOK || !strings.Contains(r.body, body) {
					t.Errorf("%s, %s: got %s %q, want %q in it", when, uri, r.Status, r.body, body)
				}
			}
			s.get(announceURI("&event=started"))
			for range 5 { // and what goes well
				want("before", c.uri, c.ok)
			}
			store.broken.Store(true)
			for i := range 10 {
				if mode := gate.Switches.Mode(c.endpoint); mode != shedder.On {
					t.Fatalf("after %d errors: got %v, want on", i, mode)
				}
				want("in the loop", c.uri, c.failing)
			}
			if state := gate.Switches.State(c.endpoint); state.Mode != shedder.Off || state.By != "spillway" || !strings.Contains(state.Reason, "error") {
				t.Fatalf("after ten errors: got %+v, want off, because of them", state)
			}
			store.broken.Store(false)
			want("off", c.uri, c.off)
			want("off", c.other, c.theirs)
			gate.Switches.Expire(time.Now().Add(time.Minute))
			want("a minute later", c.uri, c.ok)
		})
	}
}

// However many of its mistakes a client sends, they are its own.
func TestMistakesOfClientsAreNoFaults(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	s := serve(t, func(cfg *Config) { cfg.Gate, cfg.TrustedProxies = gate, []string{"127.0.0.1"} })
	for range 3 {
		for _, uri := range []string{
			"/announce", "/announce?info_hash=%", "/announce?" + strings.Repeat("x", maxAnnounceLine), announceURI("&port=99999"), announceURI(""),
			"/scrape", "/scrape?info_hash=a", "/scrape?info_hash=%zz", "/scrape?" + strings.Repeat("x", maxScrapeLine),
		} {
			for _, header := range []string{"X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: nobody", "Upgrade: websocket"} {
				s.get(uri, header)
			}
		}
	}
	for _, line := range s.log.all() {
		if strings.Contains(line, "BUG") {
			t.Errorf("log: %s", line)
		}
	}
	var out strings.Builder
	gate.WriteMetrics(&out)
	for _, line := range strings.Split(out.String(), "\n") {
		if strings.HasPrefix(line, "spillway_faults_total") && !strings.HasSuffix(line, " 0") {
			t.Error(line)
		}
	}
	for _, state := range gate.Switches.All() {
		if state.Mode != shedder.On {
			t.Errorf("got %+v, want on", state)
		}
	}
}
