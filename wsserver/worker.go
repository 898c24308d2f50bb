package wsserver

import (
	"time"

	"github.com/gobwas/ws"

	"spillway/tracker/swarm"
)

// worker is what handling messages needs, so that it can be used again for the next. One goroutine has it at a time.
type worker struct {
	s   *Server
	now time.Time

	msg      message
	announce swarm.Announce
	reply    swarm.Reply
	hashes   []swarm.InfoHash
	counts   []swarm.Counts
	payload  []byte // of msg
	key      []byte
	far      []byte    // a message for another node
	frame    []byte    // being made
	dirty    []*socket // to be flushed
	free     [][]byte  // buffers of outBytes
	read     []byte
}

func (s *Server) newWorker() *worker { return &worker{s: s, now: time.Now()} }

// readBuffer holds the longest message, so that most are read with one system call and parsed where they stand.
func (w *worker) readBuffer() []byte {
	if w.read == nil {
		w.read = make([]byte, max(w.s.cfg.MaxMessage+maxHeader, 16<<10))
	}
	return w.read
}

// maxDirty bounds the sockets that wait for a flush, and so the buffers a worker has.
const maxDirty = 128

func (w *worker) takeBuffer() []byte {
	if n := len(w.free); n > 0 {
		b := w.free[n-1]
		w.free = w.free[:n-1]
		return b[:0]
	}
	return make([]byte, 0, outBytes)
}

func (w *worker) giveBuffer(b []byte) {
	if cap(b) == outBytes && len(w.free) < maxDirty {
		w.free = append(w.free, b)
	}
}

// flush writes what was pushed. One write carries all frames a socket got since the last flush.
func (w *worker) flush() { w.flushSome(len(w.dirty)) }

// flushSome does so for n sockets at the most.
func (w *worker) flushSome(n int) {
	n = min(n, len(w.dirty))
	for _, t := range w.dirty[:n] {
		t.mu.Lock()
		t.dirty = false
		t.flushLocked(w)
		t.mu.Unlock()
	}
	left := copy(w.dirty, w.dirty[n:])
	clear(w.dirty[left:])
	w.dirty = w.dirty[:left]
}

// took handles bytes that were read, into t.space() if t has a frame's beginning, else into any buffer; it keeps what is
// left of them.
func (w *worker) took(t *socket, b []byte) {
	defer w.recover(t)
	if t.in != nil {
		t.in = t.in[:len(t.in)+len(b)]
		b = t.in
	}
	t.keep(w.consume(t, b))
}

// consume handles the whole frames in b and returns the rest.
func (w *worker) consume(t *socket, b []byte) (rest []byte) {
	for len(b) > 0 {
		if t.closing.Load() {
			return nil
		}
		h, n := parseHeader(b)
		if n == 0 {
			return b
		}
		if code, ok := t.check(&h); !ok {
			w.fail(t, code, closedProtocol)
			return nil
		}
		end := n + int(h.Length)
		if len(b) < end {
			return b
		}
		w.handleFrame(t, &h, b[n:end])
		b = b[end:]
	}
	return nil
}

// check refuses a frame by its header, before its payload is waited for.
func (t *socket) check(h *ws.Header) (code ws.StatusCode, ok bool) {
	state := ws.StateServerSide
	if t.fragmented {
		state = state.Set(ws.StateFragmented)
	}
	if ws.CheckHeader(*h, state) != nil {
		return ws.StatusProtocolError, false
	}
	if limit := int64(t.server.cfg.MaxMessage - len(t.message)); h.Length < 0 || h.Length > limit && !h.OpCode.IsControl() {
		return ws.StatusMessageTooBig, false
	}
	return 0, true
}

// fail ends a socket on which nothing more is to be expected: its peer leaves its swarms at once.
func (w *worker) fail(t *socket, code ws.StatusCode, why closeReason) {
	t.closeGently(w, code, why)
	t.leaveAll(w)
}

