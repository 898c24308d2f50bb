package tracker

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// route is what a path asks for.
type route uint8

const (
	routeNone route = iota
	routeAnnounce
	routeScrape
	routeHealth
	routeStats
	routeStatsJSON
	routeHome
)

// routeOf reads a path and the passkey in it: /announce, /announce/, /announce.php, /announce/<passkey> and
// /<passkey>/announce, and the same for scrape, because clients make a scrape URL by replacing the one word by the other.
func routeOf(path []byte) (r route, passkey []byte) {
	path = bytes.TrimSuffix(path, []byte("/"))
	switch string(path) {
	case "/announce", "/announce.php":
		return routeAnnounce, nil
	case "/scrape", "/scrape.php":
		return routeScrape, nil
	case "/healthz":
		return routeHealth, nil
	case "/stats":
		return routeStats, nil
	case "/stats.json":
		return routeStatsJSON, nil
	case "":
		return routeHome, nil
	}
	if len(path) == 0 || path[0] != '/' {
		return routeNone, nil
	}
	first, second, two := bytes.Cut(path[1:], []byte("/"))
	if !two || len(first) == 0 || len(second) == 0 || bytes.IndexByte(second, '/') >= 0 {
		return routeNone, nil
	}
	if r, _ = routeOf(path[:1+len(first)]); r == routeAnnounce || r == routeScrape {
		return r, second
	}
	if r, _ = routeOf(path[1+len(first):]); r == routeAnnounce || r == routeScrape {
		return r, first
	}
	return routeNone, nil
}

// scratch is what one request needs and the next can use again.
type scratch struct {
	params   announceParams
	announce swarm.Announce
	reply    swarm.Reply
	hashes   []swarm.InfoHash
	counts   []swarm.Counts
	out      []byte
}

var (
	contentText = []byte("text/plain")
	contentHTML = []byte("text/html; charset=utf-8")
	contentJSON = []byte("application/json")
)

// handle answers one request. It never lets a panic of ours out: fasthttp would let it end the process.
func (t *Tracker) handle(ctx *fasthttp.RequestCtx) {
	defer t.recover(ctx)
	uri := ctx.Request.Header.RequestURI()
	path, query, _ := bytes.Cut(uri, []byte("?"))
	if len(path) > 0 && path[0] != '/' {
		// The absolute form, as clients behind a proxy send it.
		if _, rest, ok := bytes.Cut(path, []byte("://")); ok {
			slash := bytes.IndexByte(rest, '/')
			if slash < 0 {
				slash = len(rest) // as http://host, whose path is empty: the home page
			}
			path = rest[slash:]
		}
	}
	if t.upgrade != nil && isUpgrade(ctx) {
		t.handleUpgrade(ctx, path)
		return
	}
	if !ctx.IsGet() && !ctx.IsHead() {
		ctx.Response.Header.Set(fasthttp.HeaderAllow, "GET, HEAD")
		t.plain(ctx, fasthttp.StatusMethodNotAllowed, "only GET and HEAD are answered here\n")
		return
	}
	r, passkey := routeOf(path)
	switch r {
	case routeAnnounce:
		t.handleAnnounce(ctx, uri, query, passkey)
	case routeScrape:
		t.handleScrape(ctx, uri, query, passkey)
	case routeHealth:
		t.handleHealth(ctx)
	case routeStats:
		t.handleStats(ctx, false)
	case routeStatsJSON:
		t.handleStats(ctx, true)
	case routeHome:
		t.handleHome(ctx)
	default:
		t.plain(ctx, fasthttp.StatusNotFound, "not found; this is a BitTorrent tracker, its announce URL ends in /announce\n")
	}
}

// endpointOf is where a request that panicked was, for its switch.
func endpointOf(ctx *fasthttp.RequestCtx) shedder.Endpoint {
	path, _, _ := bytes.Cut(ctx.Request.Header.RequestURI(), []byte("?"))
	switch r, _ := routeOf(path); {
	case isUpgrade(ctx):
		return shedder.WS
	case r == routeScrape:
		return shedder.Scrape
	}
	return shedder.Announce
}

