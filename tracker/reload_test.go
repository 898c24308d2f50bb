package tracker

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// A configuration with a mistake changes nothing, however much else of it is right.
func TestReloadIsWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	next := testConfig()
	next.Interval, next.MaxNumWant, next.BlockPeerIDs = 5*time.Minute, 0, []string{"-qB"}
	next.AccessMode, next.AccessFile = AccessDeny, file(t, "list", "nonsense")
	if err := s.tracker.Reload(next); err == nil || !strings.Contains(err.Error(), "tracker.access.file") {
		t.Fatalf("got %v", err)
	}
	s.dialFrom("127.0.0.2").announce(announceURI(""))
	if d := s.announce(announceURI("")); d.FailureReason != "" || d.Interval < 1440 || len(d.peers()) != 1 {
		t.Errorf("a refused configuration is in force: %v", d.raw)
	}
	next.AccessMode, next.BlockPeerIDs = AccessOpen, nil
	for range 2 { // twice, as an operator may
		if err := s.tracker.Reload(next); err != nil {
			t.Fatal(err)
		}
		if d := s.announce(announceURI("")); d.FailureReason != "" || d.Interval > 360 || len(d.peers()) != 0 {
			t.Errorf("the configuration is not in force: %v", d.raw)
		}
	}
}

// A list that changes just as the operator reloads must not bring the old configuration back.
func TestListsAndReloadTogether(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	for i := range 200 {
		next := testConfig()
		next.NumWant = i
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := s.tracker.reloadLists(); err != nil {
				t.Error(err)
			}
		})
		if err := s.tracker.Reload(next); err != nil {
			t.Fatal(err)
		}
		both.Wait()
		if got := s.tracker.settings.Load().cfg.NumWant; got != i {
			t.Fatalf("reload %d: configuration %d is in force", i, got)
		}
	}
}

func TestReloadsDuringAnnounces(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	var announcers sync.WaitGroup
	for range 8 {
		c := s.dial()
		announcers.Go(func() {
			for i := range 200 {
				uri := announceURI("")
				if i%4 == 3 {
					uri = "/scrape?info_hash=" + hash20
				}
				r := c.get(uri)
				if r.StatusCode != 200 || strings.Contains(r.body, "failure") {
					t.Errorf("got %s %q", r.Status, r.body)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { announcers.Wait(); close(done) }()
	list := file(t, "list", hexA)
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		next := testConfig()
		if i%2 == 0 {
			next.AccessMode, next.AccessFile, next.TrustedProxies = AccessAllow, list, []string{"10.0.0.0/8", "cloudflare"}
		}
		if err := s.tracker.Reload(next); err != nil {
			t.Error(err)
		}
	}
}
