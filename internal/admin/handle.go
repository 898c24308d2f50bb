package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/pprofhandler"
)

// route is what is at a path. A method without a function is not allowed there.
type route struct {
	open             bool // without the token
	get, put, delete func(*fasthttp.RequestCtx)
}

// handle is one request. It never redirects and sets no cookie: a browser gains nothing a script has not.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	defer s.recover(ctx)
	s.requests.Inc()
	header := &ctx.Response.Header
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", pagePolicy)
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Referrer-Policy", "no-referrer")
	if !s.hostAllowed(ctx) {
		s.hostErrors.Inc()
		refuse(ctx, fasthttp.StatusMisdirectedRequest, "unknown Host header; ask for localhost or 127.0.0.1")
		return
	}
	r, ok := s.route(ctx)
	if !ok {
		refuse(ctx, fasthttp.StatusNotFound, s.nothingAt(ctx))
		return
	}
	if !r.open && !s.allow(ctx) {
		return
	}
	var handler func(*fasthttp.RequestCtx)
	switch {
	case ctx.IsGet(), ctx.IsHead():
		handler = r.get
	case ctx.IsPut():
		handler = r.put
	case ctx.IsDelete():
		handler = r.delete
	}
	if handler == nil {
		allowed := r.methods()
		header.Set("Allow", allowed)
		refuse(ctx, fasthttp.StatusMethodNotAllowed, "only "+strings.ReplaceAll(allowed, ", ", " and ")+" are known here")
		return
	}
	if !ctx.IsGet() && !ctx.IsHead() && !s.allowChange(ctx) {
		return
	}
	handler(ctx)
}

func (r *route) methods() string {
	var methods []string
	if r.get != nil {
		methods = append(methods, "GET", "HEAD")
	}
	if r.put != nil {
		methods = append(methods, "PUT")
	}
	if r.delete != nil {
		methods = append(methods, "DELETE")
	}
	return strings.Join(methods, ", ")
}

// route finds what is at the request's path. Values of blocks may hold escaped slashes and dots, so that path is taken as it came.
func (s *Server) route(ctx *fasthttp.RequestCtx) (route, bool) {
	path := string(ctx.Path())
	if f, ok := s.files[path]; ok {
		return route{open: true, get: f.serve}, true
	}
	switch path {
	case "/healthz":
		return route{open: true, get: handleHealth}, true
	case "/readyz":
		return route{open: true, get: s.handleReady}, true
	case "/metrics":
		return route{open: s.cfg.OpenMetrics, get: s.handleMetrics}, true
	}
	if strings.HasPrefix(path, "/debug/pprof/") {
		return route{get: pprofhandler.PprofHandler}, true
	}
	if s.cfg.Relay != nil {
		return s.relayRoute(path)
	}
	if rest, ok := strings.CutPrefix(string(ctx.URI().PathOriginal()), "/api/v1/blocks/"); ok {
		kind, value, _ := strings.Cut(rest, "/")
		change := func(ctx *fasthttp.RequestCtx) { s.block(ctx, kind, value) }
		return route{put: change, delete: change}, true
	}
	rest, ok := strings.CutPrefix(path, "/api/v1/")
	if !ok {
		return route{}, false
	}
	return s.apiRoute(strings.Cut(rest, "/"))
}

// apiRoute finds what is below /api/v1/.
func (s *Server) apiRoute(noun, name string, named bool) (route, bool) {
	if named {
		switch noun {
		case "switches":
			return route{put: func(ctx *fasthttp.RequestCtx) { s.turn(ctx, name) }}, true
		case "limits":
			return route{put: func(ctx *fasthttp.RequestCtx) { s.setLimit(ctx, name) }}, true
		case "torrents":
			return route{get: func(ctx *fasthttp.RequestCtx) { s.handleTorrent(ctx, name) }}, true
		}
		return route{}, false
	}
	var answer func() any
	switch noun {
	case "status":
		answer = s.status
	case "switches":
		answer = func() any { return Switches{s.switches()} }
	case "blocks":
		answer = s.blocks
	case "talkers":
		answer = s.talkers
	case "limits":
		answer = func() any { return Limits{listOf(s.op.Limits())} }
	case "history":
		answer = s.history
	default:
		return route{}, false
	}
	return route{get: func(ctx *fasthttp.RequestCtx) { writeJSON(ctx, answer()) }}, true
}

// nothingAt says that there is nothing at the request's path.
func (s *Server) nothingAt(ctx *fasthttp.RequestCtx) string {
	if s.cfg.Relay != nil && strings.HasPrefix(string(ctx.Path()), "/api/v1/") {
		return "this is a relay: it has /api/v1/status and /api/v1/history; switches, blocks and limits are the tracker's, on its own admin.listen"
	}
	return "no such path; docs/operator-page.md lists what is here"
}