func (t *Tracker) handleAnnounce(ctx *fasthttp.RequestCtx, uri, query, passkey []byte) {
	s := t.settings.Load()
	b := t.scratch.Get().(*scratch)
	defer t.scratch.Put(b)
	interval := t.interval()
	addr, err := t.admit(ctx, s, uri, maxAnnounceLine, passkey)
	if err == nil {
		err = parseAnnounce(query, &b.params)
	}
	if err != nil {
		t.metrics.announceBad.Inc()
		t.fail(ctx, b, err, interval)
		return
	}
	p := &b.params
	switch {
	case !s.access.allows(&p.infoHash):
		// The words make Transmission and rTorrent stop asking.
		t.metrics.announceOff.Inc()
		t.fail(ctx, b, errUnregistered, t.gate.ToldOff())
		return
	case len(s.blocked) > 0 && s.blocks(&p.peerID):
		t.metrics.announceOff.Inc()
		t.fail(ctx, b, errBlockedClient, t.gate.ToldOff())
		return
	}
	now := ctx.Time()
	verdict := t.decide(ctx, p, addr, now)
	numWant := s.numWant(p.numWant)
	if verdict != shedder.Serve {
		if verdict != shedder.Trim && !(verdict == shedder.Shed && needsPeers(p.peerID[:], p.class())) {
			t.answerShed(ctx, p, verdict, now)
			return
		}
		numWant = min(numWant, trimmedNumWant)
	}
	a := &b.announce
	*a = swarm.Announce{
		InfoHash:     p.infoHash,
		Event:        p.event,
		Seeder:       p.seeder,
		Unreachable:  p.port == 0,
		NumWant:      numWant,
		TTL:          s.ttl(interval),
		PreferFamily: swarm.Family6,
	}
	if addr.Is4() {
		a.PreferFamily = swarm.Family4
	}
	a.SetEndpoint(addr, p.port)
	if s.cfg.ClaimedIP && p.ipCount > 0 && isLocal(addr) {
		claim(a, p)
	}
	t.waits.AnnounceWait(a, now, &b.reply)
	if err := checkReply(a, &b.reply); err != nil {
		t.erred(shedder.Announce, err)
		t.fail(ctx, b, errInternal, interval)
		return
	}
	b.out = appendAnnounce(b.out[:0], &announceReply{Reply: &b.reply, intervalSec: interval, external: addr, list: p.list})
	ctx.Response.Header.SetContentTypeBytes(contentText)
	ctx.Response.SetBody(b.out)
	if verdict == shedder.Serve {
		t.metrics.announceServed.Inc()
	} else {
		t.metrics.announceTrimmed.Inc()
	}
	t.metrics.seconds.observe(time.Since(now))
}

const (
	errUnregistered  failure = "unregistered torrent: this tracker does not serve it"
	errBlockedClient failure = "this client is not welcome at this tracker"
	errPasskey       failure = "the passkey in the announce URL is not known here"
	errInternal      failure = "internal error"
	errFullScrape    failure = "a scrape of everything is refused; name torrents by info_hash"
)

// admit finds out who is asking, and refuses who may not.
func (t *Tracker) admit(ctx *fasthttp.RequestCtx, s *settings, uri []byte, maxLine int, passkey []byte) (netip.Addr, error) {
	if len(uri) > maxLine {
		return netip.Addr{}, errTooLong
	}
	if s.passkeys != nil {
		if _, ok := s.passkeys[string(passkey)]; !ok {
			return netip.Addr{}, errPasskey
		}
	}
	addr, err := s.clientAddr(ctx)
	if err == errNoHeader {
		t.metrics.noHeader.Inc()
	}
	return addr, err
}

// claim puts the addresses the query claims in place of the client's own, one a family.
func claim(a *swarm.Announce, p *announceParams) {
	has4, has6 := false, false
	for _, value := range p.ips[:p.ipCount] {
		addr, port, ok := claimed(value)
		if !ok || addr.Is4() && has4 || addr.Is6() && has6 {
			continue
		}
		if !has4 && !has6 {
			a.Has4, a.Has6 = false, false
		}
		if port == 0 {
			port = p.port
		}
		a.SetEndpoint(addr, port)
		has4, has6 = has4 || addr.Is4(), has6 || addr.Is6()
	}
}

