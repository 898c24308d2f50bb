//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"

	"spillway/internal/waittest"
)

// startOpentracker runs Debian's build, which serves listed info hashes alone, and returns its announce URL.
func startOpentracker(t *testing.T, hashes []metainfo.Hash) string {
	t.Helper()
	// Its user is nobody, once it has bound its ports and before it reads the list.
	dir, err := os.MkdirTemp("/tmp", "opentracker-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	list := ""
	for _, h := range hashes {
		list += h.HexString() + "\n"
	}
	writeFile(t, filepath.Join(dir, "whitelist"), list)
	port := fmt.Sprint(freePort(t))
	start(t, "opentracker", "opentracker", "-i", "127.0.0.1", "-p", port, "-P", port, "-d", dir, "-w", "whitelist")
	url := "http://127.0.0.1:" + port + "/announce"
	waittest.Done(t, 10*time.Second, "opentracker up", func() error {
		_, err := scrape(url, hashes[0])
		return err
	})

	return url
}

// life is where a peer is in a swarm, as a client lives it.
type life int

const (
	absent life = iota
	leeching
	arrivedComplete // seeds, and has never said "completed"
	completed       // seeds what it downloaded
)

// announces lists what a client may say at each point, retries, lost words and both trackers' restarts included, and
// where it is afterwards.
var announces = map[life][]struct {
	event string
	left  int64
	then  life
}{
	absent: {
		{"started", 1000, leeching}, {"started", 0, arrivedComplete}, {"", 1000, leeching}, {"", 0, arrivedComplete},
		{"completed", 0, completed}, {"stopped", 1000, absent}, {"stopped", 0, absent},
	},
	leeching: {
		{"", 500, leeching}, {"", 500, leeching}, {"started", 1000, leeching}, {"completed", 0, completed},
		{"completed", 0, completed}, {"", 0, arrivedComplete}, {"stopped", 500, absent},
	},
	arrivedComplete: {{"", 0, arrivedComplete}, {"started", 0, arrivedComplete}, {"stopped", 0, absent}},
	completed:       {{"", 0, completed}, {"completed", 0, completed}, {"started", 0, completed}, {"stopped", 0, absent}},
}

// TestAgreesWithOpentracker sends one random history to both trackers and compares every reply. The differences we know
// of, and want:
//
//   - opentracker lists the announcer itself, and gives seeders to seeders;
//   - it leaves unknown hashes out of a scrape, and downloaded out of its answer to "stopped";
//   - it counts the "completed" of a peer that already was a seeder; no client's life above has that.
func TestAgreesWithOpentracker(t *testing.T) {
	t.Parallel()
	hashes := make([]metainfo.Hash, 4)
	for i := range hashes {
		hashes[i] = metainfo.HashBytes(fmt.Appendf(nil, "swarm %d of %d", i, rand.Int64()))
	}
	oracle := startOpentracker(t, hashes)
	tr := serve(t)

	seed := rand.Uint64()
	t.Logf("history of seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	lives := make([]map[netip.AddrPort]life, len(hashes))
	for i := range lives {
		lives[i] = make(map[netip.AddrPort]life)
	}
	for step := range 2000 {
		i := rng.IntN(len(hashes))
		a := announce{from: fmt.Sprintf("127.0.0.%d", 21+rng.IntN(8)), hash: hashes[i], port: 7000 + rng.IntN(2)}
		self := netip.AddrPortFrom(netip.MustParseAddr(a.from), uint16(a.port))
		choices := announces[lives[i][self]]
		choice := choices[rng.IntN(len(choices))]
		a.event, a.left = choice.event, choice.left
		lives[i][self] = choice.then
		what := fmt.Sprintf("step %d, %q of %v left %d", step, a.event, self, a.left)

		ours, theirs := a.mustTo(t, tr.announce), a.mustTo(t, oracle)
		if a.event == "stopped" {
			theirs.Downloaded = ours.Downloaded
		}
		if got, want := ours.counts(), theirs.counts(); got != want {
			t.Fatalf("%s: got %+v, opentracker has %+v", what, got, want)
		}
		// Who leaves needs no peers; what a tracker lists then is its own affair.
		if a.event != "stopped" {
			want := slices.DeleteFunc(theirs.peers(t), func(p netip.AddrPort) bool {
				return p == self || a.left == 0 && lives[i][p] >= arrivedComplete
			})
			if got := ours.peers(t); !slices.Equal(got, want) {
				t.Fatalf("%s: got peers %v, opentracker has %v", what, got, want)
			}
		}
		got, err := scrape(tr.announce, hashes[i])
		want, oracleErr := scrape(oracle, hashes[i])
		if err != nil || oracleErr != nil || got != want {
			t.Fatalf("%s, then scrape: got %+v (%v), opentracker has %+v (%v)", what, got, err, want, oracleErr)
		}
	}
	tr.stop(t)
}

func (r announceReply) counts() counts {
	return counts{Complete: r.Complete, Incomplete: r.Incomplete, Downloaded: r.Downloaded}
}
