package tracker

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestHomeGivesTheURLToPaste(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	f := func(host, want string, header ...string) {
		t.Helper()
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(append(header, "\r\n"), "\r\n"))
		if r := c.read(http.MethodGet); r.StatusCode != 200 || !strings.Contains(r.body, ">"+want+"<") {
			t.Errorf("host %q: got %s\n%s", host, r.Status, r.body)
		}
	}
	f("tracker.example:6969", "http://tracker.example:6969/announce")
	f("tracker.example", "https://tracker.example/announce", "X-Forwarded-Proto: https")
	f("[2001:db8::1]:6969", "http://[2001:db8::1]:6969/announce")

	// Without a Host, the address that was reached.
	c := s.dial()
	c.send("GET / HTTP/1.0\r\n\r\n")
	if r := c.read(http.MethodGet); !strings.Contains(r.body, ">http://"+s.addr+"/announce<") {
		t.Errorf("no host: got %s\n%s", r.Status, r.body)
	}
}

func TestHostIsHarmless(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	for _, host := range []string{
		"<script>alert(1)</script>", "x<script>", "\"><img src=x onerror=alert(1)>", "x/<script>", "x&lt;", "javascript:alert(1)//", "x y", "\xff\xfe<b>",
	} {
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: " + host + "\r\nX-Forwarded-Proto: <script>\r\n\r\n")
		r := c.read(http.MethodGet)
		for _, bad := range []string{"<script", "<img", "<b>", "onerror=alert(1)>"} {
			if strings.Contains(r.body, bad) {
				t.Errorf("host %q: got %s\n%s", host, r.Status, r.body)
			}
		}
	}
	r := s.get("/")
	if csp := r.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none';") || r.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("got %v", r.Header)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.announce(announceURI(""))
	s.announce(strings.Replace(announceURI(""), "6881", "6882", 1))
	s.announce("/scrape?info_hash=" + hash20)
	var st Stats
	if err := json.Unmarshal([]byte(s.get("/stats.json").body), &st); err != nil {
		t.Fatal(err)
	}
	if st.Swarms != 1 || st.Leechers != 2 || st.Seeders != 0 || st.PeersIPv4 != 2 || st.Announces != 2 || st.Scrapes != 1 || st.IntervalSeconds != 1800 || st.StoreBytes <= 0 {
		t.Errorf("got %+v", st)
	}
	if body := s.get("/stats").body; !strings.Contains(body, "<b>1</b>torrent") || !strings.Contains(body, "2 announces") {
		t.Errorf("got %s", body)
	}
}

// The first to ask may be many at once; each gets the page, whole.
func TestStatsAreNeverEmpty(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	var all sync.WaitGroup
	for i := range 16 {
		c := s.dial()
		all.Go(func() {
			if r := c.get([]string{"/stats", "/stats.json"}[i%2]); len(r.body) < 100 {
				t.Errorf("got %s %q", r.Status, r.body)
			}
		})
	}
	all.Wait()
}

func TestAnnouncesASecondIsAMovingAverage(t *testing.T) {
	t.Parallel()
	var c statsCache
	now := time.Unix(1000, 0)
	c.sample(now, 500) // the first sample says nothing of the time before
	if c.perSecond != 0 {
		t.Errorf("at once: got %v", c.perSecond)
	}
	for i := range 60 {
		c.sample(now.Add(time.Duration(i+1)*2*time.Second), uint64(500+200*(i+1)))
	}
	if c.perSecond < 99 || c.perSecond > 101 {
		t.Errorf("two minutes of 100 a second: got %v", c.perSecond)
	}
	c.sample(now.Add(time.Hour), uint64(500+200*60))
	if c.perSecond != 0 {
		t.Errorf("an hour of nothing: got %v", c.perSecond)
	}
}

func TestUptimeAsAPersonSaysIt(t *testing.T) {
	t.Parallel()
	for seconds, want := range map[int64]string{0: "0s", 59: "59s", 60: "1m", 3600: "1h0m", 3660: "1h1m", 47*3600 + 59*60: "47h59m", 48 * 3600: "2 days", 400 * 86400: "400 days"} {
		if got := (Stats{UptimeSeconds: seconds}).Up(); got != want {
			t.Errorf("%d: got %s, want %s", seconds, got, want)
		}
	}
}

func TestThousandsApart(t *testing.T) {
	t.Parallel()
	for number, want := range map[any]string{0: "0", 999: "999", 1000: "1,000", uint64(123456): "123,456", 1234567: "1,234,567", 0.5: "0.5", 1234567.8: "1,234,567.8", 25000000.0: "25,000,000"} {
		if got := group(number); got != want {
			t.Errorf("%v: got %s, want %s", number, got, want)
		}
	}
}
