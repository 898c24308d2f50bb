package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet         = 1 // IPCTNL_MSG_CT_*
	ctDelete      = 2
	ctGetStatsCPU = 4
	ctGetStats    = 5

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaID         = 12
	ctaFilter     = 25

	ctaTupleIP      = 1
	ctaTupleProto   = 2
	ctaIPv4Src      = 1
	ctaIPv4Dst      = 2
	ctaIPv6Src      = 3
	ctaIPv6Dst      = 4
	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
	ctaProtoInfoTCP = 1
	ctaTCPState     = 1
	ctaFilterReply  = 2

	ctaStatsEntries = 1 // of ctGetStats
	ctaStatsMost    = 2
	ctaInsertFailed = 9 // of ctGetStatsCPU

	// What of a tuple the kernel compares when it is to filter (CTA_FILTER_F_*, net/netfilter/nf_internals.h).
	filterSource = 1 << 0
	filterProto  = 1 << 3
	filterPort   = 1 << 4 // of the source
)

// deletesAtOnce is how many flows are deleted by one datagram. Each may be answered by an error, and the socket's buffer must hold
// them all.
const deletesAtOnce = 100

// conntrack speaks with the kernel's table of flows. It is not safe for concurrent use. vishvananda/netlink has all flows of the
// table in memory at once, and needs a system call a deletion: TestManyFlowsAreForgottenInTime
// compares.
type conntrack struct {
	*socket
	out, body []byte
}

func openConntrack() (*conntrack, error) {
	s, err := dial()
	if err != nil {
		return nil, fmt.Errorf("conntrack: %w", err)
	}
	return &conntrack{socket: s}, nil
}

// question is a message about a family of addresses to a subsystem of netfilter.
func question(subsystem, kind, flags uint16, family byte, attrs []byte) message {
	return message{kind: subsystem<<8 | kind, flags: flags, body: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...)}
}

// exchange has each called for each part of the answer to q: its family and attributes. With NLM_F_DUMP it tells whether something
// was changed meanwhile, so that parts may be missing or twice.
func (s *socket) exchange(q message, each func(family byte, attrs []byte)) (interrupted bool, err error) {
	if q.flags&unix.NLM_F_DUMP != unix.NLM_F_DUMP {
		q.flags |= unix.NLM_F_ACK // so that each ends in the same way
	}
	if err := s.send(s.append(nil, q)); err != nil {
		return false, fmt.Errorf("ask: %w", err)
	}
	for done, seq := false, s.seq; !done; {
		var answer error
		err := s.receive(func(of uint32, kind, flags uint16, body []byte) {
			if of != seq || done {
				return // of a question that was given up
			}
			interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR:
				done, answer = true, ackError(body)
			case len(body) >= 4: // struct nfgenmsg
				each(body[0], body[4:])
			}
		})
		if err := errors.Join(err, answer); err != nil {
			return interrupted, err
		}
	}
	return interrupted, nil
}

// ask has each called for the attributes of each part of the answer.
func (c *conntrack) ask(kind, flags uint16, family byte, attrs []byte, each func(attrs []byte)) error {
	_, err := c.exchange(question(unix.NFNL_SUBSYS_CTNETLINK, kind, flags, family, attrs), func(_ byte, attrs []byte) { each(attrs) })
	if err != nil {
		return fmt.Errorf("conntrack: %w", err)
	}
	return nil
}

// flows has each called for each flow to the backend that was forwarded, whatever its state; our own, as the probes', are not. *f is
// used again.
func (c *conntrack) flows(backend netip.AddrPort, each func(f *flow)) error {
	filter := uint32(filterProto | filterPort)
	if backend.Addr().Is4() {
		filter |= filterSource // the kernel takes IPv6 addresses that are equal for different (ctnetlink_filter_match_tuple)
	}
	attrs := appendTuple(nil, ctaTupleReply, backend, netip.AddrPort{})
	attrs = appendNest(attrs, ctaFilter, appendBytes(nil, ctaFilterReply, binary.NativeEndian.AppendUint32(nil, filter)))
	var f flow
	return c.ask(ctGet, unix.NLM_F_DUMP, familyOf(backend.Addr()).proto, attrs, func(attrs []byte) {
		if answers, ok := parseFlow(attrs, &f); ok && answers == backend && f.status&statusDNAT != 0 {
			each(&f)
		}
	})
}

