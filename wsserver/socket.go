package wsserver

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/gobwas/ws"
)

// socket is one WebSocket. It is read by one goroutine, its reader: the epoll loop that watches it, or its own when it is
// a TLS connection, of which crypto/tls can only be asked to wait. Anybody may write to it.
type socket struct {
	server *Server
	loop   *loop    // nil for a stream
	conn   net.Conn // a stream's
	addr   netip.Addr
	place  uint32
	fd     int // -1 for a stream

	// The reader's.
	in          []byte // a frame's beginning; nil most of the time
	message     []byte // the fragments of a message so far
	fragmented  bool
	bad         uint8
	surplus     uint16 // messages dropped since the last that was not
	due         int64  // nanoseconds since the server's start at which the rate is used up to (GCRA)
	members     uint32 // place plus one of the first
	memberCount int
	index       map[memberKey]uint32 // nil while there are few

	lastRead     atomic.Uint32 // seconds since the server's start: the last whole frame
	partialSince atomic.Uint32 // the same: when a frame or message begun, not ended yet, began; 0 for none

	// closing says that nothing more is sent, and that what is read is thrown away: a close frame is on its way, or the
	// connection is lost. It is set under mu.
	closing atomic.Bool

	mu       sync.Mutex // guards what follows
	out      []byte     // whole frames to be written, but that of the first one torn bytes are left
	torn     int
	dirty    bool   // some worker will flush
	blocked  bool   // the kernel takes no more: flushed when the loop hears that it does, or by the stream's writer
	paused   bool   // not read from for a while
	stuck    uint32 // seconds since the server's start when the kernel last took something, while blocked
	closed   bool
	lastPing uint32
	closeBy  uint32 // seconds since the server's start
}

// outBytes is the size of the buffers in which frames are collected between flushes.
const outBytes = 4 << 10

// push puts a frame into t's queue; it is on its way after w.flush. A socket that does not read keeps the newest frames
// that fit into Config.MaxQueue: who waits behind an old offer has gone.
func (w *worker) push(t *socket, frame []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pushLocked(w, frame)
}

func (t *socket) pushLocked(w *worker, frame []byte) {
	if t.closing.Load() || t.closed {
		w.s.metrics.dropped[dropGone].Inc()
		return
	}
	if t.blocked {
		t.queueBlocked(w, frame)
		return
	}
	if len(t.out)+len(frame) > outBytes && len(t.out) > 0 {
		t.flushLocked(w)
		if t.blocked {
			t.queueBlocked(w, frame)
			return
		}
	}
	if len(frame) > outBytes {
		t.writeLocked(w, frame, nil)
		return
	}
	if t.out == nil {
		t.out = w.takeBuffer()
	}
	t.out = append(t.out, frame...)
	if !t.dirty {
		t.dirty = true
		w.dirty = append(w.dirty, t)
	}
}

// flushLocked writes what there is.
func (t *socket) flushLocked(w *worker) {
	if t.closed || t.blocked || len(t.out) == 0 {
		return
	}
	b := t.out
	t.out = nil
	t.writeLocked(w, b, b)
}

// writeLocked writes b, which is whole frames, or keeps what the kernel did not take. buffer is b's to give back.
func (t *socket) writeLocked(w *worker, b, buffer []byte) {
	if t.conn != nil {
		t.writeStream(w, b, buffer)
		return
	}
	n, ok := t.write(b)
	if !ok {
		t.lose()
		w.giveBuffer(buffer)
		return
	}
	if n == len(b) {
		w.giveBuffer(buffer)
		return
	}
	t.block(w, b, n)
	w.giveBuffer(buffer)
}

// block keeps the rest of b, of which n bytes are written, until the kernel has room.
func (t *socket) block(w *worker, b []byte, n int) {
	rest := b[n:]
	if !w.s.buffered.take(len(rest)) {
		// Half a frame cannot be taken back: the socket is of no use any more.
		w.s.metrics.dropped[dropMemory].Inc()
		t.abort(closedMemory)
		return
	}
	torn := 0
	for at := 0; at < n; {
		size := frameBytes(b[at:])
		torn = max(at+size-n, 0)
		at += size
	}
	t.out = append([]byte(nil), rest...)
	t.torn = torn
	t.blocked = true
	t.stuck = t.server.clockNow()
	t.arm()
}

// queueBlocked adds a frame to what waits for the kernel.
func (t *socket) queueBlocked(w *worker, frame []byte) {
	limit := t.server.cfg.MaxQueue
	for len(t.out)+len(frame) > limit && len(t.out) > t.torn {
		t.dropOldest(w)
	}
	if len(t.out)+len(frame) > limit {
		w.s.metrics.dropped[dropQueue].Inc()
		return
	}
	if !w.s.buffered.take(len(frame)) {
		w.s.metrics.dropped[dropMemory].Inc()
		return
	}
	t.out = append(t.out, frame...)
}

// dropOldest takes the oldest whole frame out of the queue: the rest of the torn one moves over it.
func (t *socket) dropOldest(w *worker) {
	size := frameBytes(t.out[t.torn:])
	copy(t.out[size:], t.out[:t.torn])
	// The queue's beginning moves up in its array; append, when it needs a new one, leaves that behind.
	t.out = t.out[size:]
	w.s.buffered.give(size)
	w.s.metrics.dropped[dropQueue].Inc()
}

// unblock goes on writing where the kernel had no room.
func (t *socket) unblock(w *worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || !t.blocked {
		return
	}
	n, ok := t.write(t.out)
	if !ok {
		t.lose()
		n = len(t.out)
	}
	if n > 0 {
		t.stuck = t.server.clockNow()
	}
	w.s.buffered.give(n)
	for left := n; left > 0; {
		if t.torn == 0 {
			t.torn = frameBytes(t.out[n-left:])
		}
		step := min(left, t.torn)
		t.torn -= step
		left -= step
	}
	if t.out = t.out[n:]; len(t.out) == 0 {
		t.out, t.blocked = nil, false
		t.arm()
		if t.closing.Load() {
			t.shutdownWrite()
		}
	}
}

// closeGently sends a close frame and waits, some seconds, for the peer's: a connection that is closed while bytes of the
// peer's are on their way is reset, and the frame with its code is lost.
func (t *socket) closeGently(w *worker, code ws.StatusCode, why closeReason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeGentlyLocked(w, code, why)
}

// closeWait is how many seconds a peer has to answer a close frame.
const closeWait = 5

func (t *socket) closeGentlyLocked(w *worker, code ws.StatusCode, why closeReason) {
	if t.closing.Load() || t.closed {
		return
	}
	t.server.metrics.closed[why].Inc()
	t.pushLocked(w, []byte{0x80 | byte(ws.OpClose), 2, byte(code >> 8), byte(code)})
	t.flushLocked(w)
	t.closing.Store(true)
	t.closeBy = t.server.clockNow() + closeWait
	if !t.blocked {
		t.shutdownWrite()
	}
}

// lose notes that the connection is over. Its reader will find out too, and finish it.
func (t *socket) lose() {
	if !t.closing.Swap(true) {
		t.server.metrics.closed[closedError].Inc()
	}
}

// abort ends the socket without a word; its reader will see the end and finish it.
func (t *socket) abort(why closeReason) {
	if t.closed {
		return
	}
	if !t.closing.Swap(true) {
		t.server.metrics.closed[why].Inc()
	}
	t.shutdown()
}
