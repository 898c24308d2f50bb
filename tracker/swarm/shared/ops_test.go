package shared

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spillway/internal/waittest"
	"spillway/tracker/swarm"
	"spillway/tracker/swarm/shared/link"
	"spillway/tracker/swarm/swarmtest"
)

func end4(i int) []byte { return []byte{10, 0, byte(i >> 8), byte(i), 0, 1} }

// The last word of an endpoint counts; a download that was not yet counted still is.
func TestOpsKeepTheLastWord(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ said, want []byte }{
		{[]byte{0, kindSeeder}, []byte{kindSeeder}},
		{[]byte{0, kindStopped}, []byte{kindStopped}},
		{[]byte{kindStopped, 0}, []byte{0}},
		{[]byte{kindSeeder | kindCompleted, kindSeeder}, []byte{kindSeeder | kindCompleted}},
		{[]byte{kindSeeder | kindCompleted, kindStopped}, []byte{kindSeeder | kindCompleted, kindStopped}},
		{[]byte{kindSeeder | kindCompleted, kindStopped, 0}, []byte{kindSeeder | kindCompleted, 0}},
		{[]byte{kindSeeder | kindCompleted, 0}, []byte{kindSeeder | kindCompleted, 0}},
		{[]byte{kindStopped, kindRefill}, []byte{kindStopped}},
		{[]byte{kindRefill, kindSeeder}, []byte{kindSeeder}},
	} {
		var o ops
		bytes := 0
		for i, kind := range c.said {
			bytes += o.add(kind, end4(1), uint16(i))
			o.add(0, end4(2), 0)
		}
		var got []byte
		o.each(func(kind byte, end []byte, _ uint16) {
			if string(end) == string(end4(1)) {
				got = append(got, kind)
			}
		})
		if !slices.Equal(got, c.want) {
			t.Errorf("%x: got %x, want %x", c.said, got, c.want)
		}
		if want := len(c.want) * opBytes(family4); bytes != want {
			t.Errorf("%x: it says it grew by %d bytes, want %d", c.said, bytes, want)
		}
	}
}

// To take some and put them back is as if nothing had been taken, whatever was said meanwhile.
func TestOpsPutBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var whole, parted ops
		say := func(n int) {
			for range n {
				kind := rapid.SampledFrom([]byte{0, kindSeeder, kindSeeder | kindCompleted, kindStopped}).Draw(t, "kind")
				end := end4(rapid.IntRange(0, 20).Draw(t, "peer"))
				whole.add(kind, end, 7)
				parted.add(kind, end, 7)
			}
		}
		say(rapid.IntRange(0, 40).Draw(t, "before"))
		sent := parted.take(rapid.IntRange(0, 20).Draw(t, "taken"))
		say(rapid.IntRange(0, 40).Draw(t, "meanwhile"))
		before := sent.bytes() + parted.bytes()
		saved := parted.putBack(sent)
		if before-saved != parted.bytes() {
			t.Fatalf("%d bytes less %d: got %d", before, saved, parted.bytes())
		}
		// What Redis makes of it.
		apply := func(o *ops) string {
			roles, downloaded := map[string]bool{}, 0
			o.each(func(kind byte, end []byte, _ uint16) {
				seeder, there := roles[string(end)]
				switch {
				case kind&kindStopped != 0:
					delete(roles, string(end))
					return
				case kind&kindCompleted != 0 && !(there && seeder):
					downloaded++
				}
				roles[string(end)] = kind&kindSeeder != 0
			})
			return fmt.Sprint(roles, downloaded)
		}
		if want, got := apply(&whole), apply(&parted); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func TestSlotIsRedis(t *testing.T) {
	t.Parallel()
	// CLUSTER KEYSLOT of redis-server 7.0.15; the first is the check value of CRC-16/XMODEM.
	for key, want := range map[string]uint16{"123456789": 0x31c3, "foo": 12182, "{foo}.bar": 12182, "{{bar}}zap": 4015} {
		if got := slotOf(key[:1], []byte(key[1:])); got != want {
			t.Errorf("%s: got %d, want %d", key, got, want)
		}
	}
}

