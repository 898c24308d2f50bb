package e2e

import (
	"net/netip"
	"net/url"
	"slices"
	"testing"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
	trackerhttp "github.com/anacrolix/torrent/tracker/http"
	"github.com/anacrolix/torrent/tracker/shared"
)

// TestAnotherTrackerClient reads our replies with the HTTP tracker client of anacrolix/torrent: every form of announce
// reply, and a scrape of several hashes, an unknown one among them.
func TestAnotherTrackerClient(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	hash, unknown := metainfo.HashBytes([]byte(t.Name())), metainfo.HashBytes([]byte("never announced"))
	announce{from: "127.0.0.2", hash: hash, port: 1002, left: 1}.mustTo(t, tr.announce)
	announce{from: "127.0.0.3", hash: hash, port: 1003, left: 1}.mustTo(t, tr.announce)
	announce{from: "127.0.0.3", hash: hash, port: 1003, left: 0, event: "completed"}.mustTo(t, tr.announce)
	want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:1002"), netip.MustParseAddrPort("127.0.0.3:1003")}

	u, err := url.Parse(tr.announce)
	if err != nil {
		t.Fatal(err)
	}
	client := trackerhttp.NewClient(u, trackerhttp.NewClientOpts{})
	defer client.Close()
	reply, err := client.Announce(t.Context(), trackerhttp.AnnounceRequest{
		InfoHash: hash, PeerId: [20]byte([]byte("-E20000-+ +&=%;/?~*!")), Port: 1004, Left: -1, Event: shared.Started,
	}, trackerhttp.AnnounceOpt{})
	if err != nil {
		t.Fatal(err)
	}
	if reply.Seeders != 1 || reply.Leechers != 2 {
		t.Errorf("announce: got %d seeders and %d leechers, want 1 and 2", reply.Seeders, reply.Leechers)
	}
	// 30 minutes, give or take a fifth.
	if reply.Interval < 1440 || reply.Interval > 2160 {
		t.Errorf("interval: got %d, want 1440 to 2160", reply.Interval)
	}
	wantSame(t, "compact", reply.Peers, want)

	// The form of BEP 3's first days: dictionaries with ip and port.
	body, err := get(tr.announce + "?compact=0&left=1&port=1004&peer_id=-E20000-000000001004&info_hash=" + escape(hash[:]))
	if err != nil {
		t.Fatal(err)
	}
	var long trackerhttp.HttpResponse
	if err := bencode.Unmarshal(body, &long); err != nil {
		t.Fatalf("compact=0 reply %q: %v", body, err)
	}
	wantSame(t, "compact=0", long.Peers.List, want)

	scraped, err := client.Scrape(t.Context(), []metainfo.Hash{hash, unknown})
	if err != nil {
		t.Fatal(err)
	}
	if got := scraped[0]; got.Seeders != 1 || got.Leechers != 2 || got.Completed != 1 {
		t.Errorf("scrape: got %+v, want 1 seeder, 2 leechers, 1 completed", got)
	}
	if got := scraped[1]; got.Seeders != 0 || got.Leechers != 0 || got.Completed != 0 {
		t.Errorf("scrape of an unknown hash: got %+v, want zeros", got)
	}
	tr.stop(t)
}

func wantSame(t *testing.T, form string, peers []trackerhttp.Peer, want []netip.AddrPort) {
	t.Helper()
	got := make([]netip.AddrPort, 0, len(peers))
	for _, p := range peers {
		addr, _ := netip.AddrFromSlice(p.IP)
		got = append(got, netip.AddrPortFrom(addr.Unmap(), uint16(p.Port)))
	}
	slices.SortFunc(got, netip.AddrPort.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("%s peers: got %v, want %v", form, got, want)
	}
}
