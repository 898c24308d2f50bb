package wsserver

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"spillway/shedder"
)

const (
	sweepTick   = 250 * time.Millisecond
	sweepTicks  = 20          // ticks in which all sockets are looked at once
	drainTime   = time.Minute // over which Drain closes sockets
	offTicks    = 2           // after which sockets that were told to close are cut
	pauseTime   = time.Second // for which a socket above its rate is not read from
	partialTime = 30          // seconds for a message to be whole
	reportEvery = 4 * 60      // ticks between two lines of what was refused
	offerTicks  = int(maxOfferAge / 2 / sweepTick)
)

// sweep does what has to do with time, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepTick)
	defer ticker.Stop()
	w := s.newWorker()
	from, off := 0, 0
	var draining time.Time // since when; zero: not
	var reported report
	for tick := 1; ; tick++ {
		select {
		case <-ctx.Done():
			return
		case <-s.switched:
			if w.now = time.Now(); s.Mode() == shedder.Off {
				s.drain(w, 1) // who turns it off during a flood does not want to wait for a tick
			}
			continue
		case w.now = <-ticker.C:
		}
		s.resume(w.now)
		if tick%offerTicks == 0 {
			s.offers.rotate()
		}
		if tick%reportEvery == 0 {
			reported = s.report(reported)
		}
		switch s.Mode() {
		case shedder.Drain:
			if draining.IsZero() {
				draining = w.now
			}
			s.drain(w, drainTicks(w.now.Sub(draining)))
		case shedder.Off:
			s.drain(w, 1)
			if off++; off == offTicks {
				s.abortAll()
			}
		}
		if s.Mode() != shedder.Drain {
			draining = time.Time{}
		}
		if s.Mode() != shedder.Off {
			off = 0
		}
		now := s.clock(w.now)
		share := s.sockets.given()/sweepTicks + 1
		made := s.sockets.each(from, from+share, func(t *socket) { t.visit(w, now) })
		if from += share; from >= made {
			from = 0
		}
		w.flush()
	}
}

// visit looks at one socket: now is in seconds since the server's start.
func (t *socket) visit(w *worker, now uint32) {
	cfg := &w.s.cfg
	silent := now - min(t.lastRead.Load(), now)
	partial := t.partialSince.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
	case t.closing.Load():
		if now >= t.closeBy {
			t.shutdown()
		}
	case t.blocked && now-min(t.stuck, now) >= uint32(writeTimeout/time.Second):
		t.abort(closedSlow)
	case partial != 0 && now-min(partial, now) >= partialTime:
		t.closeGentlyLocked(w, ws.StatusPolicyViolation, closedSlow)
	case silent >= uint32(cfg.Idle/time.Second):
		t.closeGentlyLocked(w, ws.StatusGoingAway, closedIdle)
	case silent >= uint32(cfg.Ping/time.Second) && now-min(t.lastPing, now) >= uint32(cfg.Ping/time.Second):
		// Browsers never ping, and a CDN cuts a WebSocket that is silent for 100 seconds.
		t.lastPing = now
		t.pushLocked(w, pingFrame)
	}
}

var pingFrame = []byte{0x80 | byte(ws.OpPing), 0}

// drainTicks is how many ticks are left of a drain that has taken so long: by the clock, for a busy machine loses ticks, and a
// minute by those was 71 seconds at six processes a core.
func drainTicks(taken time.Duration) int { return int((drainTime - taken) / sweepTick) }

// drain closes each socket with the chance 1/left: over all ticks left, every socket is as likely to go in one as in
// another, so that clients do not come back together.
func (s *Server) drain(w *worker, left int) {
	n := 0
	s.sockets.each(0, len(s.sockets.places), func(t *socket) {
		if left > 1 && rand.IntN(left) != 0 {
			return
		}
		t.closeGently(w, statusTryAgainLater, closedDrained)
		if n++; n%maxDirty == 0 {
			w.flush()
		}
	})
	w.flush()
}

// abortAll cuts the sockets whose close frame was not answered.
func (s *Server) abortAll() {
	s.sockets.each(0, len(s.sockets.places), func(t *socket) {
		t.mu.Lock()
		t.abort(closedDrained)
		t.mu.Unlock()
	})
}

// closeAll ends every socket. It takes handshakes under way to their end first.
func (s *Server) closeAll() {
	s.sockets.close()
	s.sockets.adopting.Wait()
	w := s.newWorker()
	n := 0
	s.sockets.each(0, len(s.sockets.places), func(t *socket) {
		t.closeGently(w, ws.StatusGoingAway, closedShutdown)
		if n++; n%maxDirty == 0 {
			w.flush()
		}
	})
	w.flush()
	s.stopLoops()
	s.looping.Wait()
	// Nobody reads the loops' sockets any more: their reader is this goroutine.
	s.sockets.each(0, len(s.sockets.places), func(t *socket) {
		if t.conn == nil {
			t.finish(closedShutdown)
			return
		}
		t.mu.Lock()
		t.shutdown()
		t.mu.Unlock()
	})
}

// pausedSockets are those that are not read from for a while.
type pausedSockets struct {
	mu    sync.Mutex // guards queue
	queue []pausedSocket
}

type pausedSocket struct {
	t     *socket
	until time.Time
}

// pause stops reading from a socket whose peer sends far above the rate. The caller is its reader.
func (s *Server) pause(t *socket, now time.Time) {
	t.mu.Lock()
	again := t.paused
	t.paused = true
	if !again {
		t.arm()
	}
	t.mu.Unlock()
	if again {
		return // the rest of what was read before the first pause
	}
	s.metrics.paused.Inc()
	s.paused.mu.Lock()
	defer s.paused.mu.Unlock()
	s.paused.queue = append(s.paused.queue, pausedSocket{t, now.Add(pauseTime)})
}

// resume reads again from those whose time has come, the queue's first.
func (s *Server) resume(now time.Time) {
	s.paused.mu.Lock()
	due := 0
	for due < len(s.paused.queue) && !s.paused.queue[due].until.After(now) {
		due++
	}
	ready := slices.Clone(s.paused.queue[:due])
	s.paused.queue = slices.Delete(s.paused.queue, 0, due)
	s.paused.mu.Unlock()
	for _, p := range ready {
		p.t.mu.Lock()
		p.t.paused = false
		p.t.arm()
		p.t.mu.Unlock()
	}
}

// report is what strangers did wrong, so far.
type report struct{ bad, fast, refused, dropped, closed uint64 }

// report logs what came on top of the last report, in one line, if anything did.
func (s *Server) report(last report) report {
	m := &s.metrics
	r := report{bad: m.announceBad.Get(), fast: m.announceSource.Get()}
	for why := refusedSwitch; why < refusalCount; why++ {
		r.refused += m.refused[why].Get()
	}
	for why := range dropCount {
		r.dropped += m.dropped[why].Get()
	}
	for _, why := range [...]closeReason{closedProtocol, closedSlow, closedMemory} {
		r.closed += m.closed[why].Get()
	}
	if r != last {
		s.log.Info("WebSocket peers turned away in the last minute", "bad", r.bad-last.bad, "above_ws.rate", r.fast-last.fast,
			"handshakes", r.refused-last.refused, "frames_dropped", r.dropped-last.dropped, "closed", r.closed-last.closed)
	}
	return r
}