func (w *worker) handleFrame(t *socket, h *ws.Header, payload []byte) {
	t.lastRead.Store(w.s.clock(w.now))
	switch h.OpCode {
	case ws.OpClose:
		w.fail(t, ws.StatusNormalClosure, closedPeer)
	case ws.OpPong:
	case ws.OpPing:
		if w.tooFast(t) {
			return
		}
		ws.Cipher(payload, h.Mask, 0)
		w.frame = appendHeader(w.frame[:0], ws.OpPong, len(payload))
		w.frame = append(w.frame, payload...)
		w.push(t, w.frame)
	default:
		if !h.Fin || t.fragmented {
			w.handleFragment(t, h, payload)
			return
		}
		if w.tooFast(t) {
			return
		}
		// Text and binary alike: some clients send JSON in binary frames.
		ws.Cipher(payload, h.Mask, 0)
		w.handleMessage(t, payload)
	}
}

// minFragment is how long a fragment is, but for the last, that does not count as a message.
const minFragment = 512

// handleFragment collects a message that came in several frames.
func (w *worker) handleFragment(t *socket, h *ws.Header, payload []byte) {
	if !w.s.buffered.take(len(payload)) {
		w.s.metrics.dropped[dropMemory].Inc()
		w.fail(t, statusTryAgainLater, closedMemory)
		return
	}
	ws.Cipher(payload, h.Mask, 0)
	t.message = append(t.message, payload...)
	t.fragmented = !h.Fin
	if t.fragmented {
		if len(payload) < minFragment && w.tooFast(t) {
			// Else a message could be sent byte by byte at no cost to the rate.
			w.fail(t, ws.StatusPolicyViolation, closedProtocol)
		}
		return
	}
	whole := t.message
	t.message = nil
	w.s.buffered.give(len(whole))
	if !w.tooFast(t) {
		w.handleMessage(t, whole)
	}
}

// pauseAfter is how many messages are dropped one after the other before a socket is not read from for a while: then it
// costs nothing at all, and its peer's kernel tells it to wait.
const pauseAfter = 32

// tooFast counts a message against the socket's rate (GCRA) and tells whether it is to be dropped.
func (w *worker) tooFast(t *socket) bool {
	now := int64(w.now.Sub(w.s.started))
	due := max(t.due, now)
	if due-now > w.s.allowed {
		w.s.metrics.announceSource.Inc()
		if t.surplus++; t.surplus >= pauseAfter {
			t.surplus = 0
			w.s.pause(t, w.now)
		}
		return true
	}
	t.surplus = 0
	t.due = due + w.s.spacing
	return false
}

// space is where the bytes that follow a frame's beginning are to be read to.
func (t *socket) space() []byte {
	if len(t.in) == cap(t.in) {
		t.resize(t.in)
	}
	return t.in[len(t.in):cap(t.in)]
}

// keep holds on to a frame's beginning, rest, which is in t.in or else in somebody's buffer.
func (t *socket) keep(rest []byte) {
	switch {
	case len(rest) == 0:
		t.forget()
		if t.message == nil && !t.fragmented {
			t.partialSince.Store(0)
			return
		}
	case t.in == nil:
		t.resize(rest)
	default:
		t.in = t.in[:copy(t.in[:cap(t.in)], rest)]
	}
	if t.partialSince.Load() == 0 {
		t.partialSince.Store(max(t.server.clockNow(), 1))
	}
}

// resize moves rest to a buffer with more room: never more than the frame needs, and not much more than came, so that a
// header that promises 64 KiB costs what was sent.
func (t *socket) resize(rest []byte) {
	need := maxHeader
	if h, n := parseHeader(rest); n > 0 {
		need = n + int(h.Length)
	}
	size := max(min(need, max(4*len(rest), 1<<10)), len(rest)+1)
	if !t.server.buffered.take(size) {
		// Half a frame cannot be given back: the socket is of no use any more, and nothing of it is kept.
		t.server.metrics.dropped[dropMemory].Inc()
		t.mu.Lock()
		t.abort(closedMemory)
		t.mu.Unlock()
		t.forget()
		return
	}
	b := make([]byte, len(rest), size)
	copy(b, rest)
	t.forget()
	t.in = b[:len(rest):size]
}

func (t *socket) forget() {
	t.server.buffered.give(cap(t.in))
	t.in = nil
}
