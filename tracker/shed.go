package tracker

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// What an announce is answered that is not served. Measured with the clients (docs/shedding.md): a success without peers and
// with a long interval is the only answer that all of them obey; a refused connection, 503, 429 and 404 bring most of them back
// within seconds or minutes. A failure with an interval is obeyed by some, who go on to their next tracker at once: they get
// one where that serves them, as a peer that has just started and would else wait for peers.

const (
	errOverload failure = "this tracker has too much to do; others may have peers, it will be asked again later"
	errOff      failure = "announces are switched off at this tracker for now"
)

// shedIntervals is how many intervals are ready: those that are answered in one moment must not come back in one.
const shedIntervals = 64

// shedReplies are the answers, as they are written to a connection.
type shedReplies struct {
	told            int       // what they were made for, in seconds
	made            time.Time // while they hold how long the switch stays off
	success, failed [shedIntervals]readyReply
	off, offFailed  [shedIntervals]readyReply
}

// readyReply is a whole HTTP reply; what is from body on, the bencoded part.
type readyReply struct {
	whole []byte
	body  int
}

// offRenewed is how often the answers are made anew while a switch is off for a time, which they tell.
const offRenewed = 10 * time.Second

func (t *Tracker) newShedReplies(now time.Time) *shedReplies {
	r := &shedReplies{told: t.gate.Interval()}
	until := t.gate.Switches.State(shedder.Announce).Until
	if !until.IsZero() {
		r.made = now
	}
	for i := range shedIntervals {
		shed, off := clampInterval(t.gate.ToldShed()), clampInterval(t.gate.ToldOff())
		if left := int(until.Sub(now) / time.Second); !until.IsZero() {
			// As soon as it is on again, over an interval: told the longest, they would be missing for an hour after ten minutes off.
			off = clampInterval(min(left+rand.IntN(r.told+1), off))
		}
		r.success[i] = newReadyReply(appendEmpty(nil, shed))
		r.failed[i] = newReadyReply(appendFailure(nil, string(errOverload), shed))
		r.off[i] = newReadyReply(appendEmpty(nil, off))
		r.offFailed[i] = newReadyReply(appendFailure(nil, string(errOff), off))
	}
	return r
}

// renewShedReplies makes the answers anew if what they tell has changed.
func (t *Tracker) renewShedReplies(now time.Time) {
	if r := t.shed.Load(); r.told != t.gate.Interval() || !r.made.IsZero() && now.Sub(r.made) >= offRenewed {
		t.shed.Store(t.newShedReplies(now))
	}
}

func newReadyReply(body []byte) readyReply {
	head := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "), strconv.Itoa(len(body))...)
	head = append(head, "\r\n\r\n"...)
	return readyReply{whole: append(head, body...), body: len(head)}
}

// appendEmpty appends a success without peers. It has no counts: clients show those they knew. Nor has it "external ip", by
// which a reply that was served can be told.
func appendEmpty(dst []byte, intervalSec int) []byte {
	return append(appendIntervals(append(dst, 'd'), intervalSec), "5:peers0:e"...)
}

// pick chooses the answer for a client, by the beginning of its peer id. It is the client's to say what it is, so this chooses
// its answer and grants nothing.
func (r *shedReplies) pick(verdict shedder.Verdict, peerID []byte, started bool, n uint32) *readyReply {
	n %= shedIntervals
	switch obeys := obeysFailures(peerID); {
	case verdict == shedder.Refuse && obeys:
		return &r.offFailed[n]
	case verdict == shedder.Refuse:
		return &r.off[n]
	case started && obeys:
		return &r.failed[n]
	}
	return &r.success[n]
}

// obeysFailures tells a client that waits for the interval of a failure and goes on to its next tracker meanwhile: libtorrent's
// (qBittorrent, Deluge and its own), Transmission from 4.1, BiglyBT and rTorrent from 0.15 (-lt0F, in hex).
func obeysFailures(peerID []byte) bool {
	if len(peerID) < 8 || peerID[0] != '-' {
		return false
	}
	switch string(peerID[1:3]) {
	case "qB", "DE", "LT", "BI":
		return true
	case "TR":
		return peerID[3] > '4' && peerID[3] <= '9' || peerID[3] == '4' && peerID[4] >= '1' && peerID[4] <= '9'
	case "lt":
		return unhex[peerID[3]] <= 15 && unhex[peerID[4]] <= 15 && unhex[peerID[3]]<<4|unhex[peerID[4]] >= 0x0f
	}
	return false
}

// needsPeers tells a client that comes back after two minutes, whatever it is told, if it has no peers: aria2's leechers. For
// those a few peers cost less than their next announce.
func needsPeers(peerID []byte, class shedder.Class) bool {
	return bytes.HasPrefix(peerID, []byte("A2-")) && class != shedder.Leaving && class != shedder.KnownSeeder
}

// trimmedNumWant is how many peers a reply has at most where replies are trimmed.
const trimmedNumWant = 10

// classOf is what an announce says of itself.
func classOf(event swarm.Event, seeder bool) shedder.Class {
	switch {
	case event == swarm.EventStopped, event == swarm.EventCompleted:
		return shedder.Leaving
	case event == swarm.EventStarted:
		return shedder.Unknown
	case seeder:
		return shedder.KnownSeeder
	}
	return shedder.KnownLeecher
}

