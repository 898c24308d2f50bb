package tracker

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// udpCut are the sources whose packets the sockets' own filter drops (SO_ATTACH_FILTER, which needs no right): those that ask far above
// their budget while more comes than can be read. It is the one way to refuse that costs much less than to serve: such a packet
// never takes a place in the queue.
//
// It is for a minute, and of these sockets alone: who can see a client's packets pass, and so its connection id, could have it put here.
type udpCut struct {
	mu      sync.Mutex // guards sources and changed
	sources []udpCutSource
	changed bool
	n       atomic.Int32
	total   atomic.Uint64
}

type udpCutSource struct {
	source netip.Prefix // an IPv4 address, an IPv6 /64
	until  time.Time
}

const (
	udpCutTime  = time.Minute
	udpCutEvery = 250 * time.Millisecond // how often the filter follows
	maxUDPCut   = 192                    // what the filter compares with each packet, one after the other: 0.2 us
)

// add cuts the source that addr is of. While there are as many as may be nothing is done: it will be told of again.
func (c *udpCut) add(addr netip.Addr, now time.Time) {
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	source, err := addr.Prefix(bits)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sources) >= maxUDPCut {
		return
	}
	for i := range c.sources {
		if c.sources[i].source == source {
			return
		}
	}
	c.sources = append(c.sources, udpCutSource{source, now.Add(udpCutTime)})
	c.n.Store(int32(len(c.sources)))
	c.total.Add(1)
	c.changed = true
}

// run keeps the filters of socks until stop is closed.
func (c *udpCut) run(socks []*udpSocket, stop <-chan struct{}) {
	ticker := time.NewTicker(udpCutEvery)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			p, changed := c.next(now)
			if !changed {
				continue
			}
			for _, s := range socks {
				_ = s.raw.Control(func(fd uintptr) { _ = attachFilter(int(fd), p) }) // closed: there is nothing to filter
			}
		}
	}
}

// next lets those go whose time is up, and returns the filter if it is another. They were cut in the order of their ends.
func (c *udpCut) next(now time.Time) (p []unix.SockFilter, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := 0
	for gone < len(c.sources) && !now.Before(c.sources[gone].until) {
		gone++
	}
	if gone > 0 {
		c.sources = c.sources[:copy(c.sources, c.sources[gone:])]
		c.n.Store(int32(len(c.sources)))
	}
	changed = c.changed || gone > 0
	c.changed = false
	if !changed {
		return nil, false
	}
	return c.program(), true
}

// program is the filter, none if there is nobody to drop. A filter returns how much of a packet is to be kept. The caller holds mu.
func (c *udpCut) program() []unix.SockFilter {
	const (
		network  = 0xfff00000 // SKF_NET_OFF: from the network's header on
		loadByte = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		loadWord = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		ifEqual  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret      = unix.BPF_RET | unix.BPF_K
	)
	if len(c.sources) == 0 {
		return nil
	}
	var v4, v6 []unix.SockFilter
	drop, keep := unix.SockFilter{Code: ret}, unix.SockFilter{Code: ret, K: 0xffff}
	for i := range c.sources {
		addr := c.sources[i].source.Addr()
		b := addr.AsSlice()
		if word := func(at int) uint32 {
			return uint32(b[at])<<24 | uint32(b[at+1])<<16 | uint32(b[at+2])<<8 | uint32(b[at+3])
		}; addr.Is4() {
			v4 = append(v4, unix.SockFilter{Code: ifEqual, Jf: 1, K: word(0)}, drop)
		} else {
			v6 = append(v6, unix.SockFilter{Code: loadWord, K: network + 8}, unix.SockFilter{Code: ifEqual, Jf: 3, K: word(0)},
				unix.SockFilter{Code: loadWord, K: network + 12}, unix.SockFilter{Code: ifEqual, Jf: 1, K: word(4)}, drop)
		}
	}
	p := []unix.SockFilter{
		{Code: loadByte, K: network},
		{Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 4},
		{Code: ifEqual, Jt: 1, K: 4}, // over an IPv6 socket IPv4's packets are as they came
		{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(v4) + 2)},
		{Code: loadWord, K: network + 12},
	}
	p = append(append(p, v4...), keep)
	return append(append(p, v6...), keep)
}

// attachFilter has a socket drop what p says.
func attachFilter(fd int, p []unix.SockFilter) error {
	if len(p) == 0 {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]})
}
