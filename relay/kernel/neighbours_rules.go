package kernel

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// passing is a packet that is forwarded, as far as it is known: from a client to a backend, the first of a flow, or an answer.
type passing struct {
	backend netip.AddrPort
	device  *net.Interface // that leads to the backend; nil: not known
	answer  bool
}

// fate is what becomes of a packet.
type fate int

const (
	undecided fate = iota
	accepted
	dropped
)

// ruleset is what other programs have forwarded packets go through, in one table.
type ruleset struct {
	rules map[string][][]byte // expressions of each rule, by chain
	steps int                 // left: chains that call chains twice each would take for ever
}

const (
	rulesetSteps = 100_000
	rulesetDepth = 16 // as the kernel's
)

// walk is what becomes of p in a chain. A rule of which it is not known whether it matches counts if it accepts and names the
// backend or the way to it: somebody has thought of it. Otherwise it is as if it was not there. So is what a chain does that may be
// called or not (certain is false).
func (rs *ruleset) walk(chain string, p passing, certain, named bool, depth int) fate {
	for _, steps := range rs.rules[chain] {
		if rs.steps--; rs.steps < 0 || depth > rulesetDepth {
			return undecided
		}
		r := reading{passing: p, certain: true}
		verdict, to, matches := r.rule(steps)
		if !matches {
			continue
		}
		certain, named := certain && r.certain, named || r.named
		switch verdict {
		case unix.NFT_JUMP, unix.NFT_GOTO:
			if f := rs.walk(to, p, certain, named, depth+1); f != undecided || verdict == unix.NFT_GOTO && certain {
				return f
			}
		case unix.NFT_RETURN:
			if certain {
				return undecided
			}
		case nfAccept, nfQueue:
			if certain || named {
				return accepted
			}
		case nfDrop:
			if certain {
				return dropped
			}
		}
	}
	return undecided
}

const (
	nfDrop  = 0
	nfQueue = 3 // to a program that decides
)

// reading is one rule being applied to a packet of which only some is known.
type reading struct {
	passing
	certain bool // it is known whether it matches
	named   bool // it asks for the backend, the way to it, or what is forwarded by translation, and gets it

	value [64]byte // registers
	known [64]bool
	about [64]bool // comes from what counts for named
}

// at is where a register is: 1 to 4 are of sixteen bytes, those from 8 on of four.
func at(attrs []byte, kind uint16) (offset int, ok bool) {
	switch n := uint32Of(attribute(attrs, kind)); {
	case n >= 1 && n <= 4:
		return int(n-1) * 16, true
	case n >= unix.NFT_REG32_00 && n <= unix.NFT_REG32_15:
		return int(n-unix.NFT_REG32_00) * 4, true
	}
	return 0, false
}

// load puts a value that is known into a register, or one that is not.
func (r *reading) load(offset int, value []byte, known, about bool) {
	for i := offset; i < min(offset+max((len(value)+3)&^3, 4), len(r.value)); i++ {
		r.value[i], r.known[i], r.about[i] = 0, known, about
		if i-offset < len(value) {
			r.value[i] = value[i-offset]
		}
	}
}

func (r *reading) unknown(offset, size int) { r.load(offset, make([]byte, size), false, false) }

// compared is how a register and a value are to each other, if that is known of all bytes or differs in a known one.
func (r *reading) compared(offset int, with []byte) (order int, sure, different bool) {
	if offset+len(with) > len(r.value) {
		return 0, false, false
	}
	sure = true
	for i := range with {
		if !r.known[offset+i] {
			sure = false
		} else if r.value[offset+i] != with[i] {
			different = true
		}
	}
	return bytes.Compare(r.value[offset:offset+len(with)], with), sure, different
}

