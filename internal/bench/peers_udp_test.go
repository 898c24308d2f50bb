//go:build linux

package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// The clients of a flood over UDP: each source has some ports, and one torrent, which has 100 peers.
const (
	udpFloodSources  = 2000
	udpFloodPorts    = 5
	udpFloodTorrents = udpFloodSources * udpFloodPorts / 100
	udpFloodWindow   = 128 // closed loop
	udpFloodGood     = 200 * time.Millisecond
	udpFloodBehind   = 5 * time.Millisecond
)

// udpFlooder announces over UDP from many addresses on one socket.
type udpFlooder struct {
	*udpBatch
	core      int
	ids       [udpFloodSources]uint64
	sequence  uint32  // of the next request: its transaction id
	first     uint32  // of this run
	due       []int64 // of each request of this run, since its start; negative: answered
	latencies []int64
	count     flooded
	served    int // late ones too
	heard     int // replies of any kind
}

func newUDPFlooder(to netip.AddrPort, core int) (*udpFlooder, error) {
	batch, err := newUDPBatch(to, true)
	if err != nil {
		return nil, err
	}
	f := &udpFlooder{udpBatch: batch, core: core}
	if err := f.connect(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// connect gets each source its connection id.
func (f *udpFlooder) connect() error {
	const known = 1 << 31 // of transaction ids: announces' are below
	missing := udpFloodSources
	for deadline := time.Now().Add(2 * stallAfter); missing > 0; {
		if time.Now().After(deadline) {
			return fmt.Errorf("connect: no id for %d sources of %d: %w", missing, udpFloodSources, errStalled)
		}
		for i := 0; i < udpFloodSources; {
			n := 0
			for ; n < 32 && i < udpFloodSources; i++ {
				if f.ids[i] != 0 {
					continue
				}
				f.connectPacket(n, known|uint32(i))
				f.from(n, i)
				n++
			}
			if n == 0 {
				break
			}
			if err := f.send(n); err != nil {
				return err
			}
			for wait, got := time.Now().Add(20*time.Millisecond), 0; got < n && time.Now().Before(wait); {
				k, err := f.receive()
				if err != nil {
					return err
				}
				for j := range k {
					r := f.reply(j)
					if len(r) >= 16 && r[3] == 0 {
						if at := binary.BigEndian.Uint32(r[4:]) &^ known; at < udpFloodSources && f.ids[at] == 0 {
							f.ids[at] = binary.BigEndian.Uint64(r[8:])
							missing, got = missing-1, got+1
						}
					}
				}
			}
		}
	}
	return nil
}

// from makes packet n one of a source.
func (f *udpFlooder) from(n, source int) {
	f.control[n].Spec_dst = [4]byte{127, 2, byte(source >> 8), byte(source)}
}

// peak is closed loop; the first fifth, in which swarms fill, does not count.
func (f *udpFlooder) peak(d time.Duration) (float64, error) {
	for _, d := range []time.Duration{d / 5, d - d/5} {
		if _, err := f.run(0, d); err != nil {
			return 0, err
		}
	}
	if f.served == 0 {
		return 0, fmt.Errorf("find peak: nothing served, %d replies", f.heard)
	}
	return float64(f.served) / f.count.seconds, nil
}

// run is open loop, or closed loop if the rate is 0.
func (f *udpFlooder) run(rate float64, d time.Duration) (flooded, error) {
	err := pinned(f.core, func() error { return f.loop(rate, d) })
	return f.count, err
}

func (f *udpFlooder) loop(rate float64, d time.Duration) error {
	f.first, f.count, f.served, f.heard = f.sequence, flooded{}, 0, 0
	f.due, f.latencies = slices.Grow(f.due[:0], 1<<20), slices.Grow(f.latencies[:0], 1<<20)
	start := time.Now()
	var now, heardAt, sentAll int64
	flying := 0
	for {
		now = int64(time.Since(start))
		n := 0
		switch {
		case now >= int64(d):
			if sentAll == 0 {
				sentAll = now
			}
		case rate > 0:
			n = min(int(float64(now)*rate/1e9)-len(f.due), 32)
		case flying+32 <= udpFloodWindow:
			n = 32
		}
		if n > 0 {
			for i := range n {
				due := now
				if rate > 0 {
					due = int64(float64(len(f.due)) / rate * 1e9)
				}
				if now-due > int64(udpFloodBehind) {
					f.count.behind++
				}
				f.due = append(f.due, due)
				f.announce(i)
			}
			flying += n
			if err := f.send(n); err != nil {
				return err
			}
		}
		k, err := f.receive()
		if err != nil {
			return err
		}
		if k > 0 {
			now = int64(time.Since(start))
			heardAt = now
			for i := range k {
				f.judge(f.reply(i), now)
			}
			flying = max(flying-k, 0)
		} else if now-heardAt > int64(udpLost) {
			flying, heardAt = 0, now // what does not fit is dropped, and nobody says so
		}
		if sentAll > 0 && (f.heard >= len(f.due) || now-sentAll > int64(2*udpFloodGood)) {
			break
		}
	}
	f.count.offered, f.count.seconds = len(f.due), float64(max(sentAll, 1))/1e9
	slices.Sort(f.latencies)
	if n := len(f.latencies); n > 0 {
		f.count.p99 = float64(f.latencies[min(n*99/100, n-1)]) / 1e6
	}
	return nil
}

// fill has peers of one torrent each announce until all of them have been answered: what is lost is sent again. Peer i is of torrent
// i modulo torrents, at the first source, which has ports enough.
func (f *udpFlooder) fill(peers, torrents int) error {
	return pinned(f.core, func() error { return f.fillAll(peers, torrents) })
}

func (f *udpFlooder) fillAll(peers, torrents int) error {
	answered, missing := make([]bool, peers), peers
	take := func() (int, error) {
		n, err := f.receive()
		for i := range n {
			r := f.reply(i)
			if len(r) == 16 && r[3] == 0 {
				continue // a connect's, late
			}
			if len(r) < 8 || r[3] != 1 {
				return n, fmt.Errorf("not a served announce: %q", r)
			}
			if at := int(binary.BigEndian.Uint32(r[4:])); at < peers && !answered[at] {
				answered[at], missing = true, missing-1
			}
		}
		return n, err
	}
	heard := time.Now()
	for missing > 0 {
		flying := 0
		for i := 0; i < peers; {
			n := 0
			for ; n < 32 && i < peers; i++ {
				if !answered[i] {
					f.sequence = uint32(i)
					f.packet(n, 0, i%torrents, minPort+i/torrents)
					n++
				}
			}
			if n > 0 {
				if err := f.send(n); err != nil {
					return err
				}
			}
			flying += n
			for sent := time.Now(); flying > udpFloodWindow-32; {
				k, err := take()
				if err != nil {
					return err
				}
				if flying -= k; k > 0 {
					heard, sent = time.Now(), time.Now()
				} else if time.Since(sent) > udpLost {
					flying = 0
				}
			}
		}
		for sent := time.Now(); missing > 0 && time.Since(sent) < udpLost; {
			k, err := take()
			if err != nil {
				return err
			}
			if k > 0 {
				heard = time.Now()
			}
		}
		if time.Since(heard) > 2*stallAfter {
			return fmt.Errorf("%d announces of %d have no answer: %w", missing, peers, errStalled)
		}
	}
	return nil
}

// announce makes packet n the next peer's.
func (f *udpFlooder) announce(n int) {
	peer := int(f.sequence) % (udpFloodSources * udpFloodPorts)
	source := peer % udpFloodSources
	f.packet(n, source, source%udpFloodTorrents, minPort+peer/udpFloodSources)
	f.sequence = (f.sequence + 1) &^ (1 << 31)
}

// packet is an announce with the sequence's number. It says started: some count nobody else.
func (f *udpFlooder) packet(n, source, torrent, port int) {
	f.announcePacket(n, f.ids[source], f.sequence, torrent, 2, numWant)
	f.port(n, port)
	f.from(n, source)
}

// judge counts a reply to this run's requests. One without peers is a refusal, however polite.
func (f *udpFlooder) judge(r []byte, now int64) {
	if len(r) < 8 {
		return
	}
	at := int(binary.BigEndian.Uint32(r[4:]) - f.first)
	if at < 0 || at >= len(f.due) || f.due[at] < 0 {
		return
	}
	due := f.due[at]
	f.due[at] = -1
	f.heard++
	if r[3] != 1 || len(r) < 26 {
		return
	}
	f.served++
	f.latencies = append(f.latencies, now-due)
	if now-due <= int64(udpFloodGood) {
		f.count.good++
	}
}
