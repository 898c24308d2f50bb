package tracker

import (
	"bytes"
	"net"

	"github.com/valyala/fasthttp"

	"spillway/tracker/swarm"
)

// isUpgrade tells a WebSocket handshake from other requests.
func isUpgrade(ctx *fasthttp.RequestCtx) bool {
	return bytes.EqualFold(ctx.Request.Header.Peek(fasthttp.HeaderUpgrade), []byte("websocket"))
}

// handleUpgrade finds out who asks for a WebSocket, as for an announce, and leaves the rest to Config.Upgrade. Any path will
// do: WebTorrent's public lists name trackers with and without one.
func (t *Tracker) handleUpgrade(ctx *fasthttp.RequestCtx, path []byte) {
	_, passkey := routeOf(path)
	addr, err := t.admit(ctx, t.settings.Load(), nil, maxAnnounceLine, passkey)
	if err != nil {
		// Not 200, as for an announce: browsers show their users no more than that it failed.
		t.plain(ctx, fasthttp.StatusForbidden, err.Error()+"\n")
		return
	}
	t.upgrade(ctx, addr)
}

// handleUpgradeOnly is handle for a port that has WebSockets and nothing else.
func (t *Tracker) handleUpgradeOnly(ctx *fasthttp.RequestCtx) {
	defer t.recover(ctx)
	path, _, _ := bytes.Cut(ctx.Request.Header.RequestURI(), []byte("?"))
	switch {
	case t.upgrade != nil && isUpgrade(ctx):
		t.handleUpgrade(ctx, path)
	case string(path) == "/healthz":
		t.handleHealth(ctx)
	default:
		ctx.Response.Header.Set(fasthttp.HeaderUpgrade, "websocket")
		t.plain(ctx, fasthttp.StatusUpgradeRequired, "this port is for WebSockets alone\n")
	}
}

// ServeUpgrades answers WebSocket handshakes on ln until Shutdown, and nothing else.
func (t *Tracker) ServeUpgrades(ln net.Listener) error { return t.upgrades.Serve(ln) }

// Refuses says why a peer may not announce a torrent, in words that make clients stop; "" if it may. A nil peerID asks for
// the torrent alone.
func (t *Tracker) Refuses(infoHash *swarm.InfoHash, peerID *[20]byte) string {
	s := t.settings.Load()
	switch {
	case !s.access.allows(infoHash):
		return string(errUnregistered)
	case peerID != nil && len(s.blocked) > 0 && s.blocks(peerID):
		return string(errBlockedClient)
	}
	return ""
}
