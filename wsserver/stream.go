package wsserver

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// A stream is a socket whose connection is not a bare descriptor: TLS, or anything where there is no epoll. It costs a
// goroutine and a read buffer, and, while something is written, one more goroutine; ws.max_conns bounds them with the rest.

// streamReadBytes is what a stream reads at once. A TLS record has up to 16 KiB, which crypto/tls buffers anyway.
const streamReadBytes = 2 << 10

// writeTimeout is how long a socket may take nothing of what is sent to it.
const writeTimeout = 30 * time.Second

func (t *socket) readStream() {
	defer t.server.running.Done()
	b := make([]byte, streamReadBytes)
	for {
		space := b
		if t.in != nil {
			space = t.space()
		}
		n, err := t.conn.Read(space)
		if n > 0 {
			w := t.server.workers.Get().(*worker)
			w.now = time.Now()
			w.took(t, space[:n])
			w.flush()
			t.server.workers.Put(w)
			t.waitPause()
		}
		if err != nil {
			why := closedError
			if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
				why = closedPeer
			}
			t.finish(why)
			return
		}
	}
}

// waitPause holds a stream's reader back while it is above its rate.
func (t *socket) waitPause() {
	t.mu.Lock()
	paused := t.paused && !t.closing.Load()
	t.mu.Unlock()
	if paused {
		time.Sleep(pauseTime)
	}
}

// writeStream queues b and sees to it that somebody writes. The caller holds t.mu.
func (t *socket) writeStream(w *worker, b, buffer []byte) {
	t.queueBlocked(w, b)
	w.giveBuffer(buffer)
	if t.blocked || len(t.out) == 0 {
		return
	}
	t.blocked = true
	t.stuck = t.server.clockNow()
	t.server.running.Add(1) // its reader is counted still, or its adoption: t is not closed
	go t.writeQueued()
}

// writeQueued writes until the queue is empty.
func (t *socket) writeQueued() {
	defer t.server.running.Done()
	t.mu.Lock()
	for len(t.out) > 0 && !t.closed {
		b := t.out
		t.out = nil
		t.stuck = t.server.clockNow()
		t.mu.Unlock()
		_ = t.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := t.conn.Write(b)
		t.mu.Lock()
		t.server.buffered.give(len(b))
		if err != nil {
			t.abort(closedSlow)
			break
		}
	}
	t.blocked = len(t.out) > 0 // after an error: finish gives it back
	last := t.closing.Load() && !t.closed
	t.mu.Unlock()
	if c, ok := t.conn.(closeWriter); ok && last {
		_ = c.CloseWrite() // may wait for the peer: not under the lock
	}
}

// closeStream closes the connection below TLS, whose own Close may wait for the peer.
func (t *socket) closeStream() { _ = below(t.conn).Close() }

// below is the connection under all of TLS.
func below(c net.Conn) net.Conn {
	for {
		n, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = n.NetConn()
	}
}

// leaveDoor gives back the place among http.max_conns of a connection that cannot be closed, as it is inside t.conn.
func leaveDoor(c net.Conn) {
	if l, ok := below(c).(interface{ Leave() }); ok {
		l.Leave()
	}
}

// closeWriter is what a TLS connection can do: close_notify says that nothing follows.
type closeWriter interface{ CloseWrite() error }
