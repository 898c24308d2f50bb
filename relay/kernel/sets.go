package kernel

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"spillway/relay"
)

// Types of keys, as nft shows them; a concatenation has six bits for each.
const (
	typeIPv4    = 7
	typeIPv6    = 8
	typePort    = 13
	typeMark    = 19
	verdictType = 0xffffff00 // NFT_DATA_VERDICT
)

// set is a set, or a map.
type set struct {
	name     string
	typ      uint32
	keyBytes uint32
	flags    uint32
	size     int           // zero: unbounded
	collect  time.Duration // how often elements whose time is over are freed; zero: every second
	value    uint32        // in a map, of two bytes: their type; zero: a verdict
	elements []element
}

// element is one of a set's.
type element struct {
	key     []byte
	timeout time.Duration // zero: none
	goTo    string        // in a map: the chain
}

func (f *family) addrPort() (typ, keyBytes uint32) { return f.typ<<6 | typePort, f.bytes + 4 }

// key is an address and port as the kernel has them in registers.
func key(a netip.AddrPort) []byte {
	return append(binary.BigEndian.AppendUint16(a.Addr().AsSlice(), a.Port()), 0, 0)
}

func keyAddrPort(k []byte) netip.AddrPort {
	if len(k) != 8 && len(k) != 20 {
		return netip.AddrPort{}
	}
	addr, _ := netip.AddrFromSlice(k[:len(k)-4])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(k[len(k)-4:]))
}

func slotKey(slot int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(slot)) }

// keySlot is -1 for what is no slot's key.
func keySlot(k []byte) int {
	if len(k) != 4 || binary.NativeEndian.Uint32(k) >= relay.Slots {
		return -1
	}
	return int(binary.NativeEndian.Uint32(k))
}

// listenSets are the ports of f that are ours at any address of this machine, and the addresses and ports that are by themselves.
func (cfg Config) listenSets(f *family) (anywhere, exact []element) {
	for _, l := range cfg.Listen {
		switch {
		case !l.Addr().IsValid():
			anywhere = append(anywhere, element{key: binary.BigEndian.AppendUint16(nil, l.Port())})
		case familyOf(l.Addr()) == f:
			exact = append(exact, element{key: key(l)})
		}
	}
	return anywhere, exact
}

// sets are all sets, with what does not depend on a plan in them.
func (cfg Config) sets() []set {
	closed := set{name: "closed", typ: typeMark, keyBytes: 4, flags: unix.NFT_SET_TIMEOUT}
	all := []set{closed}
	for _, f := range cfg.families() {
		typ, keyBytes := f.addrPort()
		var ports []element
		for _, p := range cfg.ports(f) {
			ports = append(ports, element{key: binary.BigEndian.AppendUint16(nil, p)})
		}
		backends := set{name: "backends" + f.name, typ: typ, keyBytes: keyBytes, flags: unix.NFT_SET_CONSTANT}
		from := set{name: "from" + f.name, typ: typ, keyBytes: keyBytes, flags: unix.NFT_SET_MAP | unix.NFT_SET_CONSTANT}
		refused := set{name: "refused" + f.name, typ: typ, keyBytes: keyBytes, flags: unix.NFT_SET_MAP | unix.NFT_SET_CONSTANT}
		var waiting []set
		for i, b := range cfg.Backends {
			if familyOf(b.Addr.Addr()) != f {
				continue
			}
			backends.elements = append(backends.elements, element{key: key(b.Addr)})
			from.elements = append(from.elements, element{key: key(b.Addr), goTo: chainOf("alive", i)})
			refused.elements = append(refused.elements, element{key: key(b.Addr), goTo: chainOf("refused", i)})
			for k, n := range cfg.waiting() {
				waiting = append(waiting, set{name: waitingSet(i, k), typ: typ, keyBytes: keyBytes, flags: unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, size: n})
			}
		}
		// A connection that was answered keeps its place until it is collected, so this bounds how many a second find room. The more
		// backends, the fewer connections each has.
		for i := range waiting {
			waiting[i].collect = min(collectEvery*time.Duration(len(backends.elements)), collectLatest)
		}
		all = append(all, set{name: "ports" + f.name, typ: typePort, keyBytes: 2, flags: unix.NFT_SET_CONSTANT, elements: ports}, backends, from, refused,
			// Twice as many as there are: those whose time is over are collected every second.
			set{name: "mss" + f.name, typ: typ, keyBytes: keyBytes, flags: unix.NFT_SET_MAP | unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, size: 2 * maxBackends, value: typePort},
			set{name: "down" + f.name, typ: typ, keyBytes: keyBytes, flags: unix.NFT_SET_TIMEOUT},
			set{name: "slots" + f.name, typ: typeMark, keyBytes: 4, flags: unix.NFT_SET_MAP, size: relay.Slots})
		all = append(all, waiting...)
		anywhere, exact := cfg.listenSets(f)
		if len(anywhere) > 0 {
			all = append(all, set{name: "anywhere" + f.name, typ: typePort, keyBytes: 2, flags: unix.NFT_SET_CONSTANT, elements: anywhere},
				set{name: "at" + f.name, typ: typ, keyBytes: keyBytes, flags: unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, size: maxFound})
		}
		if len(exact) > 0 {
			all = append(all, set{name: "listen" + f.name, typ: typ, keyBytes: keyBytes, flags: unix.NFT_SET_CONSTANT, elements: exact})
		}
		if cfg.PerSource > 0 {
			all = append(all, set{name: "sources" + f.name, typ: f.typ, keyBytes: f.bytes, flags: unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, size: maxSources})
		}
	}
	return all
}

