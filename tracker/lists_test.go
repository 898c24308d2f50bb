package tracker

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spillway/tracker/swarm"
)

// watched is a tracker whose Run is running, on a clock of its own and real files.
type watched struct {
	*testing.T
	*Tracker
	log *lines
}

func watch(t *testing.T, change func(*Config)) *watched {
	cfg := testConfig()
	change(&cfg)
	log := new(lines)
	tracker, err := New(cfg, swarm.New(swarm.Config{}), slog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); tracker.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return &watched{t, tracker, log}
}

// write changes a file. Its time is the test's: the file system's does not tell two writes in a row apart.
func (w *watched) write(path, text string) {
	w.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		w.Fatal(err)
	}
}

// pass lets time go by.
func (w *watched) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// serves names the torrents of A and B that may be announced.
func (w *watched) serves() (names string) {
	for i, hash := range []string{hashA, hashB} {
		h := swarm.InfoHash([]byte(hash))
		if w.Refuses(&h, nil) == "" {
			names += "AB"[i : i+1]
		}
	}
	return names
}

// logged is the last line of the log, and how many there are.
func (w *watched) logged() (last string, n int) {
	all := w.log.all()
	if len(all) == 0 {
		return "", 0
	}
	return all[len(all)-1], len(all)
}

// A list is in force soon after its file has changed. One with a mistake leaves the last good one, and is one line in the log.
func TestListIsReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		list := file(t, "list", hexA+"\n")
		w := watch(t, func(cfg *Config) { cfg.AccessMode, cfg.AccessFile = AccessAllow, list })
		w.pass(time.Minute)
		if last, n := w.logged(); w.serves() != "A" || n != 0 {
			t.Fatalf("at first: serves %s, log %q", w.serves(), last)
		}
		w.write(list, hexA+"\n"+hexB+"\n")
		w.pass(2 * filePoll)
		if last, n := w.logged(); w.serves() != "AB" || n != 1 || !strings.Contains(last, "INFO lists reloaded access=2") {
			t.Fatalf("with B: serves %s, log %q", w.serves(), last)
		}

		w.write(list, hexA+"\nnonsense\n")
		w.pass(time.Minute)
		if last, n := w.logged(); w.serves() != "AB" || n != 2 || !strings.Contains(last, "ERROR list not reloaded") || !strings.Contains(last, "line 2") {
			t.Errorf("with a mistake: serves %s, log %q", w.serves(), last)
		}
		if err := os.Remove(list); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
		if last, n := w.logged(); w.serves() != "AB" || n != 3 || !strings.Contains(last, "no such file") {
			t.Errorf("without a file: serves %s, log %q", w.serves(), last)
		}
		w.write(list, hexB+"\n")
		w.pass(2 * filePoll)
		if last, n := w.logged(); w.serves() != "B" || n != 4 {
			t.Errorf("mended: serves %s, log %q", w.serves(), last)
		}
		// The same mistake again is news.
		if err := os.Remove(list); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
		if last, n := w.logged(); w.serves() != "B" || n != 5 || !strings.Contains(last, "no such file") {
			t.Errorf("gone again: serves %s, log %q", w.serves(), last)
		}
	})
}

// Half an allow list would tell clients for good that their torrents are unregistered.
func TestListBeingWrittenIsNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		list := file(t, "list", hexA+"\n")
		w := watch(t, func(cfg *Config) { cfg.AccessMode, cfg.AccessFile = AccessAllow, list })
		text := hexB + "\n"
		for range 20 {
			w.write(list, text)
			w.pass(filePoll * 9 / 10)
			if got := w.serves(); got != "A" {
				t.Fatalf("while it is written: serves %s", got)
			}
			text += "# goes on\n"
		}
		w.pass(2 * filePoll)
		if got := w.serves(); got != "B" {
			t.Errorf("when it is whole: serves %s", got)
		}
	})
}

// So are passkeys and Cloudflare's ranges.
func TestOtherListsAreReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		keys, ranges := file(t, "keys", "old\n"), file(t, "ranges", "192.0.2.0/24\n")
		w := watch(t, func(cfg *Config) {
			cfg.PasskeyFile, cfg.CloudflareFile, cfg.TrustedProxies = keys, ranges, []string{"cloudflare"}
		})
		w.write(keys, "new\n")
		w.pass(2 * filePoll)
		if keys := w.settings.Load().passkeys; len(keys) != 1 || keys["new"] != struct{}{} {
			t.Errorf("passkeys: got %v", keys)
		}
		w.write(ranges, "198.51.100.0/24\n")
		w.pass(2 * filePoll)
		if !w.Trusted(netip.MustParseAddr("198.51.100.1")) || w.Trusted(netip.MustParseAddr("192.0.2.1")) {
			t.Errorf("the old ranges are in force")
		}
	})
}

// An operator's reload in the meantime is not undone, and its files are the ones watched.
func TestReloadChangesWhatIsWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second := file(t, "first", hexA+"\n"), file(t, "second", hexB+"\n")
		w := watch(t, func(cfg *Config) { cfg.AccessMode, cfg.AccessFile = AccessAllow, first })
		cfg := testConfig()
		cfg.AccessMode, cfg.AccessFile = AccessAllow, second
		if err := w.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		w.write(first, hexA+"\n"+hexB+"\n")
		w.pass(time.Minute)
		if got := w.serves(); got != "B" {
			t.Errorf("a file no longer used: serves %s", got)
		}
		w.write(second, hexA+"\n"+hexB+"\n")
		w.pass(2 * filePoll)
		if got := w.serves(); got != "AB" {
			t.Errorf("the file in use: serves %s", got)
		}
	})
}
