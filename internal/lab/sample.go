package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// SampleEvery is the step of samples, and of timelines.
const SampleEvery = 100 * time.Millisecond

// Sample is what the relay holds and costs at one time.
type Sample struct {
	At        time.Time
	Conntrack int // entries of its namespace
	HalfOpen  int // of those in SYN_SENT or SYN_RECV, and its own sockets that are
	core      coreClock
	own       time.Duration // of the relay's processes, outside the kernel
}

// Samples are of one Watch, the oldest first.
type Samples []Sample

// Use is how the relay's core was used from from to to.
func (s Samples) Use(from, to time.Time) Use {
	var first, last *Sample
	for i := range s {
		if s[i].At.Before(from) || s[i].At.After(to) {
			continue
		}
		if first == nil {
			first = &s[i]
		}
		last = &s[i]
	}
	if first == nil {
		return Use{}
	}
	return last.useSince(first)
}

func (s *Sample) useSince(before *Sample) Use {
	// A relay that was killed has no time any more.
	return s.core.useSince(before.core, max(s.own-before.own, 0))
}

// Peak is the most entries, and the most half-open ones, of a time.
func (s Samples) Peak(from, to time.Time) (conntrack, halfOpen int) {
	for _, x := range s {
		if !x.At.Before(from) && !x.At.After(to) {
			conntrack, halfOpen = max(conntrack, x.Conntrack), max(halfOpen, x.HalfOpen)
		}
	}
	return conntrack, halfOpen
}

// Watch is what looks on while there is a load.
type Watch struct {
	stop    atomic.Bool
	done    []<-chan error
	pids    []int // of the relay
	samples Samples
	probes  [2]Probes
}

// Probes are requests to the relay's own port, which have nothing to do with what it relays and must always be answered.
type Probes struct {
	From   string
	N      int
	Failed int
	Worst  time.Duration // of those answered
	Err    error         // of the last that failed
}

const (
	probeWithin = time.Second
	maxSamples  = 36_000 // an hour
)

// Watch begins to look on. Stop ends it. Unless alone it asks the relay's own port, ten times a second from either side.
func (l *Lab) Watch(r *Running, alone bool) *Watch {
	w := &Watch{}
	if r.Process != nil {
		w.pids = groupOf(r.Process.cmd.Process.Pid)
	}
	w.done = append(w.done, l.Relay.Go(l.Cores.Edge, func() error { return w.sample(l.Cores.Relay) }))
	if alone {
		return w
	}
	for i, p := range []struct {
		from *Room
		to   netip.Addr
	}{{l.Edge, RelayPublic4}, {l.Relay, netip.MustParseAddr("127.0.0.1")}} {
		w.probes[i].From = p.from.name
		to := netip.AddrPortFrom(p.to, AdminPort)
		w.done = append(w.done, p.from.Go(l.Cores.Edge, func() error { w.probe(&w.probes[i], to); return nil }))
	}
	return w
}

// Stop returns what was seen.
func (w *Watch) Stop() (Samples, []Probes, error) {
	w.stop.Store(true)
	var err error
	for _, d := range w.done {
		err = errors.Join(err, <-d)
	}
	return w.samples, w.probes[:], err
}

func (w *Watch) probe(p *Probes, to netip.AddrPort) {
	for next := time.Now(); !w.stop.Load(); next = next.Add(SampleEvery) {
		time.Sleep(time.Until(next))
		start := time.Now()
		if p.N++; p.N > maxSamples {
			return
		}
		if err := get(to, "/healthz", probeWithin); err != nil {
			p.Failed++
			p.Err = err
		} else {
			p.Worst = max(p.Worst, time.Since(start))
		}
	}
}

