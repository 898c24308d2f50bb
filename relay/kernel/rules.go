package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"spillway/relay"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	name         string // ends the names of sets and chains
	proto        byte
	bytes        uint32 // of an address
	source, dest uint32 // where the addresses are in the header
	flowSource   uint32 // the key of ct for an address: the plain one is of sixteen bytes in an inet table
	typ          uint32 // of an address, as nft shows it
	sourceMask   []byte // of what counts as one source; nil: all of it
}

var (
	ipv4 = family{name: "4", proto: unix.NFPROTO_IPV4, bytes: 4, source: 12, dest: 16, flowSource: unix.NFT_CT_SRC_IP, typ: typeIPv4}
	ipv6 = family{name: "6", proto: unix.NFPROTO_IPV6, bytes: 16, source: 8, dest: 24, flowSource: unix.NFT_CT_SRC_IP6, typ: typeIPv6,
		sourceMask: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 15: 0}}
)

func familyOf(addr netip.Addr) *family {
	if addr.Is4() {
		return &ipv4
	}
	return &ipv6
}

const (
	// waitFor is how long a connection counts against the budget when the backend says nothing at all.
	waitFor = 3 * time.Second

	// answered is what is left to a connection in its set once the backend has given its first sign of life. Deleting it from the
	// path of a packet leaks it on kernels before 6.5 without the fix (c92db3030492), and frees its place no sooner: both wait for
	// the set's garbage collection. It must be a tick of the kernel's at least, which may be 10 ms.
	answered = 10 * time.Millisecond

	// foundFor is how long what the kernel's routes say is taken for true: which addresses are this machine's, and what size of segment
	// fits on the way to a backend. A look takes as long as ten steps.
	foundFor = time.Second

	// sourceFor is how long a source that opens nothing is remembered. Its allowance is whole again after a second.
	sourceFor = 2 * time.Second

	// Ports that masquerading may use. Left to itself the kernel gives a client that comes from a port below 512 one below 512.
	firstPort, lastPort = 1024, 65535
)

// Bits of TCP's flags, and of a flow's state and status.
const (
	fin, syn, rst, psh, ack = 1, 2, 4, 8, 16

	stateEstablished, stateRelated, stateUntracked = 2, 4, 64

	statusAssured = 1 << 2 // the handshake is over
	statusDNAT    = 1 << 5
)

// rule is a rule of a chain.
type rule struct {
	chain, comment string
	steps          []expression
}

func newRule(chain, comment string, steps ...any) rule {
	r := rule{chain: chain, comment: comment}
	for _, s := range steps {
		switch s := s.(type) {
		case expression:
			r.steps = append(r.steps, s)
		case []expression:
			r.steps = append(r.steps, s...)
		}
	}
	return r
}

// What the rules look at. A value is always loaded where it is used: registers do not outlive a rule.

func (f *family) is(r register) []expression {
	return []expression{meta(unix.NFT_META_NFPROTO, r), equal(r, []byte{f.proto})}
}

func isTCP(r register) []expression {
	return []expression{meta(unix.NFT_META_L4PROTO, r), equal(r, []byte{unix.IPPROTO_TCP})}
}

// port is where a key of address and port has the port.
func (f *family) port(r register) register { return r + register(f.bytes/4) }

func (f *family) sender(r register) []expression {
	return []expression{payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.source, f.bytes, r), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, f.port(r))}
}

func (f *family) receiver(r register) []expression {
	return []expression{payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.dest, f.bytes, r), toPort(f.port(r))}
}

func toPort(r register) expression { return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, r) }

// flow is the sender of a flow in one direction: of the original one the client, of the reply the backend.
func (f *family) flow(direction byte, r register) []expression {
	return []expression{ctOf(f.flowSource, direction, r), ctOf(unix.NFT_CT_PROTO_SRC, direction, f.port(r))}
}

func (f *family) constant(a netip.AddrPort, r register) []expression {
	return []expression{immediate(r, a.Addr().AsSlice()), immediate(f.port(r), binary.BigEndian.AppendUint16(nil, a.Port()))}
}

// flagWord is the header's word that has the flags, with those in bits set: the kernel masks and compares words without a call.
func flagWord(bits byte) []byte { return []byte{0, bits, 0, 0} }

func flagsOf(bits byte, r register) []expression {
	return []expression{payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 12, 4, r), mask(r, flagWord(bits))}
}

// flags matches a segment of whose flags those in bits are as they are in want.
func flags(bits, want byte, r register) []expression {
	return append(flagsOf(bits, r), equal(r, flagWord(want)))
}

// otherFlags matches all others.
func otherFlags(bits, want byte, r register) []expression {
	return append(flagsOf(bits, r), unequal(r, flagWord(want)))
}