// Early decides about a request that came whole on a connection that is kept, before it is parsed: to answer one that is
// refused then costs no parsing. It looks only when there is a reason to refuse
// anything. The reply is nil for what is to be served, and for what is not an announce or not plainly one: undecided.
func (t *Tracker) Early(remote net.Addr, head []byte, now time.Time, age time.Duration) (reply []byte, decided bool) {
	rules := t.gate.Rules
	if !t.gate.Limited() && !t.gate.Closed(shedder.Announce) && rules.Empty() {
		return nil, false
	}
	var e earlyAnnounce
	s := t.settings.Load()
	if !e.parse(head, s, remote) || needsPeers(e.peerID[:], e.class) {
		return nil, false
	}
	verdict := shedder.Refuse
	if !rules.MatchSource(e.client) && !rules.MatchUserAgent(e.userAgent) {
		verdict = t.gate.Admit(&shedder.Request{Endpoint: shedder.Announce, Class: e.class, Source: e.client, Now: now, Age: age, Direct: e.direct})
		if verdict <= shedder.Trim {
			return nil, true
		}
		// What a rule refuses is not noted: it would become usual.
		if t.gate.Sample() {
			e.note(t.gate.Talkers)
		}
	}
	t.countShed(verdict)
	return t.shed.Load().pick(verdict, e.peerID[:], e.started, uint32(now.UnixNano()>>10)).whole, true
}

func (t *Tracker) countShed(v shedder.Verdict) {
	switch v {
	case shedder.Shed:
		t.metrics.announceShed.Inc()
	case shedder.OverBudget:
		t.metrics.announceSource.Inc()
	default:
		t.metrics.announceOff.Inc()
	}
}

// earlyAnnounce is what can be told of an announce before it is parsed.
type earlyAnnounce struct {
	query     []byte
	peerID    [20]byte
	class     shedder.Class
	started   bool
	client    netip.Addr
	direct    bool // client is the connection's own address
	userAgent []byte
}

// parse reads what it needs, and false where anything is not as tracker clients send it.
func (e *earlyAnnounce) parse(head []byte, s *settings, remote net.Addr) bool {
	line, headers, _ := bytes.Cut(head, []byte("\r\n"))
	uri, ok := bytes.CutSuffix(line[len("GET "):], []byte(" HTTP/1.1"))
	if !ok || len(uri) > maxAnnounceLine || bytes.IndexByte(uri, '\n') >= 0 {
		return false
	}
	path, query, _ := bytes.Cut(uri, []byte("?"))
	if r, _ := routeOf(path); r != routeAnnounce {
		return false
	}
	e.query = query
	// Of each the first counts, as for parseAnnounce.
	var event, left, peerID []byte
	for len(query) > 0 {
		var key, value []byte
		key, value, query = nextParam(query)
		switch {
		case event == nil && string(key) == "event":
			event = value
		case left == nil && string(key) == "left":
			left = value
		case peerID == nil && string(key) == "peer_id":
			peerID = value
		}
	}
	if decode20(&e.peerID, peerID, errPeerID) != nil {
		return false
	}
	n, ok := parseUint(left, 0)
	e.class, e.started = classOf(parseEvent(event), ok && n == 0), string(event) == "started"

	addr, proxied := directAddr(remote)
	proxied = proxied || s.proxies.contains(addr)
	var hops []byte
	for len(headers) > 2 {
		var line []byte
		line, headers, _ = bytes.Cut(headers, []byte("\r\n"))
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || bytes.IndexByte(line, '\n') >= 0 {
			return false // a bare line feed ends a line for some parsers
		}
		switch {
		case proxied && len(name) == len(s.realIPHeader) && equalFold(name, s.realIPHeader):
			if hops != nil {
				return false
			}
			hops = bytes.TrimSpace(value)
		case len(name) == len("User-Agent") && equalFold(name, "User-Agent"):
			e.userAgent = bytes.TrimSpace(value)
		case len(name) == len("Content-Length") && equalFold(name, "Content-Length"),
			len(name) == len("Transfer-Encoding") && equalFold(name, "Transfer-Encoding"),
			len(name) == len("Upgrade") && equalFold(name, "Upgrade"),
			len(name) == len("Expect") && equalFold(name, "Expect"),
			len(name) == len("Connection") && equalFold(name, "Connection") && equalFold(bytes.TrimSpace(value), "close"):
			return false // a body, or the connection's end, is for who parses
		}
	}
	e.client, e.direct = addr, !proxied
	if proxied {
		client, found, err := s.nearest(hops)
		e.client, ok = client, found && err == nil
		return ok
	}
	return true
}

// note tells the sketches of who asks.
func (e *earlyAnnounce) note(talkers *shedder.Talkers) {
	var infoHash [20]byte
	for query := e.query; len(query) > 0; {
		var key, value []byte
		if key, value, query = nextParam(query); string(key) == "info_hash" {
			_ = decode20(&infoHash, value, errInfoHash) // a wrong one is all zeros
		}
	}
	talkers.Note(e.client, present(e.userAgent), &e.peerID, &infoHash)
}

// present is a header's value as the sketches want it: nil would say that it is not known, and not that there is none.
func present(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// directAddr is the address of a TCP peer; proxied, where it can only be a proxy's: that of a unix socket.
func directAddr(remote net.Addr) (addr netip.Addr, proxied bool) {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return addr, true
	}
	addr, _ = netip.AddrFromSlice(tcp.IP)
	return addr.Unmap(), false
}

// equalFold is bytes.EqualFold with a string, for ASCII.
func equalFold(b []byte, s string) bool {
	for i := range b {
		c, d := b[i], s[i]
		if c != d && (c|0x20 != d|0x20 || c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}