func (t *Tracker) handleScrape(ctx *fasthttp.RequestCtx, uri, query, passkey []byte) {
	s := t.settings.Load()
	b := t.scratch.Get().(*scratch)
	defer t.scratch.Put(b)
	addr, err := t.admit(ctx, s, uri, maxScrapeLine, passkey)
	if err == nil {
		b.hashes, err = parseScrape(query, b.hashes[:0])
	}
	if err == nil && len(b.hashes) == 0 {
		err = errFullScrape
	}
	if err != nil {
		t.metrics.scrapeBad.Inc()
		t.fail(ctx, b, err, t.interval())
		return
	}
	b.hashes = sortHashes(b.hashes)
	// A scrape that is not served is answered with zeros: Transmission counts its failures as failed announces.
	r := shedder.Request{Endpoint: shedder.Scrape, Class: shedder.Scrapes, Source: addr, Now: ctx.Time(), Alone: ctx.ConnRequestNum() == 1}
	r.Age, _ = ageOf(ctx)
	if verdict := t.gate.Admit(&r); verdict > shedder.Trim || t.gate.Rules.MatchSource(addr) {
		b.counts = b.counts[:0]
		for range b.hashes {
			b.counts = append(b.counts, swarm.Counts{})
		}
		t.answerScrape(ctx, b, t.gate.ToldOff())
		t.metrics.scrapeShed.Inc()
		return
	}
	b.counts = t.waits.ScrapeWait(b.hashes, b.counts[:0])
	if err := checkCounts(b.hashes, b.counts); err != nil {
		t.erred(shedder.Scrape, err)
		b.counts = make([]swarm.Counts, len(b.hashes))
	}
	for i := range b.hashes {
		if !s.access.allows(&b.hashes[i]) {
			b.counts[i] = swarm.Counts{}
		}
	}
	t.answerScrape(ctx, b, t.interval())
	t.metrics.scrapeServed.Inc()
}

func (t *Tracker) answerScrape(ctx *fasthttp.RequestCtx, b *scratch, intervalSec int) {
	b.out = appendScrape(b.out[:0], b.hashes, b.counts, clampInterval(intervalSec))
	ctx.Response.Header.SetContentTypeBytes(contentText)
	ctx.Response.SetBody(b.out)
}

// decide asks the rules and the gate about an announce, unless Early has.
func (t *Tracker) decide(ctx *fasthttp.RequestCtx, p *announceParams, addr netip.Addr, now time.Time) shedder.Verdict {
	rules := t.gate.Rules
	if !rules.Empty() && (rules.MatchSource(addr) || rules.MatchPeerID(&p.peerID) || rules.MatchInfoHash((*[20]byte)(&p.infoHash)) ||
		rules.MatchUserAgent(ctx.Request.Header.UserAgent())) {
		return shedder.Refuse
	}
	if t.gate.Sample() {
		t.gate.Talkers.Note(addr, present(ctx.Request.Header.UserAgent()), &p.peerID, (*[20]byte)(&p.infoHash))
	}
	age, decided := ageOf(ctx)
	if decided {
		if t.gate.Trims() {
			return shedder.Trim
		}
		return shedder.Serve
	}
	_, proxied := directAddr(ctx.RemoteAddr())
	return t.gate.Admit(&shedder.Request{
		Endpoint: shedder.Announce,
		Class:    p.class(),
		Source:   addr,
		Now:      now,
		Age:      age,
		Alone:    ctx.ConnRequestNum() == 1,
		Direct:   !proxied && !t.Trusted(addr),
	})
}

// ageOf tells how old a request was when it was read, -1 where that is not known, and whether Early has let it pass.
func ageOf(ctx *fasthttp.RequestCtx) (age time.Duration, decided bool) {
	c, ok := ctx.Conn().(interface {
		Age() time.Duration
		Decided() bool
	})
	if !ok {
		return -1, false
	}
	return c.Age(), c.Decided()
}

