package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// outbox is what waits to be published: for each message its node, its length and itself, one after the other. Two buffers take turns.
type outbox struct {
	woken chan struct{} // holds one

	mu    sync.Mutex // guards buf
	buf   []byte
	spare []byte // runSend's
}

const outHeader = len(ID{}) + 4

// Send has the message delivered to the node, if that is there, within milliseconds. It keeps nothing of message and never waits for
// Redis; false means that nobody will get it.
func (n *Node) Send(to ID, message []byte) bool {
	m := &n.metrics
	switch {
	case len(message) == 0 || len(message) > n.cfg.MaxMessage:
		m.dropped[dropLong].Add(1)
		return false
	case !n.up.Load():
		m.dropped[dropDown].Add(1)
		return false
	}
	n.out.mu.Lock()
	if len(n.out.buf)+outHeader+len(message) > maxQueue {
		n.out.mu.Unlock()
		m.dropped[dropQueue].Add(1)
		return false
	}
	n.out.buf = append(n.out.buf, to[:]...)
	n.out.buf = binary.LittleEndian.AppendUint32(n.out.buf, uint32(len(message)))
	n.out.buf = append(n.out.buf, message...)
	n.out.mu.Unlock()
	poke(n.out.woken)
	return true
}

// waiting is how many bytes wait.
func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.buf)
}

func (n *Node) runSend(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.out.woken:
		}
		o := &n.out
		o.mu.Lock()
		o.buf, o.spare = o.spare[:0], o.buf
		o.mu.Unlock()
		n.send(ctx, o.spare)
		if cap(o.spare) > maxQueue/8 {
			o.spare = nil // a burst's
		}
	}
}

// A payload is what is published at once: payloadVersion, then for each message its length and itself.
const payloadVersion = 1

type payload struct {
	to       ID
	bytes    []byte
	messages uint64
}

// pack makes payloads of an outbox, in the order of the messages of each node.
func pack(b []byte) (payloads []payload) {
	open := map[ID]int{}
	for len(b) >= outHeader {
		to, size := ID(b[:4]), int(binary.LittleEndian.Uint32(b[4:]))
		message := b[outHeader : outHeader+size]
		b = b[outHeader+size:]
		i, ok := open[to]
		if !ok || len(payloads[i].bytes)+4+size > maxPayload {
			i = len(payloads)
			open[to] = i
			payloads = append(payloads, payload{to: to, bytes: []byte{payloadVersion}})
		}
		p := &payloads[i]
		p.bytes = binary.LittleEndian.AppendUint32(p.bytes, uint32(size))
		p.bytes = append(p.bytes, message...)
		p.messages++
	}
	return payloads
}

// unpack calls f with each message of a payload, and tells whether all of it could be read.
func unpack(b []byte, maxMessage int, f func([]byte)) bool {
	if len(b) == 0 || b[0] != payloadVersion {
		return false
	}
	for b = b[1:]; len(b) > 0; {
		if len(b) < 4 {
			return false
		}
		size := binary.LittleEndian.Uint32(b)
		if b = b[4:]; size == 0 || uint64(size) > uint64(len(b)) || uint64(size) > uint64(maxMessage) {
			return false
		}
		f(b[:size:size])
		b = b[size:]
	}
	return true
}

// send publishes what was collected. What fails is lost: an offer is of no use a second later.
func (n *Node) send(ctx context.Context, b []byte) {
	payloads := pack(b)
	if len(payloads) == 0 {
		return
	}
	client, err := n.redis()
	if err != nil {
		for _, p := range payloads {
			n.metrics.dropped[dropFailed].Add(p.messages)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	pipe := client.Pipeline()
	results := make([]*redis.IntCmd, len(payloads))
	for i, p := range payloads {
		if n.link.Clustered() {
			results[i] = pipe.SPublish(ctx, n.channel(p.to), p.bytes)
		} else {
			results[i] = pipe.Publish(ctx, n.channel(p.to), p.bytes)
		}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	failed := false
	for i, p := range payloads {
		heard, err := results[i].Result()
		switch {
		case err != nil:
			failed = true
			n.metrics.dropped[dropFailed].Add(p.messages)
		case heard == 0:
			n.metrics.dropped[dropUnheard].Add(p.messages)
		default:
			n.metrics.sent.Add(p.messages)
		}
	}
	if failed {
		n.up.Store(false) // until the next beat
		poke(n.beatNow)
	}
}

// inbox is what was published for this node and has not been handled.
type inbox struct {
	payloads chan string
	bytes    atomic.Int64
}

// runListen keeps a subscription to this node's channel.
func (n *Node) runListen(ctx context.Context) {
	for wait := timeout / 10; ; wait = min(2*wait, time.Second) {
		if client, err := n.redis(); err == nil {
			var sub *redis.PubSub
			if n.link.Clustered() {
				sub = client.SSubscribe(ctx, n.channel(n.id))
			} else {
				sub = client.Subscribe(ctx, n.channel(n.id))
			}
			if n.listen(ctx, sub) {
				wait = timeout / 10
			}
			n.listening.Store(false)
			_ = sub.Close()
			if ctx.Err() == nil {
				n.metrics.resubscribed.Add(1)
			}
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// listen takes in what comes until the subscription ends, and tells whether it ever stood.
func (n *Node) listen(ctx context.Context, sub *redis.PubSub) (stood bool) {
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	asked := false
	for {
		got, err := sub.ReceiveTimeout(ctx, time.Second)
		var netErr net.Error
		if errors.As(err, &netErr) && netErr.Timeout() && !asked {
			// Nothing has come: is there still somebody?
			asked = true
			if sub.Ping(ctx) == nil {
				continue
			}
		}
		if err != nil {
			return stood
		}
		asked = false
		switch m := got.(type) {
		case *redis.Subscription:
			if strings.HasSuffix(m.Kind, "unsubscribe") { // the slot has moved to another master
				n.link.Reload(ctx)
				return stood
			}
			stood = true
			n.listening.Store(true)
			poke(n.beatNow)
		case *redis.Message:
			n.take(m.Payload)
		}
	}
}

// take puts a payload into the inbox.
func (n *Node) take(payload string) {
	if n.in.bytes.Add(int64(len(payload))) <= maxInbox {
		select {
		case n.in.payloads <- payload:
			return
		default:
		}
	}
	n.in.bytes.Add(-int64(len(payload)))
	n.metrics.dropped[dropInbox].Add(1)
}

func (n *Node) runReceive(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-n.in.payloads:
			n.in.bytes.Add(-int64(len(p)))
			if !unpack([]byte(p), n.cfg.MaxMessage, func(message []byte) {
				n.metrics.received.Add(1)
				n.cfg.Receive(message)
			}) {
				n.metrics.dropped[dropUnreadable].Add(1)
			}
		}
	}
}