// anyFlag matches a segment that has one of bits.
func anyFlag(bits byte, r register) []expression { return otherFlags(bits, 0, r) }

func anyOf(key, bits uint32, r register) []expression {
	return []expression{ct(key, r), mask(r, binary.NativeEndian.AppendUint32(nil, bits)), unequal(r, make([]byte, 4))}
}

func isForwarded(r register) []expression { return anyOf(unix.NFT_CT_STATUS, statusDNAT, r) }

// listened are the ways to be something that is listened to, each for a rule of its own.
func (cfg Config) listened(f *family, r register) (ways [][]expression) {
	anywhere, exact := cfg.listenSets(f)
	if len(anywhere) > 0 {
		ways = append(ways, append([]expression{toPort(r), isIn("anywhere"+f.name, r)}, isLocal(r)...))
	}
	if len(exact) > 0 {
		ways = append(ways, append(f.receiver(r), isIn("listen"+f.name, r)))
	}
	return ways
}

// rules are all rules but those of chain dead, in the order of their chains. mark is the comment that says whose table it is.
func (cfg Config) rules(mark string) []rule {
	all := []rule{
		newRule("untracked", mark, meta(unix.NFT_META_MARK, r0), equal(r0, binary.NativeEndian.AppendUint32(nil, CutMark)), noTrack()),

		// Every packet that is forwarded meets this, and a segment of an open connection without data no more than this: a step takes 20 to
		// 30 ns. Another protocol's may have anything where TCP has its flags, so they only come first.
		newRule("forwarded", "", anyFlag(syn|rst|psh, r0), continueAt("signs")),
		newRule("signs", "", flags(syn|rst|ack, syn, r0), continueAt("syn")),
		newRule("signs", "of a client", ct(unix.NFT_CT_DIRECTION, r0), equal(r0, []byte{original}), accept()),
	}
	if cfg.Masquerade {
		all = append(all, newRule("forwarded", "no SYN-ACK, and an answer all the same: the backend still has an old connection from that port",
			flags(fin|syn|rst|psh|ack, ack, r0), ct(unix.NFT_CT_STATUS, r0), mask(r0, binary.NativeEndian.AppendUint32(nil, statusAssured)), equal(r0, make([]byte, 4)),
			continueAt("signs")))
	}
	for _, f := range cfg.families() {
		all = append(all,
			newRule("signs", "", f.is(r0), f.sender(r0), decideBy("from"+f.name, r0)),
			newRule("syn", "", f.is(r0), continueAt("clamp"+f.name)),
			newRule("clamp"+f.name, "", f.flow(reply, r0), valueOf("mss"+f.name, r0, r8), clampMSS(r8), goBack()),
			newRule("clamp"+f.name, "", f.flow(reply, r0), isIn("backends"+f.name, r0), fittingMSS(r8), clampMSS(r8), putValue("mss"+f.name, r0, r8, foundFor)),
			newRule("refused"+f.name, "", isForwarded(r0), f.flow(reply, r0), decideBy("refused"+f.name, r0)),
		)
		all = append(all, cfg.newRules(f)...)
		all = append(all, cfg.ownRules(f)...)
		if cfg.Masquerade {
			low, high := r0, r0+1
			all = append(all, newRule("masquerade", "", isTCP(r0), f.is(r0), isForwarded(r0), f.receiver(r0), isIn("backends"+f.name, r0),
				immediate(low, binary.BigEndian.AppendUint16(nil, firstPort)), immediate(high, binary.BigEndian.AppendUint16(nil, lastPort)), masquerade(low, high)))
		}
		for i, b := range cfg.Backends {
			if familyOf(b.Addr.Addr()) == f {
				all = append(all, cfg.backendRules(f, i, b)...)
			}
		}
	}
	return all
}

// deadRules are those of chain dead: each segment, of either direction, is looked at for the backend of its flow. Only what is forwarded is refused: this program's own probes must get their answers.
func (cfg Config) deadRules() []rule {
	var all []rule
	for _, f := range cfg.families() {
		all = append(all, newRule("dead", "", f.is(r0), isTCP(r0), f.flow(reply, r0), isIn("down"+f.name, r0), continueAt("refused"+f.name)))
	}
	return all
}

