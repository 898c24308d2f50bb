package wsserver

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"

	"spillway/shedder"
)

// refusal is why a handshake got no socket.
type refusal uint8

const (
	refusedNot refusal = iota
	refusedSwitch
	refusedFull
	refusedSource
	refusedOrigin
	refusedBad // not a handshake RFC 6455 knows
	refusedGone
	refusedShed   // there is too much to do
	refusedBudget // or of this source
	refusedRule
	refusalCount
)

func (r refusal) String() string {
	return [...]string{"", "switch", "max_conns", "max_conns_per_ip", "origin", "handshake", "gone", "shed", "budget", "rule"}[r]
}

// Upgrade answers a WebSocket handshake of client. What may not connect gets 503 and no more, before the 101: WebTorrent
// backs off from a refused handshake for up to an hour, and comes straight back to a socket that was opened and
// closed. What may connect is taken away from fasthttp when the handler returns: ctx's server must have
// KeepHijackedConns set.
func (s *Server) Upgrade(ctx *fasthttp.RequestCtx, client netip.Addr) {
	var accept [28]byte
	client = client.Unmap().WithZone("")
	why := s.check(ctx, &accept)
	if why == refusedNot {
		why = s.room(client)
	}
	if why == refusedNot {
		why = s.admit(ctx, client)
	}
	if why != refusedNot {
		s.refuse(ctx, why)
		return
	}
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(c net.Conn) { s.adopt(c, client, &accept) })
}

// room is asked once more when the connection is ours; by then it may be gone.
func (s *Server) room(client netip.Addr) refusal {
	if s.Mode() != shedder.On {
		return refusedSwitch
	}
	return s.sockets.room(client, s.MaxConns(), s.cfg.MaxConnsPerIP)
}

// admit asks the rules and the gate about a handshake.
func (s *Server) admit(ctx *fasthttp.RequestCtx, client netip.Addr) refusal {
	gate := s.cfg.Gate
	if gate == nil {
		return refusedNot
	}
	if rules := gate.Rules; !rules.Empty() && (rules.MatchSource(client) || rules.MatchUserAgent(ctx.Request.Header.UserAgent())) {
		return refusedRule
	}
	switch gate.Admit(&shedder.Request{Endpoint: shedder.WS, Class: shedder.Upgrade, Source: client, Now: ctx.Time(), Age: -1}) {
	case shedder.Shed:
		return refusedShed
	case shedder.OverBudget:
		return refusedBudget
	case shedder.Refuse:
		return refusedSwitch
	}
	return refusedNot
}

// check reads a handshake (RFC 6455, 4.2.1). No extension and no protocol is ever chosen: compression costs a window of
// memory a socket, and no WebTorrent client asks for a protocol.
func (s *Server) check(ctx *fasthttp.RequestCtx, accept *[28]byte) refusal {
	h := &ctx.Request.Header
	key := h.Peek("Sec-WebSocket-Key")
	if !ctx.IsGet() || !h.IsHTTP11() || !h.ConnectionUpgrade() || len(key) != 24 ||
		string(h.Peek("Sec-WebSocket-Version")) != "13" {
		return refusedBad
	}
	// Native clients send no origin; those that lie about it are not who the list is against.
	if origin := h.Peek("Origin"); s.origins != nil && len(origin) > 0 {
		if _, ok := s.origins[string(origin)]; !ok {
			return refusedOrigin
		}
	}
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	var salted [24 + len(guid)]byte
	copy(salted[copy(salted[:], key):], guid)
	sum := sha1.Sum(salted[:])
	base64.StdEncoding.Encode(accept[:], sum[:])
	return refusedNot
}

func (s *Server) refuse(ctx *fasthttp.RequestCtx, why refusal) {
	s.metrics.refused[why].Inc()
	ctx.Response.Header.SetContentType("text/plain")
	// A handshake that was refused is worth no connection.
	ctx.SetConnectionClose()
	switch why {
	case refusedBad:
		ctx.SetStatusCode(fasthttp.StatusUpgradeRequired)
		ctx.Response.Header.Set("Upgrade", "websocket")
		ctx.Response.Header.Set("Sec-WebSocket-Version", "13")
		ctx.SetBodyString("this is not a WebSocket handshake, version 13\n")
	case refusedOrigin:
		ctx.SetStatusCode(fasthttp.StatusForbidden)
		ctx.SetBodyString("this web site may not use this tracker\n")
	default:
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
		ctx.Response.Header.Set("Retry-After", "600") // no client reads it; proxies do
		ctx.SetBodyString("no WebSockets here now\n")
	}
}

// handshakeTimeout bounds the write of the 101, which fits any socket's buffer.
const handshakeTimeout = 5 * time.Second

// adopt answers 101 and makes c a socket. It runs in a goroutine that fasthttp started, and which ends with it.
func (s *Server) adopt(c net.Conn, client netip.Addr, accept *[28]byte) {
	raw := c
	if u, ok := c.(interface{ UnsafeConn() net.Conn }); ok {
		raw = u.UnsafeConn()
	}
	place, why := s.sockets.reserve(client, s.MaxConns(), s.cfg.MaxConnsPerIP)
	if why != refusedNot {
		// Others took the last place since Upgrade looked. Still before the 101.
		s.metrics.refused[why].Inc()
		_ = raw.SetDeadline(time.Now().Add(handshakeTimeout))
		_, _ = raw.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
		_ = raw.Close()
		return
	}
	defer s.sockets.adopting.Done()
	early := readBuffered(c)
	_ = raw.SetDeadline(time.Now().Add(handshakeTimeout))
	const head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	b := append(make([]byte, 0, len(head)+len(accept)+4), head...)
	b = append(append(b, accept[:]...), "\r\n\r\n"...)
	if _, err := raw.Write(b); err != nil {
		s.metrics.refused[refusedGone].Inc()
		_ = raw.Close()
		s.sockets.release(place, client)
		return
	}
	_ = raw.SetDeadline(time.Time{})
	s.metrics.opened.Inc()

	t := &socket{server: s, addr: client, place: place, fd: -1}
	t.lastRead.Store(s.clockNow())
	if s.detach(t, raw) {
		_ = raw.Close() // the descriptor is ours by another number; this gives back the place among http.max_conns
	} else {
		t.conn = raw
		leaveDoor(raw)
		boundBuffer(raw)
	}
	if len(early) > 0 {
		w := s.workers.Get().(*worker)
		w.now = time.Now()
		w.took(t, early)
		w.flush()
		s.workers.Put(w)
	}
	s.sockets.places[place].Store(t)
	if t.conn != nil {
		s.running.Add(1)
		go t.readStream()
		return
	}
	if err := t.watch(); err != nil {
		if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ENOSPC) { // there is no room, which many sockets can cause
			s.erred(err)
		}
		t.finish(closedError)
	}
}

// readBuffered returns what came with the handshake and is in fasthttp's buffer: frames that a client should not send so
// early (RFC 6455, 4.1), which is no reason to lose them.
func readBuffered(c net.Conn) (early []byte) {
	_ = c.SetReadDeadline(time.Unix(1, 0)) // so that nothing is waited for
	b := make([]byte, 256)
	for {
		n, err := c.Read(b)
		early = append(early, b[:n]...)
		if err != nil || n == 0 {
			return early
		}
	}
}