// recover keeps the tracker alive when the operator's listener has a bug: it is looked at when things are bad already.
func (s *Server) recover(ctx *fasthttp.RequestCtx) {
	if v := recover(); v != nil {
		s.log.Error("BUG: an admin request panicked", "path", string(ctx.Path()), "panic", v, "stack", string(debug.Stack()))
		ctx.Response.Reset()
		refuse(ctx, fasthttp.StatusInternalServerError, "internal error; the log has it")
		ctx.SetConnectionClose()
	}
}

// hostAllowed guards against DNS rebinding: a web page whose own name an attacker points at 127.0.0.1 sends that name as Host.
func (s *Server) hostAllowed(ctx *fasthttp.RequestCtx) bool {
	local, ok := ctx.LocalAddr().(*net.TCPAddr)
	if !ok || !local.IP.IsLoopback() {
		return true // no browser of this machine reaches a unix socket, and the network's address is no secret
	}
	host := string(ctx.Host())
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.IsLoopback()
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	for _, h := range s.cfg.Hosts {
		if strings.EqualFold(host, h) {
			return true
		}
	}
	return false
}

// allow checks the token, and answers for itself if it is missing or wrong. A good token always passes: were it refused
// while somebody guesses, guessing would take the kill switch out of the operator's hand. A guess has no chance
// (minTokenLen), so the bound on guesses only keeps them cheap.
func (s *Server) allow(ctx *fasthttp.RequestCtx) bool {
	scheme, token, _ := strings.Cut(string(ctx.Request.Header.Peek("Authorization")), " ")
	hash := sha256.Sum256([]byte(strings.TrimSpace(token)))
	if strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(hash[:], s.token[:]) == 1 {
		return true
	}
	s.authErrors.Inc()
	if !s.badTokens.take(time.Now()) {
		ctx.SetConnectionClose()
		refuse(ctx, fasthttp.StatusTooManyRequests, "too many requests with a wrong token")
		return false
	}
	s.log.Warn("admin request refused: token missing or wrong", "from", ctx.RemoteAddr())
	ctx.Response.Header.Set("WWW-Authenticate", `Bearer realm="spillway"`)
	refuse(ctx, fasthttp.StatusUnauthorized, "token missing or wrong; send Authorization: Bearer and the content of data_dir/"+TokenFile)
	return false
}

// handleHealth answers 200 as long as the process answers at all.
func handleHealth(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("ok\n") }

func (s *Server) handleReady(ctx *fasthttp.RequestCtx) {
	if !s.ready.Load() {
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
		ctx.SetBodyString("not ready: starting or draining\n")
		return
	}
	ctx.SetBodyString("ready\n")
}

func (s *Server) status() any {
	st := s.op.Status()
	st.Listen = listOf(st.Listen)
	st.Load.BrownoutSteps = listOf(st.Load.BrownoutSteps)
	st.Switches = s.switches()
	st.Endpoints = listOf(st.Endpoints)
	return st
}

func (s *Server) switches() []Switch {
	list := []Switch{}
	for _, state := range s.op.Switches() {
		list = append(list, switchOf(state))
	}
	return list
}

func (s *Server) blocks() any {
	b := s.op.Blocks()
	b.Blocks, b.Proposed = listOf(b.Blocks), listOf(b.Proposed)
	return b
}

func (s *Server) talkers() any {
	t := s.op.Talkers()
	for _, list := range []*[]Talker{&t.Sources, &t.Prefixes, &t.UserAgents, &t.PeerIDs, &t.InfoHashes} {
		*list = listOf(*list)
	}
	return t
}

func (s *Server) history() any {
	if s.cfg.History == nil {
		return &History{}
	}
	return s.cfg.History
}

func (s *Server) handleTorrent(ctx *fasthttp.RequestCtx, name string) {
	var hash [20]byte
	if len(name) != 2*len(hash) {
		refuse(ctx, fasthttp.StatusBadRequest, "hash: must be an info hash of 40 hex digits")
		return
	}
	if _, err := hex.Decode(hash[:], []byte(name)); err != nil {
		refuse(ctx, fasthttp.StatusBadRequest, "hash: must be an info hash of 40 hex digits")
		return
	}
	t, ok := s.op.Torrent(hash)
	if !ok {
		refuse(ctx, fasthttp.StatusNotFound, "hash: no such torrent here")
		return
	}
	writeJSON(ctx, t)
}

// refuse answers {"error": why}, as each error of this listener is.
func refuse(ctx *fasthttp.RequestCtx, code int, why string) {
	ctx.SetStatusCode(code)
	writeJSON(ctx, map[string]string{"error": why})
}

func writeJSON(ctx *fasthttp.RequestCtx, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("BUG: admin: " + err.Error()) // what cannot be encoded is in our own types
	}
	ctx.SetContentType("application/json")
	ctx.SetBody(append(body, '\n'))
}