// sample is one thread in the relay's namespace, on the edge's core.
func (w *Watch) sample(core int) error {
	sys.LockThread()
	if err := hasten(niceTracker); err != nil { // it is little, and has to be on time
		return err
	}
	ct, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open ctnetlink: %w", err)
	}
	defer ct.Close()
	diag, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return fmt.Errorf("open sock_diag: %w", err)
	}
	defer diag.Close()
	var half int
	var halfDue time.Time
	for next := time.Now(); !w.stop.Load() && len(w.samples) < maxSamples; next = next.Add(SampleEvery) {
		time.Sleep(time.Until(next))
		s := Sample{At: time.Now()}
		if s.core, err = readCore(core); err != nil {
			return err
		}
		for _, pid := range w.pids {
			s.own += userTime(pid)
		}
		if s.Conntrack, err = conntrackCount(); err != nil {
			return err
		}
		// A dump of many costs the core that the load runs on; it gets a tenth of it.
		if start := time.Now(); !start.Before(halfDue) {
			a, err := halfOpenFlows(ct)
			if err != nil {
				return err
			}
			b, err := halfOpenSockets(diag)
			if err != nil {
				return err
			}
			half = a + b
			halfDue = start.Add(10 * time.Since(start))
		}
		s.HalfOpen = half
		w.samples = append(w.samples, s)
	}
	return nil
}

// conntrackCount is of the calling thread's namespace.
func conntrackCount() (int, error) {
	return readNumber("/proc/sys/net/netfilter/nf_conntrack_count")
}

func readNumber(file string) (int, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // nobody tracks anything
	} else if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// Message types and attributes of linux/netfilter/nfnetlink_conntrack.h, and conntrack's states of a TCP flow.
const (
	ctGet      = 1<<8 | 1
	ctGetStats = 1<<8 | 4

	ctaStatus, ctaProtoInfo, ctaStatusMask = 3, 4, 26
	ctaProtoInfoTCP                        = 1
	ctaProtoInfoTCPState                   = 1
	ctaStatsInsertFailed                   = 9

	statusAssured = 1 << 2
	stateSynSent  = 1
	stateSynRecv  = 2
)

// halfOpenFlows counts those that conntrack has seen a SYN of, or its answer, and no more. The kernel leaves out what is assured,
// which is most of them (since Linux 5.15; older ones send all).
func halfOpenFlows(c *netlink.Conn) (n int, err error) {
	status := binary.BigEndian.AppendUint32(nil, 0)
	bits := binary.BigEndian.AppendUint32(nil, statusAssured)
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: ctaStatus, Data: status}, {Type: ctaStatusMask, Data: bits}})
	if err != nil {
		return 0, err
	}
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: ctGet, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.AF_UNSPEC, 0, 0, 0}, attrs...),
	})
	if err != nil {
		return 0, fmt.Errorf("list flows: %w", err)
	}
	for _, m := range answers {
		if s := flowState(m.Data); s == stateSynSent || s == stateSynRecv {
			n++
		}
	}
	return n, nil
}

// flowState is a TCP flow's, 0 if there is none.
func flowState(b []byte) byte {
	if len(b) < 4 {
		return 0
	}
	info := attribute(b[4:], ctaProtoInfo)
	if state := attribute(attribute(info, ctaProtoInfoTCP), ctaProtoInfoTCPState); len(state) == 1 {
		return state[0]
	}
	return 0
}

// attribute is the payload of the first of its type, nil if there is none. It allocates nothing: there are thousands of flows.
func attribute(b []byte, kind uint16) []byte {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return b[4:n]
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// halfOpenSockets counts those of the namespace that wait for a SYN's answer, or for what follows it.
func halfOpenSockets(c *netlink.Conn) (n int, err error) {
	const dumpByFamily, synSent, synRecv, newSynRecv = 20, 2, 3, 12
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := make([]byte, 56) // struct inet_diag_req_v2
		request[0], request[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(request[4:], 1<<synSent|1<<synRecv|1<<newSynRecv)
		answers, err := c.Execute(netlink.Message{Header: netlink.Header{Type: dumpByFamily, Flags: netlink.Request | netlink.Dump}, Data: request})
		if err != nil {
			return 0, fmt.Errorf("list sockets: %w", err)
		}
		n += len(answers)
	}
	return n, nil
}