// rule applies the steps of a rule, and tells what it says if it matches or may.
func (r *reading) rule(steps []byte) (verdict int32, to string, matches bool) {
	for _, step := range attributes(steps) {
		name, b := text(attribute(step, unix.NFTA_EXPR_NAME)), attribute(step, unix.NFTA_EXPR_DATA)
		switch name {
		case "payload":
			r.payload(b)
		case "meta":
			r.meta(b)
		case "ct":
			r.ct(b)
		case "bitwise":
			r.bitwise(b)
		case "cmp":
			if !r.cmp(b) {
				return 0, "", false
			}
		case "range":
			if !r.within(b) {
				return 0, "", false
			}
		case "match":
			if !r.match(text(attribute(b, unix.NFTA_MATCH_NAME)), attribute(b, unix.NFTA_MATCH_INFO), uint32Of(attribute(b, unix.NFTA_MATCH_REV))) {
				return 0, "", false
			}
		case "target":
			switch text(attribute(b, unix.NFTA_TARGET_NAME)) {
			case "REJECT", "DROP":
				return nfDrop, "", true
			case "ACCEPT":
				return nfAccept, "", true
			}
		case "reject":
			return nfDrop, "", true
		case "immediate":
			data := attribute(b, unix.NFTA_IMMEDIATE_DATA)
			if v := attribute(data, unix.NFTA_DATA_VERDICT); v != nil {
				return int32(uint32Of(attribute(v, unix.NFTA_VERDICT_CODE))), text(attribute(v, unix.NFTA_VERDICT_CHAIN)), true
			}
			if reg, ok := at(b, unix.NFTA_IMMEDIATE_DREG); ok {
				r.load(reg, attribute(data, unix.NFTA_DATA_VALUE), true, false)
			}
		case "counter", "log", "notrack", "objref", "last", "flow_offload", "nat", "masq", "redir", "dup":
		default: // as a look-up in a set
			r.certain = false
			r.unknown(0, len(r.value))
		}
	}
	return unix.NFT_CONTINUE, "", true
}

func (r *reading) payload(b []byte) {
	reg, ok := at(b, unix.NFTA_PAYLOAD_DREG)
	if !ok {
		return // it is written to
	}
	base, offset, size := uint32Of(attribute(b, unix.NFTA_PAYLOAD_BASE)), uint32Of(attribute(b, unix.NFTA_PAYLOAD_OFFSET)), uint32Of(attribute(b, unix.NFTA_PAYLOAD_LEN))
	f := familyOf(r.backend.Addr())
	address, port := f.dest, uint32(2)
	if r.answer {
		address, port = f.source, 0
	}
	// A field, or its beginning: nft loads three bytes for a /24.
	part := func(start uint32, field []byte, about bool) bool {
		if offset < start || offset+size > start+uint32(len(field)) || offset+size < offset {
			return false
		}
		r.load(reg, field[offset-start:offset-start+size], true, about)
		return true
	}
	switch {
	case size > uint32(len(r.value)):
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && part(address, r.backend.Addr().AsSlice(), true):
		return
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && f == &ipv4 && part(9, []byte{unix.IPPROTO_TCP}, false):
		return
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && f == &ipv6 && part(6, []byte{unix.IPPROTO_TCP}, false):
		return
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && part(port, binary.BigEndian.AppendUint16(nil, r.backend.Port()), false):
		return
	}
	r.unknown(reg, int(min(size, uint32(len(r.value)))))
}

func (r *reading) meta(b []byte) {
	reg, ok := at(b, unix.NFTA_META_DREG)
	if !ok {
		return
	}
	index, name := uint32(unix.NFT_META_OIF), uint32(unix.NFT_META_OIFNAME)
	if r.answer {
		index, name = unix.NFT_META_IIF, unix.NFT_META_IIFNAME
	}
	switch key := uint32Of(attribute(b, unix.NFTA_META_KEY)); {
	case key == unix.NFT_META_NFPROTO:
		r.load(reg, []byte{familyOf(r.backend.Addr()).proto}, true, false)
	case key == unix.NFT_META_L4PROTO:
		r.load(reg, []byte{unix.IPPROTO_TCP}, true, false)
	case key == index && r.device != nil:
		r.load(reg, binary.NativeEndian.AppendUint32(nil, uint32(r.device.Index)), true, true)
	case key == name && r.device != nil:
		r.load(reg, append([]byte(r.device.Name), make([]byte, max(0, unix.IFNAMSIZ-len(r.device.Name)))...), true, true)
	default:
		r.unknown(reg, unix.IFNAMSIZ)
	}
}

// Bits of a flow's state, as nf_tables and as iptables have them.
const (
	stateNew    = 8
	iptDNAT     = 1 << 7
	replyFlag   = 1
	statusReply = 1 << 1 // IPS_SEEN_REPLY
)

// state is that of a flow at its first packet, or at an answer.
func (r *reading) state() uint32 {
	if r.answer {
		return stateEstablished
	}
	return stateNew
}

func (r *reading) ct(b []byte) {
	reg, ok := at(b, unix.NFTA_CT_DREG)
	if !ok {
		return
	}
	switch key := uint32Of(attribute(b, unix.NFTA_CT_KEY)); {
	case key == unix.NFT_CT_STATE:
		r.load(reg, binary.NativeEndian.AppendUint32(nil, r.state()), true, false)
	case key == unix.NFT_CT_STATUS:
		status := uint32(statusDNAT)
		if r.answer {
			status |= statusReply
		}
		r.load(reg, binary.NativeEndian.AppendUint32(nil, status), true, true)
	case key == unix.NFT_CT_DIRECTION && r.answer:
		r.load(reg, []byte{replyFlag}, true, false)
	case key == unix.NFT_CT_DIRECTION:
		r.load(reg, []byte{0}, true, false)
	default:
		r.unknown(reg, unix.IFNAMSIZ)
	}
}

