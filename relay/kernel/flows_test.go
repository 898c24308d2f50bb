package kernel

import (
	"net/netip"
	"testing"
)

// entry is one of conntrack's table, as the kernel has it in an answer.
func entry(client, dialled, backend, seen netip.AddrPort) []byte {
	b := appendTuple(nil, ctaTupleOrig, client, dialled)
	b = appendTuple(b, ctaTupleReply, backend, seen)
	b = append32(b, ctaStatus, 0x1ae)
	b = appendNest(b, ctaProtoInfo, appendNest(nil, ctaProtoInfoTCP, appendBytes(nil, ctaTCPState, []byte{3})))
	return append32(b, ctaID, 0xcafe)
}

func TestAnEntryIsRead(t *testing.T) {
	t.Parallel()
	for _, a := range [][4]string{
		{"203.0.113.9:40000", "198.18.1.1:80", "10.66.0.2:6969", "10.66.0.1:1024"},
		{"[2001:db8::9]:1", "[2001:db8::1]:65535", "[fd00::2]:6969", "[fd00::1]:256"},
	} {
		want := flow{client: netip.MustParseAddrPort(a[0]), dialled: netip.MustParseAddrPort(a[1]), seen: netip.MustParseAddrPort(a[3]),
			id: 0xcafe, status: 0x1ae, state: 3}
		backend := netip.MustParseAddrPort(a[2])
		b := entry(want.client, want.dialled, backend, want.seen)
		var got flow
		if answers, ok := parseFlow(b, &got); !ok || answers != backend || got != want {
			t.Errorf("got %v of %v, %v; want %v of %v", got, answers, ok, want, backend)
		}
		for i := range b { // it is a whole number of attributes long nowhere before the last
			if answers, ok := parseFlow(b[:i], &got); ok && (answers != backend || got.client != want.client) {
				t.Errorf("cut short at %d: got %v of %v", i, got, answers)
			}
		}
	}
}

func TestWhatIsNoFlowOfTCPIsNotRead(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddrPort("198.18.1.1:80"), netip.MustParseAddrPort("[2001:db8::1]:80")
	udp := entry(v4, v4, v4, v4)
	for i := range udp {
		if i >= 4 && string(udp[i-4:i+1]) == "\x05\x00\x01\x00\x06" { // the protocol's attribute, on a little endian machine
			udp[i] = 17
		}
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "UDP": udp, "IPv4 answered by IPv6": entry(v4, v4, v6, v6), "only one direction": appendTuple(nil, ctaTupleOrig, v4, v4),
	} {
		var f flow
		if answers, ok := parseFlow(b, &f); ok {
			t.Errorf("%s: got %v of %v", name, f, answers)
		}
	}
}

func FuzzParseFlow(f *testing.F) {
	v4, v6 := netip.MustParseAddrPort("198.18.1.1:80"), netip.MustParseAddrPort("[2001:db8::1]:80")
	f.Add(entry(v4, v4, v4, v4))
	f.Add(entry(v6, v6, v6, v6))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got flow
		answers, ok := parseFlow(b, &got)
		if !ok {
			return
		}
		for _, end := range []netip.AddrPort{got.client, got.dialled, got.seen, answers} {
			if !end.IsValid() || end.Addr().BitLen() != answers.Addr().BitLen() {
				t.Fatalf("got %v of %v", got, answers)
			}
		}
		// What is read can be sent to, and be asked for again.
		_ = appendSYN(nil, got.dialled, got.client, 1)
		src, dst := parseTuple(attribute(appendTuple(nil, ctaTupleOrig, got.client, got.dialled), ctaTupleOrig))
		if src != got.client || dst != got.dialled {
			t.Fatalf("tuple: got %v to %v, want %v to %v", src, dst, got.client, got.dialled)
		}
	})
}

func BenchmarkParseFlow(b *testing.B) {
	v4 := netip.MustParseAddrPort("198.18.1.1:80")
	e := entry(v4, v4, v4, v4)
	var f flow
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := parseFlow(e, &f); !ok {
			b.Fatal("not read")
		}
	}
}
