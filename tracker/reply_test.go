package tracker

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/anacrolix/torrent/bencode"
	httpTracker "github.com/anacrolix/torrent/tracker/http"
	"pgregory.net/rapid"

	"spillway/tracker/swarm"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares got with a file of testdata, escaped so that a review can read it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	text := fmt.Sprintf("%q\n", got)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s:\ngot  %swant %s", path, text, want)
	}
}

func TestGoldenReplies(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	var r swarm.Reply
	golden(t, "announce-alone", appendAnnounce(nil, &announceReply{Reply: &r, intervalSec: 1800, external: v4}))
	golden(t, "announce-alone-list", appendAnnounce(nil, &announceReply{Reply: &r, intervalSec: 1800, external: v4, list: true}))

	r.Counts = swarm.Counts{Complete: 2, Incomplete: 1, Downloaded: 7, Downloaders: 1}
	r.Peers4 = []byte("\x01\x02\x03\x04\x1a\xe1\xc6\x33\x64\x07\xff\xff")
	golden(t, "announce-ipv4", appendAnnounce(nil, &announceReply{Reply: &r, intervalSec: 1801, external: v4}))
	r.Peers6 = append(v6.AsSlice(), 0, 80)
	golden(t, "announce-both", appendAnnounce(nil, &announceReply{Reply: &r, intervalSec: 300, external: v6}))
	golden(t, "announce-both-list", appendAnnounce(nil, &announceReply{Reply: &r, intervalSec: 300, external: v6, list: true}))
	r.Peers4 = nil
	golden(t, "announce-ipv6", appendAnnounce(nil, &announceReply{Reply: &r, intervalSec: 10800, external: v6}))

	golden(t, "failure", appendFailure(nil, string(errInfoHash), 1800))
	hashes := []swarm.InfoHash{{}, swarm.InfoHash([]byte("aaaaaaaaaaaaaaaaaaaa"))}
	golden(t, "scrape", appendScrape(nil, hashes, []swarm.Counts{{}, {Complete: 4294967295, Incomplete: 3, Downloaded: 9, Downloaders: 2}}, 1800))
}

// reencode reads b with an independent decoder and writes it with its encoder, which sorts keys: what comes back equal
// was canonical.
func reencode(t interface{ Fatalf(string, ...any) }, b []byte) map[string]any {
	var v map[string]any
	if err := bencode.Unmarshal(b, &v); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	if again := bencode.MustMarshal(v); !bytes.Equal(again, b) {
		t.Fatalf("not canonical:\ngot  %q\nwant %q", b, again)
	}
	return v
}

func drawCounts(t *rapid.T) swarm.Counts {
	n := rapid.Uint32()
	return swarm.Counts{Complete: n.Draw(t, "complete"), Incomplete: n.Draw(t, "incomplete"), Downloaded: n.Draw(t, "downloaded"), Downloaders: n.Draw(t, "downloaders")}
}

func drawAddr(t *rapid.T) netip.Addr {
	if rapid.Bool().Draw(t, "ipv4") {
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
	}
	// Mapped addresses are unmapped at the door.
	return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr"))).Unmap()
}

