package flood

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// addresses numbers those of a prefix so that neighbours in number are in different /24s, as strangers are: what a tracker allows
// a network must not be used up by the generator's own order.
type addresses struct {
	first uint32 // of the prefix
	n     uint32 // of usable ones: 1 to 254 of each /24
}

// step has no factor in common with the number of usable addresses, which are those of 2 and 127: so no two numbers meet.
const step = 611953

func newAddresses(p netip.Prefix, want int) (addresses, error) {
	if !p.Addr().Is4() || p.Bits() > 24 {
		return addresses{}, fmt.Errorf("flood: addresses from %s: must be an IPv4 prefix of /24 or wider", p)
	}
	b := p.Masked().Addr().As4()
	first, nets := binary.BigEndian.Uint32(b[:]), uint32(1)<<(24-p.Bits())
	if b[0] == 127 && p.Bits() <= 9 {
		// 127.0.0.0/16 is left to the servers and to who watches them.
		first += 1 << 16
		nets -= 1 << 8
		for nets&(nets-1) != 0 {
			nets &= nets - 1 // a power of two again, for step
		}
	}
	a := addresses{first, nets * 254}
	if want > int(a.n) {
		return addresses{}, fmt.Errorf("flood: %d addresses from %s: there are %d; widen the prefix or lower honest and attackers", want, p, a.n)
	}
	return a, nil
}

// at is address i, big endian.
func (a addresses) at(i int) [4]byte {
	p := uint32(uint64(i) * step % uint64(a.n))
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a.first+p/254<<8+p%254+1)
	return b
}

// appendAddr writes an address in text.
func appendAddr(dst []byte, b [4]byte) []byte {
	for i, c := range b {
		if i > 0 {
			dst = append(dst, '.')
		}
		dst = strconv.AppendUint(dst, uint64(c), 10)
	}
	return dst
}

// random is SplitMix64 (Steele, Lea, Flood 2014): it is good enough to draw from, and it costs nothing.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	return mix(uint64(*r))
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// sourceOf is one of a side's sources: any number will do.
func (w *worker) sourceOf(side uint8, n int) int {
	if side == attack {
		return w.cfg.Honest + n%w.cfg.Attackers
	}
	return n % w.cfg.Honest
}

func (w *worker) drawSource(side uint8) int {
	return w.sourceOf(side, int(w.rnd.next()>>33))
}

// attackersOf is how many of a worker's n connections are the attack's, if the sides have connections of their own.
func (w *worker) attackersOf(n int) int {
	if !w.split {
		return 0
	}
	return min(max(int(float64(n)*w.cfg.Share+0.5), 1), n-1)
}

// perWorker is the share of worker i of all of them.
func perWorker(all, i, of int) int { return (all - i + of - 1) / of }

// remote is the target as sockets of a kind are connected to it.
type remote struct {
	kind     uintptr // SOCK_STREAM or SOCK_DGRAM
	to, from *sys.Addr
}

func newRemote(a netip.AddrPort, kind uintptr) *remote {
	return &remote{kind, sys.NewAddr(a), sys.NewAddr(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))}
}

// dial begins to connect, from an address of its own unless that is zero.
func (r *remote) dial(from [4]byte) (fd int32, errno unix.Errno) {
	if from == ([4]byte{}) || r.to.Is6() {
		return sys.Dial(r.kind, nil, r.to)
	}
	r.from.Set4(from)
	return sys.Dial(r.kind, r.from, r.to)
}

// from is the address that a source's connection in a place comes from, zero: any.
func (w *worker) from(source, place int32) [4]byte {
	switch {
	case w.cfg.Source == SourceReal:
		return w.requests.sources.at(int(source))
	case w.cfg.Target.Addr().IsLoopback():
		return [4]byte{127, 1, byte(uint32(place) >> 8), byte(place)} // a proxy has many addresses too, for its ports
	}
	return [4]byte{}
}