func (r *reading) bitwise(b []byte) {
	from, ok := at(b, unix.NFTA_BITWISE_SREG)
	to, ok2 := at(b, unix.NFTA_BITWISE_DREG)
	if !ok || !ok2 {
		return
	}
	const op = 6 // NFTA_BITWISE_OP: 0 is mask and xor
	mask, xor := attribute(b, unix.NFTA_BITWISE_MASK, unix.NFTA_DATA_VALUE), attribute(b, unix.NFTA_BITWISE_XOR, unix.NFTA_DATA_VALUE)
	size := min(int(uint32Of(attribute(b, unix.NFTA_BITWISE_LEN))), len(r.value)-max(from, to))
	if uint32Of(attribute(b, op)) != 0 || size < 0 || len(mask) < size || len(xor) < size {
		r.unknown(to, max(size, 0))
		return
	}
	before := *r
	for i := range size {
		r.value[to+i] = before.value[from+i]&mask[i] ^ xor[i]
		r.known[to+i] = before.known[from+i] || mask[i] == 0
		r.about[to+i] = before.about[from+i]
	}
}

// cmp tells whether a comparison holds, or may.
func (r *reading) cmp(b []byte) bool {
	reg, ok := at(b, unix.NFTA_CMP_SREG)
	with := attribute(b, unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE)
	if !ok || len(with) == 0 {
		r.certain = false
		return true
	}
	order, sure, different := r.compared(reg, with)
	op := uint32Of(attribute(b, unix.NFTA_CMP_OP))
	switch {
	case different && op == unix.NFT_CMP_EQ:
		return false
	case different && op == unix.NFT_CMP_NEQ:
		sure = true
	case !sure:
		r.certain = false
		return true
	}
	holds := different && op == unix.NFT_CMP_NEQ || sure && (op == unix.NFT_CMP_EQ && order == 0 || op == unix.NFT_CMP_LT && order < 0 ||
		op == unix.NFT_CMP_LTE && order <= 0 || op == unix.NFT_CMP_GT && order > 0 || op == unix.NFT_CMP_GTE && order >= 0)
	// "ct status dnat" is a comparison with zero.
	if holds && r.about[reg] && (op == unix.NFT_CMP_EQ || op == unix.NFT_CMP_NEQ && bytes.Count(with, []byte{0}) == len(with)) {
		r.named = true
	}
	return holds
}

func (r *reading) within(b []byte) bool {
	reg, ok := at(b, unix.NFTA_RANGE_SREG)
	from, to := attribute(b, unix.NFTA_RANGE_FROM_DATA, unix.NFTA_DATA_VALUE), attribute(b, unix.NFTA_RANGE_TO_DATA, unix.NFTA_DATA_VALUE)
	low, sure, _ := r.compared(reg, from)
	high, sure2, _ := r.compared(reg, to)
	if !ok || !sure || !sure2 || len(from) == 0 {
		r.certain = false
		return true
	}
	const inside = 0 // NFT_RANGE_EQ
	return (low >= 0 && high <= 0) == (uint32Of(attribute(b, unix.NFTA_RANGE_OP)) == inside)
}

// match is one of iptables', of which those that stand in nearly every ruleset are read.
func (r *reading) match(name string, info []byte, revision uint32) bool {
	// As struct xt_conntrack_mtinfo2 and 3: addresses, then what of all this is meant, and of the state.
	const flagsAt, stateAt, onlyState = 146, 150, 1
	states := r.state() | iptDNAT
	switch {
	case name == "comment":
		return true
	case name == "state" && len(info) >= 4:
		return binary.NativeEndian.Uint32(info)&states != 0
	case name == "conntrack" && revision >= 2 && len(info) >= stateAt+2:
		flags, inverted := binary.NativeEndian.Uint16(info[flagsAt:]), binary.NativeEndian.Uint16(info[flagsAt+2:])
		mask := uint32(binary.NativeEndian.Uint16(info[stateAt:]))
		if flags&onlyState != 0 {
			if (mask&states != 0) == (inverted&onlyState != 0) {
				return false
			}
			r.named = r.named || mask&iptDNAT != 0 && inverted&onlyState == 0
		}
		r.certain = r.certain && flags == onlyState
		return true
	}
	r.certain = false
	return true
}
