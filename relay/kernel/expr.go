package kernel

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// expression is a step of a rule, as it goes to the kernel. A rule ends at the first that does not match.
type expression []byte

// register is one of the sixteen of four bytes each that expressions pass values in; longer values take several.
type register uint32

const (
	r0      register = unix.NFT_REG32_00
	r8      register = unix.NFT_REG32_08
	verdict register = unix.NFT_REG_VERDICT

	nfAccept = 1 // NF_ACCEPT
)

func newExpression(name string, data []byte) expression {
	return appendNest(nil, unix.NFTA_LIST_ELEM, appendText(nil, unix.NFTA_EXPR_NAME, name), appendNest(nil, unix.NFTA_EXPR_DATA, data))
}

func meta(key uint32, to register) expression {
	return newExpression("meta", append32(append32(nil, unix.NFTA_META_KEY, key), unix.NFTA_META_DREG, uint32(to)))
}

func compare(op uint32, r register, value []byte) expression {
	data := append32(append32(nil, unix.NFTA_CMP_SREG, uint32(r)), unix.NFTA_CMP_OP, op)
	return newExpression("cmp", appendNest(data, unix.NFTA_CMP_DATA, appendBytes(nil, unix.NFTA_DATA_VALUE, value)))
}

func equal(r register, value []byte) expression   { return compare(unix.NFT_CMP_EQ, r, value) }
func unequal(r register, value []byte) expression { return compare(unix.NFT_CMP_NEQ, r, value) }

func payload(base, offset, size uint32, to register) expression {
	data := append32(append32(nil, unix.NFTA_PAYLOAD_DREG, uint32(to)), unix.NFTA_PAYLOAD_BASE, base)
	return newExpression("payload", append32(append32(data, unix.NFTA_PAYLOAD_OFFSET, offset), unix.NFTA_PAYLOAD_LEN, size))
}

func mask(r register, bits []byte) expression {
	data := append32(append32(append32(nil, unix.NFTA_BITWISE_SREG, uint32(r)), unix.NFTA_BITWISE_DREG, uint32(r)), unix.NFTA_BITWISE_LEN, uint32(len(bits)))
	return newExpression("bitwise", appendNest(appendNest(data,
		unix.NFTA_BITWISE_MASK, appendBytes(nil, unix.NFTA_DATA_VALUE, bits)),
		unix.NFTA_BITWISE_XOR, appendBytes(nil, unix.NFTA_DATA_VALUE, make([]byte, len(bits)))))
}

func immediate(to register, value []byte) expression {
	return newExpression("immediate", appendNest(append32(nil, unix.NFTA_IMMEDIATE_DREG, uint32(to)),
		unix.NFTA_IMMEDIATE_DATA, appendBytes(nil, unix.NFTA_DATA_VALUE, value)))
}

// verdictData is a verdict as rules and the elements of maps have it.
func verdictData(code int32, chain string) []byte {
	v := append32(nil, unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		v = appendText(v, unix.NFTA_VERDICT_CHAIN, chain)
	}
	return appendNest(nil, unix.NFTA_DATA_VERDICT, v)
}

func decide(code int32, chain string) expression {
	return newExpression("immediate", appendNest(append32(nil, unix.NFTA_IMMEDIATE_DREG, uint32(verdict)), unix.NFTA_IMMEDIATE_DATA, verdictData(code, chain)))
}

func accept() expression                   { return decide(nfAccept, "") }
func goBack() expression                   { return decide(unix.NFT_RETURN, "") }
func jump(chain string) expression         { return decide(unix.NFT_JUMP, chain) }
func continueAt(ch string) expression      { return decide(unix.NFT_GOTO, ch) }
func isIn(s string, r register) expression { return lookup(s, r, 0) }
func isNotIn(s string, r register) expression {
	return lookup(s, r, unix.NFT_LOOKUP_F_INV)
}

func lookup(set string, r register, flags uint32) expression {
	data := append32(appendText(nil, unix.NFTA_LOOKUP_SET, set), unix.NFTA_LOOKUP_SREG, uint32(r))
	if flags != 0 {
		data = append32(data, unix.NFTA_LOOKUP_FLAGS, flags)
	}
	return newExpression("lookup", data)
}

// decideBy has the map decide.
func decideBy(set string, r register) expression {
	return newExpression("lookup", append32(append32(appendText(nil, unix.NFTA_LOOKUP_SET, set), unix.NFTA_LOOKUP_SREG, uint32(r)), unix.NFTA_LOOKUP_DREG, uint32(verdict)))
}

func ct(key uint32, to register) expression {
	return newExpression("ct", append32(append32(nil, unix.NFTA_CT_KEY, key), unix.NFTA_CT_DREG, uint32(to)))
}

// The directions of a flow.
const (
	original = 0
	reply    = 1
)

// ctOf is of a flow's tuple in a direction. It does not match where there is no flow.
func ctOf(key uint32, direction byte, to register) expression {
	data := append32(append32(nil, unix.NFTA_CT_KEY, key), unix.NFTA_CT_DREG, uint32(to))
	return newExpression("ct", appendBytes(data, unix.NFTA_CT_DIRECTION, []byte{direction}))
}