const (
	collectEvery  = 40 * time.Millisecond
	collectLatest = 100 * time.Millisecond

	// maxFound bounds the addresses and ports that are remembered as this machine's; with more, some are looked for each time.
	maxFound = 256

	// maxSources bounds the sources of a family whose rate is known at once: 6 MB of the kernel's memory.
	maxSources = 1 << 15
)

// attrs are what the kernel needs to make s. It is the id-th of its transaction.
func (s set) attrs(id int) []byte {
	b := append32(appendText(appendText(nil, unix.NFTA_SET_TABLE, TableName), unix.NFTA_SET_NAME, s.name), unix.NFTA_SET_FLAGS, s.flags)
	b = append32(append32(append32(b, unix.NFTA_SET_KEY_TYPE, s.typ), unix.NFTA_SET_KEY_LEN, s.keyBytes), unix.NFTA_SET_ID, uint32(id))
	if s.flags&unix.NFT_SET_MAP != 0 {
		if s.value == 0 {
			b = append32(append32(b, unix.NFTA_SET_DATA_TYPE, verdictType), unix.NFTA_SET_DATA_LEN, 0)
		} else {
			b = append32(append32(b, unix.NFTA_SET_DATA_TYPE, s.value), unix.NFTA_SET_DATA_LEN, 2)
		}
	}
	size := s.size
	if s.flags&unix.NFT_SET_CONSTANT != 0 {
		size = len(s.elements)
	}
	if size > 0 {
		b = appendNest(b, unix.NFTA_SET_DESC, append32(nil, unix.NFTA_SET_DESC_SIZE, uint32(size)))
	}
	if s.collect > 0 {
		b = append32(b, unix.NFTA_SET_GC_INTERVAL, uint32(s.collect.Milliseconds()))
	}
	order := uint32(2) // big endian, for nft to show keys by
	if s.typ == typeMark {
		order = 1
	}
	return appendBytes(b, unix.NFTA_SET_USERDATA, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, order))
}

// elementAttrs are elements of a set, to be added or deleted.
func elementAttrs(set string, elements []element) []byte {
	var list []byte
	for _, e := range elements {
		item := appendNest(nil, unix.NFTA_SET_ELEM_KEY, appendBytes(nil, unix.NFTA_DATA_VALUE, e.key))
		if e.goTo != "" {
			item = appendNest(item, unix.NFTA_SET_ELEM_DATA, verdictData(unix.NFT_GOTO, e.goTo))
		}
		if e.timeout > 0 {
			item = append64(item, unix.NFTA_SET_ELEM_TIMEOUT, uint64(max(e.timeout.Milliseconds(), 1)))
		}
		list = appendNest(list, unix.NFTA_LIST_ELEM, item)
	}
	return appendNest(setAttrs(set), unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)
}

func (b *batch) addElements(set string, elements ...element) {
	if len(elements) > 0 {
		b.add(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "elements of "+set, elementAttrs(set, elements))
	}
}

// takeOut takes an element out that may be there or not. Before Linux 6.12 adding one again does not change its time, and deleting
// one that has just ended fails the transaction; so it is added, which always works, and then deleted.
func (b *batch) takeOut(set string, keys ...[]byte) {
	var elements []element
	for _, k := range keys {
		elements = append(elements, element{key: k})
	}
	b.addElements(set, elements...)
	b.deleteElements(set, elements...)
}

func (b *batch) deleteElements(set string, elements ...element) {
	if len(elements) > 0 {
		b.add(unix.NFT_MSG_DELSETELEM, 0, "elements of "+set, elementAttrs(set, elements))
	}
}

func (b *batch) flush(set string) {
	b.add(unix.NFT_MSG_DELSETELEM, 0, "all of "+set, setAttrs(set))
}

func (f *family) slots(p *relay.Plan) *[relay.Slots]int16 {
	if f == &ipv4 {
		return &p.Slots4
	}
	return &p.Slots6
}

// chain is where what is for a backend goes: by the way with checks while there is something to check.
func chain(p *relay.Plan, backend int16) string {
	if p.Down[backend] || p.Open[backend] < relay.Bands {
		return chainOf("check", int(backend))
	}
	return chainOf("to", int(backend))
}

// slotElements are those slots of a family that do not lead where they led. old may be nil.
func slotElements(f *family, p, old *relay.Plan) (add, gone []element) {
	leads := func(p *relay.Plan, s int) string {
		if p == nil || f.slots(p)[s] == relay.Nobody {
			return ""
		}
		return chain(p, f.slots(p)[s])
	}
	for s := range relay.Slots {
		now, before := leads(p, s), leads(old, s)
		if now == before {
			continue
		}
		if before != "" {
			gone = append(gone, element{key: slotKey(s), goTo: before})
		}
		if now != "" {
			add = append(add, element{key: slotKey(s), goTo: now})
		}
	}
	return add, gone
}
