package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
)

// announce is one request of a client that the test plays itself, from a loopback address of its choice.
type announce struct {
	from   string // 127.0.0.0/8 or ::1
	hash   metainfo.Hash
	peerID string // 20 bytes; empty is made of from and port
	port   int
	left   int64
	event  string
	header http.Header
}

// announceReply is a reply read by a decoder that is not ours.
type announceReply struct {
	Failure    string `bencode:"failure reason"`
	Complete   int    `bencode:"complete"`
	Incomplete int    `bencode:"incomplete"`
	Downloaded int    `bencode:"downloaded"`
	Interval   int    `bencode:"interval"`
	Min        int    `bencode:"min interval"`
	External   string `bencode:"external ip"`
	Peers      string `bencode:"peers"`
	Peers6     string `bencode:"peers6"`
}

// to sends a to a tracker. A failure reason is part of the reply, not an error.
func (a announce) to(url string) (announceReply, error) {
	var reply announceReply
	if a.peerID == "" {
		a.peerID = fmt.Sprintf("-E20000-%012X", a.port)
	}
	url += fmt.Sprintf("?info_hash=%s&peer_id=%s&port=%d&uploaded=0&downloaded=0&left=%d&compact=1&numwant=200",
		escape(a.hash[:]), escape([]byte(a.peerID)), a.port, a.left)
	if a.event != "" {
		url += "&event=" + a.event
	}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return reply, err
	}
	if a.header != nil {
		req.Header = a.header
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if a.from != "" {
		transport = dialingFrom(a.from)
		transport.DisableKeepAlives = true
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return reply, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mib))
	if err != nil {
		return reply, err
	}
	if resp.StatusCode != http.StatusOK {
		return reply, fmt.Errorf("announce: %s: %.200q", resp.Status, body)
	}
	if err := bencode.Unmarshal(body, &reply); err != nil {
		return reply, fmt.Errorf("announce reply %q: %w", body, err)
	}
	return reply, nil
}

// mustTo is to where a failure is the test's.
func (a announce) mustTo(t *testing.T, url string) announceReply {
	t.Helper()
	reply, err := a.to(url)
	if err == nil && reply.Failure != "" {
		err = errors.New(reply.Failure)
	}
	if err != nil {
		t.Fatalf("announce from %s: %v", a.from, err)
	}
	return reply
}

// peers lists the endpoints of both families, sorted.
func (r announceReply) peers(t *testing.T) []netip.AddrPort {
	t.Helper()
	if len(r.Peers)%6 != 0 || len(r.Peers6)%18 != 0 {
		t.Fatalf("compact peers: got %d and %d bytes, want multiples of 6 and 18", len(r.Peers), len(r.Peers6))
	}
	var list []netip.AddrPort
	for _, family := range []struct {
		raw  string
		size int
	}{{r.Peers, 4}, {r.Peers6, 16}} {
		for raw := []byte(family.raw); len(raw) > 0; raw = raw[family.size+2:] {
			addr, _ := netip.AddrFromSlice(raw[:family.size])
			list = append(list, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(raw[family.size:])))
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

// dialingFrom makes requests from one local address.
func dialingFrom(addr string) *http.Transport {
	dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	return &http.Transport{DialContext: dialer.DialContext}
}

// wantPeers compares with "address:port" strings, in any order.
func (r announceReply) wantPeers(t *testing.T, want ...string) {
	t.Helper()
	wanted := make([]netip.AddrPort, 0, len(want))
	for _, s := range want {
		wanted = append(wanted, netip.MustParseAddrPort(s))
	}
	slices.SortFunc(wanted, netip.AddrPort.Compare)
	if got := r.peers(t); !slices.Equal(got, wanted) {
		t.Errorf("peers: got %v, want %v", got, wanted)
	}
}
