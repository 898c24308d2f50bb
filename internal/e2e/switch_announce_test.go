//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// heard is what a client makes of a tracker's answer: the text its user sees, and when it will announce next. Nobody waits for
// that: it is read where the client keeps it.
type heard struct {
	says string
	next time.Duration
}

// announcer is a client program as the switches see it.
type announcer struct {
	name   string
	fails  bool          // it obeys a failure's interval, and so is told one (docs/shedding.md)
	down   time.Duration // when it asks again where nobody listens; 0: it does not say
	listen func(t *testing.T, p payload) (heardSoFar func() (heard, error))
}

// announcers start a client with a torrent; heardSoFar is an error until its tracker has answered or cannot be reached.
var announcers = []announcer{
	{"libtorrent 2.0.8", true, 17 * time.Second, hearLibtorrent},
	{"qBittorrent 4.5", true, 17 * time.Second, hearHTTPQBittorrent},
	{"Transmission 3.00", false, 20 * time.Second, hearTransmission},
	{"rTorrent 0.9.8", false, 5 * time.Second, hearRTorrent},
	{"aria2 1.36", false, 0, hearHTTPAria2},
	{"anacrolix 1.61", false, 0, hearAnacrolix},
}

// A client that has just started, in each mode: what it says, and when it asks again.
func TestSwitchAnnounce(t *testing.T) {
	t.Parallel()
	for _, c := range announcers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := serve(t, "--http.trusted_proxies="+recorderAddr)
			rec, op := newRecorder(t, tr), tr.operator(t)
			for _, mode := range modes {
				t.Run(mode, func(t *testing.T) {
					op.turn(t, "announce", mode)
					c.hears(t, rec, mode)
				})
			}
			t.Run("down", func(t *testing.T) {
				if c.down == 0 {
					t.Skip("its next announce is not to be seen after a refused connection")
				}
				p := newPayload(t, mib, fmt.Sprintf("http://127.0.0.1:%d/announce", freePort(t)))
				got := waitHeard(t, c.listen(t, p))
				row(t, "announce", "nobody listens", c.name, strconv.Quote(got.says), got.next.Round(time.Second))
				wantAbout(t, "next announce", got.next, c.down, 4*time.Second)
			})
			tr.stop(t)
		})
	}
}

// served and refused are the bounds of what clients are told with the default configuration: 30 minutes, give or take a fifth;
// 90 minutes, less up to a third.
var (
	served  = [2]int{24 * 60, 36 * 60}
	refused = [2]int{60 * 60, 90 * 60}
)

func (c announcer) hears(t *testing.T, rec *recorder, mode string) {
	p := newPayload(t, mib, rec.announce)
	heardSoFar := c.listen(t, p)
	got := waitHeard(t, heardSoFar)
	told, n := rec.told(p.hash)
	if n != 1 {
		t.Errorf("announces: got %d, want one", n)
	}
	row(t, "announce", mode, c.name, strconv.Quote(got.says), got.next.Round(time.Second), "told", told.Interval, "s")
	bounds := refused
	if mode == "on" {
		bounds = served
	}
	if told.Interval < bounds[0] || told.Interval > bounds[1] || told.Min != told.Interval {
		t.Errorf("interval told: got %d, at least %d, want both the same, from %d to %d s", told.Interval, told.Min, bounds[0], bounds[1])
	}
	if fails := mode != "on" && c.fails; (told.Failure != "") != fails || (told.External != "") != (mode == "on") {
		t.Errorf("reply: got failure %q, external ip %q", told.Failure, told.External)
	} else if fails && got.says != told.Failure {
		t.Errorf("the client says %q, was told %q", got.says, told.Failure)
	}
	// The client's own clock has run since, and some round to 10 s.
	wantAbout(t, "next announce", got.next, time.Duration(told.Interval)*time.Second, 12*time.Second)
}

func waitHeard(t *testing.T, heardSoFar func() (heard, error)) (h heard) {
	t.Helper()
	waittest.Done(t, time.Minute, "an answer heard", func() (err error) {
		h, err = heardSoFar()
		return err
	})

	return h
}

// One that is known to the tracker: reject-new is served to it, and it hears of drain and off at its next announce.
func TestSwitchAnnounceOfThoseKnown(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.trusted_proxies="+recorderAddr)
	rec, op := newRecorder(t, tr), tr.operator(t)
	p := newPayload(t, mib, rec.announce)
	s := startSession(t, p)
	waitHeard(t, s.nth(1)) // started
	for i, mode := range modes {
		op.turn(t, "announce", mode)
		_ = s.cmd.Process.Signal(syscall.SIGUSR1)
		got := waitHeard(t, s.nth(2+i))
		told, n := rec.told(p.hash)
		if n != 2+i {
			t.Errorf("%s: announces: got %d, want %d", mode, n, 2+i)
		}
		row(t, "announce", mode, "libtorrent 2.0.8, known", strconv.Quote(got.says), got.next, "told", told.Interval, "s")
		if off := mode == "drain" || mode == "off"; (told.Failure != "") != off || got.says != told.Failure {
			t.Errorf("%s: told %q, it says %q", mode, told.Failure, got.says)
		}
		wantAbout(t, mode+": next announce", got.next, time.Duration(told.Interval)*time.Second, 5*time.Second)
	}
	tr.stop(t)
}

// A scrape that is refused says zeros and is no failure: Transmission counts failed scrapes as failed announces, and would be
// back in seconds.
func TestSwitchScrape(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.trusted_proxies="+recorderAddr)
	rec, op := newRecorder(t, tr), tr.operator(t)
	for _, mode := range modes {
		op.turn(t, "scrape", mode)
		p := newPayload(t, mib, rec.announce)
		tm := startLoneTransmission(t, p)
		var s transmissionTracker
		waittest.Done(t, time.Minute, "announced and scraped", func() (err error) {
			if s, err = tm.tracker(); err == nil && (!s.HasScraped || !s.HasAnnounced || s.NextAnnounce == 0 || s.NextScrape == 0) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})

		told, n := rec.told(p.hash)
		next, again := time.Until(time.Unix(s.NextAnnounce, 0)), time.Unix(s.NextScrape, 0).Sub(time.Unix(s.LastScrape, 0))
		row(t, "scrape", mode, "Transmission 3.00", strconv.Quote(s.ScrapeResult), again, "next announce", next.Round(time.Second), "told", told.Interval, "s")
		if !s.ScrapeSucceeded || !s.AnnounceSucceeded || n != 1 {
			t.Errorf("%s: got %+v, %d announces", mode, s, n)
		}
		wantAbout(t, mode+": next announce", next, time.Duration(told.Interval)*time.Second, 12*time.Second)
		tm.kill()

		lt := startSession(t, newPayload(t, mib, rec.announce))
		waitHeard(t, lt.nth(1))
		_ = lt.cmd.Process.Signal(syscall.SIGUSR2)
		var got []alert
		waittest.Done(t, 20*time.Second, "libtorrent's scrape", func() error {
			if got = lt.alerts("scrape_reply_alert", "scrape_failed_alert"); len(got) == 0 {
				return errors.New("no alert")
			}
			return nil
		})

		row(t, "scrape", mode, "libtorrent 2.0.8", strconv.Quote(got[0].Message))
		if got[0].Alert != "scrape_reply_alert" {
			t.Errorf("%s: got %+v", mode, got)
		}
		lt.kill()
	}
	tr.stop(t)
}