// delete forgets flows: those that are there still, and still the same. It tells how many.
func (c *conntrack) delete(flows []flow) (deleted int, failed error) {
	c.out = c.out[:0]
	first := c.seq + 1
	for i := range flows {
		f := &flows[i]
		m := message{kind: unix.NFNL_SUBSYS_CTNETLINK<<8 | ctDelete, body: append(c.body[:0], familyOf(f.client.Addr()).proto, unix.NFNETLINK_V0, 0, 0)}
		m.body = appendTuple(m.body, ctaTupleOrig, f.client, f.dialled)
		m.body = appendBytes(m.body, ctaID, binary.BigEndian.AppendUint32(make([]byte, 0, 4), f.id))
		if i == len(flows)-1 {
			m.flags = unix.NLM_F_ACK // what succeeds is not answered otherwise
		}
		c.body, c.out = m.body, c.append(c.out, m)
	}
	if len(flows) == 0 {
		return 0, nil
	}
	if err := c.send(c.out); err != nil {
		return 0, fmt.Errorf("conntrack: delete: %w", err)
	}
	last := c.seq
	deleted = len(flows)
	for done := false; !done; {
		if err := c.receive(func(of uint32, kind, _ uint16, body []byte) {
			if kind != unix.NLMSG_ERROR || of-first > last-first {
				return // of a question that was given up
			}
			done = done || of == last
			err := ackError(body)
			if err != nil {
				deleted--
			}
			if err != nil && !errors.Is(err, unix.ENOENT) && failed == nil {
				failed = fmt.Errorf("conntrack: delete: %w", err)
			}
		}); err != nil {
			return 0, fmt.Errorf("conntrack: delete: %w", err)
		}
	}
	return deleted, failed
}

// parseFlow reads an entry's attributes, and tells whom the flow is answered by. It is false for what is not TCP.
func parseFlow(attrs []byte, f *flow) (answers netip.AddrPort, ok bool) {
	*f = flow{}
	for kind, v := range attributes(attrs) {
		switch kind {
		case ctaTupleOrig:
			f.client, f.dialled = parseTuple(v)
		case ctaTupleReply:
			answers, f.seen = parseTuple(v)
		case ctaStatus:
			f.status = uint32Of(v)
		case ctaID:
			f.id = uint32Of(v)
		case ctaProtoInfo:
			if state := attribute(v, ctaProtoInfoTCP, ctaTCPState); len(state) == 1 {
				f.state = tcpState(state[0])
			}
		}
	}
	return answers, f.client.IsValid() && answers.IsValid() && f.client.Addr().BitLen() == answers.Addr().BitLen()
}

// parseTuple gives both ends of one direction; none that is valid for what is not TCP.
func parseTuple(tuple []byte) (src, dst netip.AddrPort) {
	var srcAddr, dstAddr netip.Addr
	var srcPort, dstPort uint16
	var proto byte
	for kind, v := range attributes(tuple) {
		for inner, v := range attributes(v) {
			switch {
			case kind == ctaTupleIP && (inner == ctaIPv4Src || inner == ctaIPv6Src):
				srcAddr, _ = netip.AddrFromSlice(v)
			case kind == ctaTupleIP && (inner == ctaIPv4Dst || inner == ctaIPv6Dst):
				dstAddr, _ = netip.AddrFromSlice(v)
			case kind == ctaTupleProto && inner == ctaProtoNum && len(v) == 1:
				proto = v[0]
			case kind == ctaTupleProto && inner == ctaProtoSrcPort && len(v) == 2:
				srcPort = binary.BigEndian.Uint16(v)
			case kind == ctaTupleProto && inner == ctaProtoDstPort && len(v) == 2:
				dstPort = binary.BigEndian.Uint16(v)
			}
		}
	}
	if proto != unix.IPPROTO_TCP || srcAddr.BitLen() != dstAddr.BitLen() {
		return netip.AddrPort{}, netip.AddrPort{}
	}
	return netip.AddrPortFrom(srcAddr, srcPort), netip.AddrPortFrom(dstAddr, dstPort)
}

// appendTuple appends a tuple of TCP. Without a dst it is one to filter by. It allocates nothing.
func appendTuple(b []byte, kind uint16, src, dst netip.AddrPort) []byte {
	srcKind, dstKind := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if src.Addr().Is6() {
		srcKind, dstKind = ctaIPv6Src, ctaIPv6Dst
	}
	b, tuple := openNest(b, kind)

	b, inner := openNest(b, ctaTupleIP)
	b = appendAddr(b, srcKind, src.Addr())
	if dst.IsValid() {
		b = appendAddr(b, dstKind, dst.Addr())
	}
	closeNest(b, inner)

	b, inner = openNest(b, ctaTupleProto)
	b = appendBytes(b, ctaProtoNum, []byte{unix.IPPROTO_TCP})
	b = appendBytes(b, ctaProtoSrcPort, []byte{byte(src.Port() >> 8), byte(src.Port())})
	if dst.IsValid() {
		b = appendBytes(b, ctaProtoDstPort, []byte{byte(dst.Port() >> 8), byte(dst.Port())})
	}
	closeNest(b, inner)

	closeNest(b, tuple)
	return b
}

func appendAddr(b []byte, kind uint16, addr netip.Addr) []byte {
	if addr.Is4() {
		a := addr.As4()
		return appendBytes(b, kind, a[:])
	}
	a := addr.As16()
	return appendBytes(b, kind, a[:])
}

// openNest begins an attribute that holds others, and closeNest, told where that was, ends it.
func openNest(b []byte, kind uint16) ([]byte, int) {
	return binary.NativeEndian.AppendUint16(append(b, 0, 0), kind|unix.NLA_F_NESTED), len(b)
}

func closeNest(b []byte, start int) { binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start)) }
