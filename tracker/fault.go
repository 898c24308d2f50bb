package tracker

import (
	"fmt"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// What is our own fault: a panic, and what a store answers that makes no sense. An endpoint that does so in a loop switches itself
// off (Gate.Fault, Gate.Erred). Nothing that a client sends may count.

func (t *Tracker) recover(ctx *fasthttp.RequestCtx) {
	if v := recover(); v != nil {
		t.metrics.panics.Inc()
		t.log.Error("BUG: a request panicked", "panic", v, "stack", string(debug.Stack()))
		t.gate.Fault(endpointOf(ctx), time.Now())
		ctx.Response.Reset()
		t.plain(ctx, fasthttp.StatusInternalServerError, "internal error\n")
		ctx.SetConnectionClose()
	}
}

// erred tells of an error that is no client's.
func (t *Tracker) erred(e shedder.Endpoint, err error) {
	t.log.Error("BUG: a request met an error of our own", "endpoint", e.String(), "err", err)
	t.gate.Erred(e, time.Now())
}

// checkReply tells whether a store's reply to a is one that can be sent on.
func checkReply(a *swarm.Announce, r *swarm.Reply) error {
	const size4, size6 = len(swarm.Endpoint4{}), len(swarm.Endpoint6{})
	if len(r.Peers4)%size4 == 0 && len(r.Peers6)%size6 == 0 && len(r.Peers4)/size4+len(r.Peers6)/size6 <= max(a.NumWant, 0) {
		return nil
	}
	return fmt.Errorf("the store's reply: %d and %d bytes of peers, %d peers wanted", len(r.Peers4), len(r.Peers6), a.NumWant)
}

// checkCounts does so for a scrape.
func checkCounts(hashes []swarm.InfoHash, counts []swarm.Counts) error {
	if len(counts) == len(hashes) {
		return nil
	}
	return fmt.Errorf("the store's reply: counts of %d torrents, %d asked for", len(counts), len(hashes))
}
