package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/pprofhandler"
)

//go:embed index.html
var indexHTML []byte

// handle is one request. It never redirects and sets no cookie: a browser gains nothing a script has not.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	s.requests.Inc()
	ctx.Response.Header.Set("Cache-Control", "no-store")
	ctx.Response.Header.Set("X-Content-Type-Options", "nosniff")
	if !s.hostAllowed(ctx) {
		s.hostErrors.Inc()
		refuse(ctx, fasthttp.StatusMisdirectedRequest, "unknown Host header; ask for localhost or 127.0.0.1")
		return
	}

	var handler func(*fasthttp.RequestCtx)
	open := false
	switch path := string(ctx.Path()); path {
	case "/":
		handler, open = handleIndex, true
	case "/healthz":
		handler, open = handleHealth, true
	case "/readyz":
		handler, open = s.handleReady, true
	case "/metrics":
		handler, open = s.handleMetrics, s.cfg.OpenMetrics
	case "/api/v1/status":
		handler = s.handleStatus
	default:
		if !strings.HasPrefix(path, "/debug/pprof/") {
			refuse(ctx, fasthttp.StatusNotFound, "no such path; / lists what is here")
			return
		}
		handler = pprofhandler.PprofHandler
	}
	if !open && !s.allow(ctx) {
		return
	}
	if !ctx.IsGet() && !ctx.IsHead() {
		ctx.Response.Header.Set("Allow", "GET, HEAD")
		refuse(ctx, fasthttp.StatusMethodNotAllowed, "only GET and HEAD are known here")
		return
	}
	handler(ctx)
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

func handleIndex(ctx *fasthttp.RequestCtx) {
	ctx.SetContentType("text/html; charset=utf-8")
	ctx.Response.SetBodyRaw(indexHTML)
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

func (s *Server) handleStatus(ctx *fasthttp.RequestCtx) {
	var status any = struct{}{}
	if s.cfg.Status != nil {
		status = s.cfg.Status()
	}
	writeJSON(ctx, status)
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

// bucket lets ten events a second pass.
type bucket struct {
	mu     sync.Mutex // guards the rest
	second int64      // of Unix time
	n      int
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := now.Unix(); s != b.second {
		b.second, b.n = s, 0
	}
	b.n++
	return b.n <= 10
}