// ownRules are for segments that are delivered to this machine itself, though for a port that is forwarded: they are of no flow.
// Its own answer to them is a reset as well, but a firewall may have it say nothing.
func (cfg Config) ownRules(f *family) []rule {
	chain := "own" + f.name
	all := []rule{
		newRule("own", "", isTCP(r0), f.is(r0), toPort(r0), isIn("ports"+f.name, r0), continueAt(chain)),
		newRule(chain, "", anyOf(unix.NFT_CT_STATE, stateEstablished|stateRelated|stateUntracked, r0), accept()),
		newRule(chain, "", flags(fin|syn|rst|ack, syn, r0), accept()),
		newRule(chain, "nobody answers a reset", anyFlag(rst, r0), accept()),
		newRule(chain, "of this machine itself", meta(unix.NFT_META_IIF, r0), equal(r0, binary.NativeEndian.AppendUint32(nil, 1)), accept()),
	}
	for _, way := range cfg.listened(f, r0) {
		all = append(all, newRule(chain, "of no flow", way, count("no_flow"), refuse()))
	}
	return all
}

// newRules are what the first packet of a flow meets.
func (cfg Config) newRules(f *family) []rule {
	var all []rule
	chain := "new" + f.name
	anywhere, _ := cfg.listenSets(f)
	if len(anywhere) > 0 {
		all = append(all, newRule("new", "found a moment ago", f.is(r0), isTCP(r0), f.receiver(r0), isIn("at"+f.name, r0), continueAt(chain)))
	}
	for i, way := range cfg.listened(f, r0) {
		next := chain
		if i == 0 && len(anywhere) > 0 {
			next = "found" + f.name
		}
		all = append(all, newRule("new", "", f.is(r0), isTCP(r0), way, continueAt(next)))
	}
	if len(anywhere) > 0 {
		all = append(all,
			newRule("found"+f.name, "", f.receiver(r0), put(unix.NFT_DYNSET_OP_ADD, "at"+f.name, r0, foundFor, nil)),
			newRule("found"+f.name, "", continueAt(chain)))
	}
	// Unless net.netfilter.nf_conntrack_tcp_loose is 0, conntrack takes any segment for the first of a flow.
	all = append(all, newRule(chain, "of no flow", otherFlags(fin|syn|rst|ack, syn, r0), count("no_flow"), refuse()))
	address := []expression{payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.source, f.bytes, r0)}
	if cfg.PerSource > 0 {
		source := address
		if f.sourceMask != nil {
			source = append(source[:1:1], mask(r0, f.sourceMask))
		}
		// A full set does not match: strangers are not refused for want of room.
		all = append(all, newRule(chain, "opens too many", source, put(unix.NFT_DYNSET_OP_UPDATE, "sources"+f.name, r0, sourceFor, overRate(cfg.PerSource)),
			count("source"), refuse()))
	}
	return append(all, newRule(chain, "", address, hash(r0, f.bytes, relay.Slots), decideBy("slots"+f.name, r0)))
}

// backendRules are one backend's: what is sent to it (of first packets, in one chain while it is well, in the other while it is down or
// its budget is not whole), and its signs of life.
func (cfg Config) backendRules(f *family, i int, b relay.Backend) []rule {
	check, to, alive, refused := chainOf("check", i), chainOf("to", i), chainOf("alive", i), chainOf("refused", i)
	full := []expression{count(chainOf("budget", i)), refuse()}
	all := []rule{newRule(check, b.Addr.String(), f.constant(b.Addr, r0), isIn("down"+f.name, r0), count(chainOf("down", i)), refuse())}
	for k := range relay.Bands {
		place := append(f.sender(r0), put(unix.NFT_DYNSET_OP_ADD, waitingSet(i, k), r0, waitFor, nil), count(chainOf("opened", i)))
		place = append(append(place, f.constant(b.Addr, r0)...), dnat(f.proto, r0, f.port(r0)))
		all = append(all, newRule(check, "", immediate(r0, bandKey(i, k)), isNotIn("closed", r0), place), newRule(to, "", place))
	}
	all = append(all,
		newRule(check, "too many wait already", full), newRule(to, "too many wait already", full),
		newRule(refused, b.Addr.String(), count(chainOf("down", i)), refuse()),
		newRule(alive, "data", anyFlag(psh, r0), isForwarded(r0), isTCP(r0), count(chainOf("spoken", i)), accept()),
		newRule(alive, "", flags(syn|rst, syn, r0), jump("clamp"+f.name)),
	)
	for k := range relay.Bands { // a SYN-ACK, or a reset
		set := waitingSet(i, k)
		all = append(all, newRule(alive, "", f.flow(original, r0), isIn(set, r0), put(unix.NFT_DYNSET_OP_UPDATE, set, r0, answered, nil), accept()))
	}
	return all
}

// chainOf is the name of a backend's chain, or counter.
func chainOf(what string, backend int) string { return fmt.Sprintf("%s_%d", what, backend) }

func waitingSet(backend, band int) string { return fmt.Sprintf("unanswered_%d_%d", backend, band+1) }

// bandKey is a band's key in the set of the closed ones.
func bandKey(backend, band int) []byte {
	return binary.NativeEndian.AppendUint32(nil, uint32(backend<<8|band+1))
}