// reply makes what the script answers.
func reply(downloaded, paused uint32, totals [lists]uint32, told [lists][]byte) string {
	b := []byte{1}
	b = binary.LittleEndian.AppendUint32(b, downloaded)
	b = binary.LittleEndian.AppendUint32(b, paused)
	for l := range lists {
		b = binary.LittleEndian.AppendUint32(b, totals[l])
		b = binary.LittleEndian.AppendUint32(b, uint32(len(told[l])))
		b = append(b, told[l]...)
	}
	return string(b)
}

func FuzzFill(f *testing.F) {
	f.Add(reply(1, 1, [lists]uint32{3, 1}, [lists][]byte{append(end4(1), 1, 2), append(end4(2), 3, 4)}), true)
	f.Add("", true)
	f.Add("\x01\x00", false)
	f.Add(reply(math.MaxUint32, 0, [lists]uint32{math.MaxUint32}, [lists][]byte{}), false)
	f.Fuzz(func(t *testing.T, s string, all bool) {
		v := &view{asked: needCounts}
		if all {
			v.asked = needPeers
		}
		if err := v.fill(s, nil); err != nil {
			if !errors.Is(err, errReply) {
				t.Errorf("error %v", err)
			}
			if v.downloaded != 0 || len(v.lists[0]) > 0 {
				t.Errorf("a reply that cannot be read has changed the view")
			}
			return
		}
		// Whatever it says, the view holds together.
		a := swarm.Announce{NumWant: 50, Has4: true, V4: swarm.Endpoint4(end4(1))}
		var r swarm.Reply
		v.apply(kindSeeder, end4(1), 9, 4)
		v.reply(&a, &r)
		if len(r.Peers4)%6 != 0 || len(r.Peers6)%18 != 0 || len(r.Peers4)/6+len(r.Peers6)/18 > 50 {
			t.Errorf("%d and %d bytes of peers", len(r.Peers4), len(r.Peers6))
		}
		v.counts()
		v.trim(3)
	})
}

// Of a swarm of which a part is known each peer known is told as often as its kind is in the whole.
func TestViewSamplesTheWhole(t *testing.T) {
	t.Parallel()
	v := &view{}
	for i := range 100 {
		v.apply(0, end4(i), 1, 1000)
	}
	for i := range 50 {
		v.apply(kindSeeder, end4(1000+i), 1, 1000)
	}
	v.unseen = [lists]uint32{900, 0} // 1,000 leechers, 50 seeders
	a := swarm.Announce{NumWant: 42, Has4: true, V4: swarm.Endpoint4(end4(9999))}
	var r swarm.Reply
	seeders, leechers := 0, 0
	const draws = 5000
	for range draws {
		v.reply(&a, &r)
		told := swarmtest.Peers(t, &r)
		if len(told) != 42 {
			t.Fatalf("got %d peers, want 42", len(told))
		}
		for p := range slices.Chunk(r.Peers4, 6) {
			if int(p[2])<<8|int(p[3]) >= 1000 {
				seeders++
			} else {
				leechers++
			}
		}
	}
	if got := float64(seeders) / draws; got < 1.9 || got > 2.1 {
		t.Errorf("seeders a reply: got %.2f, want 42*50/1050 = 2", got)
	}
	if got := float64(leechers) / draws; got < 39.9 || got > 40.1 {
		t.Errorf("leechers a reply: got %.2f, want 40", got)
	}
}

