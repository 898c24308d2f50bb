//go:build linux

package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// udpLoad drives one server with announces over UDP, closed loop: Window of them are on the way at any time. It is one thread that
// never sleeps, and sends and receives many packets with one call, so that it is cheaper than the servers it measures.
type udpLoad struct {
	Addr    netip.AddrPort // of the server; IPv4
	NumWant int
	Event   uint32
	Torrent int
	Window  int // a multiple of udpBatchSize
	Peers   int // in turn: one address, as many ports
	Core    int // the client's
}

// udpLost is after what time a request without a reply is made up for: the kernel drops what does not fit.
const udpLost = 200 * time.Millisecond

// For runs the load for about d.
func (l udpLoad) For(d time.Duration) (Count, error) { return l.run(d, false) }

// Once has every peer announce once.
func (l udpLoad) Once() (Count, error) { return l.run(0, true) }

// at has a server loaded for a turn.
func (l udpLoad) at(s server) entrant {
	l.Addr = s.addr
	return entrant{s, func() (Count, error) { return l.For(*turn) }}
}

func (l udpLoad) run(d time.Duration, once bool) (n Count, err error) {
	err = pinned(l.Core, func() (err error) {
		n, err = l.drive(d, once)
		return err
	})
	return n, err
}

// udpClient is a load at work.
type udpClient struct {
	udpLoad
	*udpBatch
	peer int
}

func (l udpLoad) drive(d time.Duration, once bool) (n Count, err error) {
	batch, err := newUDPBatch(l.Addr, false)
	if err != nil {
		return n, err
	}
	defer batch.close()
	c := &udpClient{udpLoad: l, udpBatch: batch}
	id, err := c.connect()
	if err != nil {
		return n, err
	}
	c.prepare(id)
	start, cpu := time.Now(), sys.ThreadCPU()
	last, flying, sent := start, 0, 0
	for {
		for flying+udpBatchSize <= l.Window && (!once || sent < l.Peers) {
			k := udpBatchSize
			if once {
				k = min(k, l.Peers-sent)
			}
			if err := c.send(k); err != nil {
				return n, err
			}
			sent, flying = sent+k, flying+k
		}
		got, err := c.receive()
		if err != nil {
			return n, err
		}
		now := time.Now()
		if got > 0 {
			n.Replies, flying, last = n.Replies+got, max(flying-got, 0), now
			n.Body = append(n.Body[:0], c.reply(0)...)
		} else if now.Sub(last) > udpLost {
			if now.Sub(start) > d+stallAfter {
				return n, errStalled
			}
			if once {
				return n, fmt.Errorf("%d replies to %d announces", n.Replies, sent)
			}
			flying, last = 0, now
		}
		if once && n.Replies >= l.Peers || !once && now.Sub(start) >= d {
			break
		}
	}
	n.Elapsed, n.CPU = time.Since(start), sys.ThreadCPU()-cpu
	return n, nil
}

// connect asks for a connection id, which is good for more than a turn. A server may begin to listen meanwhile.
func (c *udpClient) connect() (id uint64, err error) {
	const transaction = 77
	for deadline := time.Now().Add(stallAfter); time.Now().Before(deadline); {
		c.connectPacket(0, transaction)
		err := c.udpBatch.send(1)
		for wait := time.Now().Add(udpLost); err == nil && time.Now().Before(wait); {
			var n int
			if n, err = c.udpBatch.receive(); n > 0 {
				if r := c.reply(0); len(r) == 16 && binary.BigEndian.Uint64(r) == transaction {
					return binary.BigEndian.Uint64(r[8:]), nil
				}
			}
		}
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return 0, err
		}
	}
	return 0, errStalled
}

func (c *udpClient) prepare(id uint64) {
	for i := range udpBatchSize {
		c.announcePacket(i, id, 0, c.Torrent, c.Event, c.NumWant)
	}
}

// send sends k announces, all of them.
func (c *udpClient) send(k int) error {
	for i := range k {
		c.port(i, minPort+c.peer)
		c.peer = (c.peer + 1) % c.Peers
	}
	return c.sendAll(k)
}

// receive takes what is there, which must be announces' replies with as many peers as were asked for: one that is shed costs less.
func (c *udpClient) receive() (int, error) {
	n, err := c.udpBatch.receive()
	for i := range n {
		if r := c.reply(i); r[3] != 1 || c.Event == 0 && len(r) != 20+6*c.NumWant {
			return 0, fmt.Errorf("not a served announce: %q", r)
		}
	}
	return n, err
}