// answerShed answers an announce that is not served.
func (t *Tracker) answerShed(ctx *fasthttp.RequestCtx, p *announceParams, verdict shedder.Verdict, now time.Time) {
	t.countShed(verdict)
	r := t.shed.Load().pick(verdict, p.peerID[:], p.event == swarm.EventStarted, uint32(now.UnixNano()>>10))
	ctx.Response.Header.SetContentTypeBytes(contentText)
	ctx.Response.SetBodyRaw(r.whole[r.body:])
}

// fail answers a tracker client's mistake: status 200, because clients throw the body of any other away unread.
func (t *Tracker) fail(ctx *fasthttp.RequestCtx, b *scratch, err error, intervalSec int) {
	reason, ok := err.(failure)
	if !ok {
		reason = errInternal
		t.erred(endpointOf(ctx), err)
	}
	b.out = appendFailure(b.out[:0], string(reason), clampInterval(intervalSec))
	ctx.Response.Header.SetContentTypeBytes(contentText)
	ctx.Response.SetBody(b.out)
}

// plain answers whoever is no tracker client.
func (t *Tracker) plain(ctx *fasthttp.RequestCtx, status int, text string) {
	t.metrics.notTracker.Inc()
	ctx.Response.Header.SetContentTypeBytes(contentText)
	ctx.SetStatusCode(status)
	ctx.Response.SetBodyString(text)
}

// base64Get is how "GET /" begins in base64.
const base64Get = "R0VUIC"

// handleGarbage answers what fasthttp cannot read. The connection is closed behind it.
func (t *Tracker) handleGarbage(ctx *fasthttp.RequestCtx, err error) {
	counter := t.metrics.garbage
	status, text := fasthttp.StatusBadRequest, "this is not HTTP\n"
	var small *fasthttp.ErrSmallBuffer
	var net net.Error
	switch {
	case strings.Contains(err.Error(), base64Get):
		// Versions of uTorrent send whole scrapes in base64. The error quotes what came.
		counter = t.metrics.base64
	case errors.As(err, &small):
		status, text = fasthttp.StatusRequestHeaderFieldsTooLarge, "request line and headers are too long\n"
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		status, text = fasthttp.StatusRequestEntityTooLarge, "nothing here takes a body\n"
	case errors.As(err, &net) && net.Timeout():
		status, text = fasthttp.StatusRequestTimeout, "request took too long\n"
	}
	counter.Inc()
	ctx.Response.Reset()
	ctx.Response.Header.SetContentTypeBytes(contentText)
	ctx.SetStatusCode(status)
	ctx.Response.SetBodyString(text)
}

// noHost stands for a Host header that names nothing.
const noHost = "tracker.invalid"

// repairHost makes a Host header one that fasthttp parses, before it answers 400 for it: libtorrent 2.0.8 sends
// "Host: ::1:6969", without brackets, for an IPv6 address in the announce URL. Nothing but the home page reads it.
func repairHost(h *fasthttp.RequestHeader) (unchanged fasthttp.RequestConfig) {
	host := h.Host()
	colon := bytes.LastIndexByte(host, ':')
	name, port := host, []byte(nil)
	if colon >= 0 && !bytes.HasSuffix(host, []byte("]")) {
		name, port = host[:colon], host[colon+1:]
	}
	if isHostName(name) && isDigits(port) {
		return
	}
	if isIPv6(bytes.Trim(name, "[]")) && isDigits(port) {
		if name[0] != '[' {
			h.SetHost("[" + string(name) + "]:" + string(port))
		}
		return
	}
	if isIPv6(host) {
		h.SetHost("[" + string(host) + "]")
		return
	}
	h.SetHost(noHost)
	return
}

// isIPv6 takes no zone, which may have any characters in it.
func isIPv6(b []byte) bool {
	addr, ok := parseHop(b)
	return ok && addr.Is6() && b[0] != '[' && bytes.IndexByte(b, '%') < 0
}

func isHostName(b []byte) bool {
	for _, c := range b {
		switch {
		case c|0x20 >= 'a' && c|0x20 <= 'z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

func isDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
