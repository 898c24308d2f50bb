package tracker

import (
	"fmt"
	"strings"
	"testing"
)

func TestScrape(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.announce(announceURI(""))
	d := s.announce("/scrape?info_hash=%ff" + hash20[1:] + "&info_hash=" + hash20 + "&info_hash=%00" + hash20[1:] + "&info_hash=%61" + hash20[1:])
	files := d.raw["files"].(map[string]any) // sorted: decode holds that
	if len(files) != 3 {
		t.Errorf("a hash asked twice is there twice, or one is missing: %v", files)
	}
	for hash, want := range map[string]string{
		hash20:                 "map[complete:0 downloaded:0 downloaders:1 incomplete:1]",
		"\xff" + hash20[1:]:    "map[complete:0 downloaded:0 downloaders:0 incomplete:0]",
		"\x00" + hash20[1:]:    "map[complete:0 downloaded:0 downloaders:0 incomplete:0]",
		"never asked for hash": "<nil>",
	} {
		if got := fmt.Sprint(files[hash]); got != want {
			t.Errorf("%q: got %s, want %s", hash, got, want)
		}
	}
	flags, _ := d.raw["flags"].(map[string]any)
	if sec, _ := flags["min_request_interval"].(int64); sec < 1440 || sec > 2160 {
		t.Errorf("flags: got %v", d.raw["flags"])
	}
	if got := s.tracker.metrics.scrapeServed.Get(); got != 1 {
		t.Errorf("scrapes counted: got %d, want 1", got)
	}
}

// Transmission asks for 60 at once; whoever asks for more than maxScrape hears of the first ones.
func TestManyHashesInOneScrape(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	for _, n := range []int{60, maxScrape, maxScrape + 1, 100} {
		var uri strings.Builder
		uri.WriteString("/scrape?")
		for i := range n {
			fmt.Fprintf(&uri, "&info_hash=%%%02x%s", i, strings.Repeat("%aa", 19))
		}
		d := s.announce(uri.String())
		if files, _ := d.raw["files"].(map[string]any); len(files) != min(n, maxScrape) {
			t.Errorf("%d hashes: got %d files, want %d", n, len(files), min(n, maxScrape))
		}
	}
}
