package listen

import (
	"bytes"
	"time"
)

// maxAge bounds the ages that are believed. The kernel's stamps are of the clock that people set.
const maxAge = 10 * time.Second

// readGated is Read where there is a Gate: it tells it how old each request was, and answers those that are refused.
func (c *Conn) readGated(b []byte) (int, error) {
	gate := c.door.cfg.Gate
	for {
		if !c.sampled.IsZero() {
			gate.Spent(time.Since(c.sampled), false)
			c.sampled = time.Time{}
		}
		n, stamp, err := c.readSome(b)
		if err != nil {
			return n, err
		}
		begins := c.requests == 0 || c.answered && c.whole
		c.answered, c.decided = false, false
		c.whole = bytes.HasSuffix(b[:n], endOfHead)
		if !begins {
			return n, nil
		}
		first := c.requests == 0
		c.requests = min(c.requests+1, 2)
		now := time.Now()
		c.age = -1
		if stamp != 0 {
			if age := time.Duration(now.UnixNano() - stamp); age >= 0 && age < maxAge {
				c.age = age
				gate.Observe(age, first)
			}
		}
		reply := c.early(b[:n], first, now)
		if reply == nil {
			if stamp>>8%64 == 0 && c.whole {
				c.sampled = now
			}
			return n, nil
		}
		// What it costs is looked at now and then, without the wait.
		var spent time.Duration
		looked := stamp>>8%16 == 0
		if looked {
			spent = time.Since(now)
		}
		gate.Park()
		if looked {
			now = time.Now()
		}
		if _, err := c.Conn.Write(reply); err != nil {
			return 0, err
		}
		if looked {
			gate.Spent(spent+time.Since(now), true)
		}
		c.answered = true
	}
}

var (
	endOfHead = []byte("\r\n\r\n")
	get       = []byte("GET ")
)

// early asks Config.Early about a request, if it can be told that b is one, and nothing but one: else the answers on a
// connection that a proxy shares among its clients could be shifted, and one get another's. A request that has a body, or that
// comes with another or the beginning of another, is left to whoever parses.
func (c *Conn) early(b []byte, first bool, now time.Time) (reply []byte) {
	if first || c.door.cfg.Early == nil || !c.plain || !c.whole || !bytes.HasPrefix(b, get) ||
		bytes.Index(b, endOfHead) != len(b)-len(endOfHead) {
		return nil
	}
	reply, c.decided = c.door.cfg.Early(c.RemoteAddr(), b, now, c.age)
	return reply
}

// Age tells how old the request read last was when it was read; negative: not known.
func (c *Conn) Age() time.Duration { return c.age }

// Decided tells whether Config.Early has let the request read last pass.
func (c *Conn) Decided() bool { return c.decided }