func TestAnnounceReplyDecodes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		counts := drawCounts(t)
		n4, n6 := rapid.IntRange(0, 60).Draw(t, "n4"), rapid.IntRange(0, 60).Draw(t, "n6")
		peers4 := rapid.SliceOfN(rapid.Byte(), 6*n4, 6*n4).Draw(t, "peers4")
		peers6 := rapid.SliceOfN(rapid.Byte(), 18*n6, 18*n6).Draw(t, "peers6")
		r := announceReply{
			Reply:       &swarm.Reply{Counts: counts, Peers4: peers4, Peers6: peers6},
			intervalSec: rapid.IntRange(minIntervalSec, maxIntervalSec).Draw(t, "interval"),
			external:    drawAddr(t),
			list:        rapid.Bool().Draw(t, "list"),
		}
		b := appendAnnounce([]byte("before"), &r)
		b, ok := bytes.CutPrefix(b, []byte("before"))
		if !ok {
			t.Fatalf("it does not append")
		}
		v := reencode(t, b)
		want := map[string]any{
			"complete": int64(counts.Complete), "incomplete": int64(counts.Incomplete), "downloaded": int64(counts.Downloaded),
			"interval": int64(r.intervalSec), "min interval": int64(r.intervalSec), "external ip": string(r.external.AsSlice()),
		}
		for key, value := range want {
			if v[key] != value {
				t.Errorf("%s: got %v, want %v", key, v[key], value)
			}
		}
		if _, there := v["peers"]; !there {
			t.Errorf("no peers key")
		}
		if _, there := v["peers6"]; there != (n6 > 0 && !r.list) {
			t.Errorf("peers6 key: %v with %d IPv6 peers, list %v", there, n6, r.list)
		}

		// The client's own types read the same peers in the same order.
		var reply httpTracker.HttpResponse
		if err := bencode.Unmarshal(b, &reply); err != nil && counts.Complete <= 1<<31-1 && counts.Incomplete <= 1<<31-1 {
			t.Fatalf("%v", err)
		}
		var got []netip.AddrPort
		for _, p := range reply.Peers.List {
			addr, _ := netip.AddrFromSlice(p.IP)
			got = append(got, netip.AddrPortFrom(addr.Unmap(), uint16(p.Port)))
		}
		for _, p := range reply.Peers6 {
			addr, _ := netip.AddrFromSlice(p.IP)
			got = append(got, netip.AddrPortFrom(addr.Unmap(), uint16(p.Port)))
		}
		var all []netip.AddrPort
		for p := range slices.Chunk(peers4, 6) {
			all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte(p)), binary.BigEndian.Uint16(p[4:])))
		}
		for p := range slices.Chunk(peers6, 18) {
			all = append(all, netip.AddrPortFrom(netip.AddrFrom16([16]byte(p)).Unmap(), binary.BigEndian.Uint16(p[16:])))
		}
		if counts.Complete <= 1<<31-1 && counts.Incomplete <= 1<<31-1 && !slices.Equal(got, all) {
			t.Errorf("peers: got %v, want %v", got, all)
		}
	})
}

func TestFailureDecodes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		reason := rapid.String().Draw(t, "reason")
		sec := rapid.IntRange(minIntervalSec, maxIntervalSec).Draw(t, "interval")
		v := reencode(t, appendFailure(nil, reason, sec))
		if len(v) != 3 || v["failure reason"] != reason || v["interval"] != int64(sec) || v["min interval"] != int64(sec) {
			t.Errorf("got %v", v)
		}
	})
}

func TestScrapeReplyDecodes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		// Few different bytes, so that there are duplicates and common beginnings.
		one := rapid.Custom(func(t *rapid.T) swarm.InfoHash {
			return swarm.InfoHash(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'e', 0xff}), 20, 20).Draw(t, "hash"))
		})
		hashes := rapid.SliceOfN(one, 0, maxScrape).Draw(t, "hashes")
		if len(hashes) > 1 {
			hashes = append(hashes, hashes[rapid.IntRange(0, len(hashes)-1).Draw(t, "again")])
		}
		asked := map[swarm.InfoHash]swarm.Counts{}
		for _, h := range hashes {
			asked[h] = drawCounts(t)
		}
		hashes = sortHashes(hashes)
		var counts []swarm.Counts
		for _, h := range hashes {
			counts = append(counts, asked[h])
		}
		v := reencode(t, appendScrape(nil, hashes, counts, 1800))
		files, _ := v["files"].(map[string]any)
		if len(files) != len(asked) {
			t.Errorf("files: got %d, want %d", len(files), len(asked))
		}
		for h, c := range asked {
			want := map[string]any{
				"complete": int64(c.Complete), "incomplete": int64(c.Incomplete), "downloaded": int64(c.Downloaded), "downloaders": int64(c.Downloaders),
			}
			if got := files[string(h[:])]; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%x: got %v, want %v", h, got, want)
			}
		}
		if got := fmt.Sprint(v["flags"]); got != "map[min_request_interval:1800]" {
			t.Errorf("flags: got %v", got)
		}
	})
}