// valueOf has what the map has for a key at r put at to. It does not match where the map has nothing.
func valueOf(set string, r, to register) expression {
	return newExpression("lookup", append32(append32(appendText(nil, unix.NFTA_LOOKUP_SET, set), unix.NFTA_LOOKUP_SREG, uint32(r)), unix.NFTA_LOOKUP_DREG, uint32(to)))
}

// put adds the key to the set, or gives it a new time; a full set does not match. with, if any, is kept with the element, and must
// match.
func put(op uint32, set string, r register, timeout time.Duration, with expression) expression {
	data := putting(op, set, r, timeout)
	if with != nil {
		data = appendNest(data, unix.NFTA_DYNSET_EXPR, attribute(with, unix.NFTA_LIST_ELEM))
	}
	return newExpression("dynset", data)
}

// putValue adds a key to the map, with the value at value.
func putValue(set string, r, value register, timeout time.Duration) expression {
	return newExpression("dynset", append32(putting(unix.NFT_DYNSET_OP_ADD, set, r, timeout), unix.NFTA_DYNSET_SREG_DATA, uint32(value)))
}

func putting(op uint32, set string, r register, timeout time.Duration) []byte {
	data := append32(append32(appendText(nil, unix.NFTA_DYNSET_SET_NAME, set), unix.NFTA_DYNSET_OP, op), unix.NFTA_DYNSET_SREG_KEY, uint32(r))
	return append64(data, unix.NFTA_DYNSET_TIMEOUT, uint64(timeout.Milliseconds()))
}

// overRate matches what is above so many a second, of which all may come at once.
func overRate(perSecond int) expression {
	data := append64(append64(nil, unix.NFTA_LIMIT_RATE, uint64(perSecond)), unix.NFTA_LIMIT_UNIT, 1)
	data = append32(append32(data, unix.NFTA_LIMIT_BURST, uint32(perSecond)), unix.NFTA_LIMIT_TYPE, unix.NFT_LIMIT_PKTS)
	return newExpression("limit", append32(data, unix.NFTA_LIMIT_FLAGS, unix.NFT_LIMIT_F_INV))
}

func count(counter string) expression {
	return newExpression("objref", appendText(append32(nil, unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_COUNTER), unix.NFTA_OBJREF_IMM_NAME, counter))
}

// refuse answers with a TCP reset.
func refuse() expression {
	return newExpression("reject", append32(nil, unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST))
}

// isLocal matches what is sent to an address of this machine.
func isLocal(r register) []expression {
	data := append32(append32(append32(nil, unix.NFTA_FIB_DREG, uint32(r)), unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE), unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)
	return []expression{newExpression("fib", data), equal(r, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))}
}

// hash spreads size bytes from r on over the slots, and puts the slot at r.
func hash(r register, size, slots uint32) expression {
	data := append32(append32(append32(nil, unix.NFTA_HASH_SREG, uint32(r)), unix.NFTA_HASH_DREG, uint32(r)), unix.NFTA_HASH_LEN, size)
	// The seed is always the same: a restart does not send sources elsewhere.
	return newExpression("hash", append32(append32(append32(data, unix.NFTA_HASH_MODULUS, slots), unix.NFTA_HASH_SEED, 0x73706c77), unix.NFTA_HASH_TYPE, unix.NFT_HASH_JENKINS))
}

func dnat(family byte, addr, port register) expression {
	data := append32(append32(nil, unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT), unix.NFTA_NAT_FAMILY, uint32(family))
	return newExpression("nat", append32(append32(data, unix.NFTA_NAT_REG_ADDR_MIN, uint32(addr)), unix.NFTA_NAT_REG_PROTO_MIN, uint32(port)))
}

// masquerade gives what matches this machine's address, and one of the ports from first to last.
func masquerade(first, last register) expression {
	return newExpression("masq", append32(append32(append32(nil, unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY),
		unix.NFTA_MASQ_REG_PROTO_MIN, uint32(first)), unix.NFTA_MASQ_REG_PROTO_MAX, uint32(last)))
}

// fittingMSS is the size of segment that fits both ways, in the header's byte order. The kernel looks for the route back for it.
func fittingMSS(r register) []expression {
	swap := append32(append32(append32(nil, unix.NFTA_BYTEORDER_SREG, uint32(r)), unix.NFTA_BYTEORDER_DREG, uint32(r)), unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON)
	return []expression{
		newExpression("rt", append32(append32(nil, unix.NFTA_RT_KEY, unix.NFT_RT_TCPMSS), unix.NFTA_RT_DREG, uint32(r))),
		newExpression("byteorder", append32(append32(swap, unix.NFTA_BYTEORDER_LEN, 2), unix.NFTA_BYTEORDER_SIZE, 2)),
	}
}

// clampMSS lowers the segment size a SYN offers to what is at r.
func clampMSS(r register) expression {
	option := append32(appendBytes(nil, unix.NFTA_EXTHDR_TYPE, []byte{unix.TCPOPT_MAXSEG}), unix.NFTA_EXTHDR_OFFSET, 2)
	option = append32(append32(append32(option, unix.NFTA_EXTHDR_LEN, 2), unix.NFTA_EXTHDR_OP, unix.NFT_EXTHDR_OP_TCPOPT), unix.NFTA_EXTHDR_SREG, uint32(r))
	return newExpression("exthdr", option)
}

func noTrack() expression {
	return appendNest(nil, unix.NFTA_LIST_ELEM, appendText(nil, unix.NFTA_EXPR_NAME, "notrack"))
}
