package tracker

import (
	"path/filepath"
	"strings"
	"testing"
)

const (
	hashA = "aaaaaaaaaaaaaaaaaaaa"
	hashB = "bbbbbbbbbbbbbbbbbbbb"
	hexA  = "6161616161616161616161616161616161616161"
	hexB  = "6262626262626262626262626262626262626262"
)

// served tells whether the torrent is; a refusal must be one that makes clients stop, with the longest interval.
func served(s *server, hash string) bool {
	s.Helper()
	d := s.announce("/announce?info_hash=" + hash + "&peer_id=" + hash20 + "&port=1&left=1")
	if d.FailureReason == "" {
		return true
	}
	if d.FailureReason != string(errUnregistered) || !longInterval(d.Interval) || d.raw["min interval"] != int64(d.Interval) {
		s.Errorf("refused with %v", d.raw)
	}
	return false
}

// longInterval tells tracker.max_interval, 90 minutes here, less up to a third: those refused in one moment do not come back in
// one.
func longInterval(sec int32) bool { return sec >= 3600 && sec <= 5400 }

func TestAccessModes(t *testing.T) {
	t.Parallel()
	list := file(t, "list", "# mine\n\n  "+strings.ToUpper(hexA)+"  # the first\r\n")
	for mode, want := range map[string][2]bool{AccessOpen: {true, true}, AccessAllow: {true, false}, AccessDeny: {false, true}} {
		s := serve(t, func(cfg *Config) { cfg.AccessMode, cfg.AccessFile = mode, list })
		if got := [2]bool{served(s, hashA), served(s, hashB)}; got != want {
			t.Errorf("%s: got %v, want %v", mode, got, want)
		}
		wantOff := uint64(1)
		if mode == AccessOpen {
			wantOff = 0
		}
		if got := s.tracker.metrics.announceOff.Get(); got != wantOff {
			t.Errorf("%s: refusals counted: got %d, want %d", mode, got, wantOff)
		}
		if got := s.table.Stats().Swarms; got != 2-int(wantOff) {
			t.Errorf("%s: swarms: got %d", mode, got)
		}
	}
}

// What a list forbids later has no counts any more, whoever is still in its swarm.
func TestScrapeOfAForbiddenTorrentIsZeros(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.announce(announceURI(""))
	cfg := testConfig()
	cfg.AccessMode, cfg.AccessFile = AccessDeny, file(t, "list", hexA)
	if err := s.tracker.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	if got := scrapeOf(s, hashA); got != "map[complete:0 downloaded:0 downloaders:0 incomplete:0]" {
		t.Errorf("got %s", got)
	}
}

func TestListsThatAreRefused(t *testing.T) {
	t.Parallel()
	f := func(want string, change func(*Config)) {
		t.Helper()
		cfg := testConfig()
		change(&cfg)
		if _, err := newSettings(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	deny := func(text string) func(*Config) {
		return func(cfg *Config) { cfg.AccessMode, cfg.AccessFile = AccessDeny, file(t, "list", text) }
	}
	f("tracker.access.file", deny("abc"))
	f("line 2: ", deny(hexA+"\nabc\n"))
	f("40 hex digits", deny(hexA+"a"))
	f("line 1: ", deny(strings.Repeat("zz", 20)))
	f("line 1: ", deny(hexA+" "+hexB))
	f("tracker.access.file: empty", func(cfg *Config) { cfg.AccessMode = AccessAllow })
	f("tracker.access.mode: \"none\"", func(cfg *Config) { cfg.AccessMode = "none" })
	f("tracker.access.file", func(cfg *Config) {
		cfg.AccessMode, cfg.AccessFile = AccessAllow, filepath.Join(t.TempDir(), "missing")
	})
	f("tracker.passkeys", func(cfg *Config) { cfg.PasskeyFile = file(t, "keys", "a/b\n") })
	f("tracker.passkeys", func(cfg *Config) { cfg.PasskeyFile = filepath.Join(t.TempDir(), "missing") })
	f("tracker.block_peer_ids", func(cfg *Config) { cfg.BlockPeerIDs = []string{""} })
	f("tracker.block_peer_ids", func(cfg *Config) { cfg.BlockPeerIDs = []string{strings.Repeat("x", 21)} })
	f("http.trusted_proxies", func(cfg *Config) { cfg.TrustedProxies = []string{"nobody"} })
}

func TestPasskeys(t *testing.T) {
	t.Parallel()
	s := serve(t, func(cfg *Config) { cfg.PasskeyFile = file(t, "keys", "secret\n# old\nother # hers\n") })
	query := strings.TrimPrefix(announceURI(""), "/announce")
	for path, want := range map[string]failure{
		"/announce/secret": "", "/secret/announce": "", "/announce.php/other": "", "/other/announce/": "",
		"/announce": errPasskey, "/announce/": errPasskey, "/announce/Secret": errPasskey, "/announce/secre": errPasskey, "/announce/old": errPasskey,
		"/announce/announce": errPasskey,
	} {
		if d := s.announce(path + query); d.FailureReason != string(want) {
			t.Errorf("%s: got %v, want %q", path, d.raw, want)
		}
	}
	if d := s.announce("/scrape?info_hash=" + hash20); d.FailureReason != string(errPasskey) {
		t.Errorf("scrape: got %v", d.raw)
	}
	if d := s.announce("/scrape/secret?info_hash=" + hash20); d.FailureReason != "" {
		t.Errorf("scrape: got %v", d.raw)
	}
}

func TestBlockedClients(t *testing.T) {
	t.Parallel()
	s := serve(t, func(cfg *Config) { cfg.BlockPeerIDs = []string{"-XL0019", "-XX"} })
	for id, want := range map[string]failure{
		"-XL0019-abcdefghijkl": errBlockedClient, "-XX0000-abcdefghijkl": errBlockedClient, "%2DXX%30000-abcdefghijkl": errBlockedClient,
		"-XL0018-abcdefghijkl": "", "-qB4500--XX012345678": "",
	} {
		d := s.announce("/announce?info_hash=" + hash20 + "&port=1&left=1&peer_id=" + id)
		if d.FailureReason != string(want) || want != "" && !longInterval(d.Interval) {
			t.Errorf("%s: got %v, want %q", id, d.raw, want)
		}
	}
}