func TestViewAppliesWhatIsSaid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := &view{}
		type peer struct{ seeder, paused bool }
		model := map[string]peer{}
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			family := rapid.IntRange(0, 2).Draw(t, "family")
			end := bytes.Repeat([]byte{byte(rapid.IntRange(0, 9).Draw(t, "peer"))}, endBytes[family])
			kind, meta := byte(family), uint16(1)
			seeder := rapid.Bool().Draw(t, "seeder")
			if seeder {
				kind |= kindSeeder
			} else if rapid.Bool().Draw(t, "paused") {
				meta |= metaPaused
			}
			_, was := model[string(end)]
			if rapid.IntRange(0, 3).Draw(t, "stop") == 0 {
				kind |= kindStopped
				delete(model, string(end))
			} else {
				model[string(end)] = peer{seeder, meta&metaPaused != 0}
			}
			if got := v.apply(kind, end, meta, 1000); got != was {
				t.Fatalf("known: got %v, want %v", got, was)
			}
		}
		var want swarm.Counts
		for _, p := range model {
			if p.seeder {
				want.Complete++
				continue
			}
			want.Incomplete++
			if !p.paused {
				want.Downloaders++
			}
		}
		if got := v.counts(); got != want {
			t.Fatalf("counts: got %+v, want %+v", got, want)
		}
	})
}

// Without Redis a node answers from its own peers, at once, and says so.
func TestWithoutRedis(t *testing.T) {
	t.Parallel()
	n := startNode(t, Config{Redis: at("127.0.0.1:1"), Wait: time.Second})
	a := swarm.Announce{InfoHash: swarm.InfoHash{1}, Has4: true, NumWant: 50, TTL: time.Hour}
	var r swarm.Reply
	began := time.Now()
	for i := range 100 {
		a.V4 = swarm.Endpoint4(end4(i))
		n.AnnounceWait(&a, time.Now(), &r)
		if len(r.Peers4) != min(i, 50)*6 || int(r.Incomplete) != i+1 {
			t.Fatalf("announce %d: got %d bytes of peers, %+v", i, len(r.Peers4), r.Counts)
		}
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("a hundred announces took %v: they wait for nobody", took)
	}
	waittest.Until(t, 30*time.Second, "degraded, and why", func() bool {
		d, ok := n.Degraded()
		return ok && d.Part == 1 && d.Why != "" && d.Why != link.ErrConnecting.Error()
	})

	if n.Ask(&swarm.InfoHash{2}, time.Now(), func() { t.Error("called, though nobody can be asked") }) != true {
		t.Error("Ask: got a wait, want none")
	}
}

// What does not fit into the buffer is counted, and the memory for views is bounded.
func TestBoundsAreKept(t *testing.T) {
	t.Parallel()
	n := startNode(t, Config{Redis: at("127.0.0.1:1"), MaxBufferBytes: 512, MaxViewBytes: 64 << 10})
	var r swarm.Reply
	stops := 0
	for i := range 10_000 {
		a := swarm.Announce{InfoHash: swarm.InfoHash{byte(i), byte(i >> 8), 1}, Has4: true, V4: swarm.Endpoint4(end4(i)), NumWant: 50, TTL: time.Hour}
		if rand.IntN(4) == 0 {
			a.Event = swarm.EventStopped
		}
		n.Announce(&a, time.Now(), &r)
		if a.Event == swarm.EventStopped {
			stops++
		}
	}
	views, bytes := n.views()
	if views > 150 || bytes > 80<<10 {
		t.Errorf("views: got %d of %d bytes, want at most 64 KiB", views, bytes)
	}
	if b := n.buffered.Load(); b > 600 {
		t.Errorf("buffer: got %d bytes, want about 512", b)
	}
	kept := int(n.buffered.Load()) / opBytes(family4)
	if got, want := int(n.metrics.dropped.Load()+n.metrics.deferred.Load()), 10_000-kept; got != want {
		t.Errorf("dropped %d, deferred %d, kept %d of 10000: some are not accounted for", n.metrics.dropped.Load(), n.metrics.deferred.Load(), kept)
	}
	if got := int(n.metrics.dropped.Load()); got > stops || got < stops-kept {
		t.Errorf("dropped: got %d of %d that stopped", got, stops)
	}
}
