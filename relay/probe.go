package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// outcome is how a probe ended.
type outcome uint8

const (
	answeredOK outcome = iota
	refused            // a reset to the SYN: nobody listens
	timedOut
	badStatus
	broken   // reset in the middle, not HTTP, no route
	ourFault // this machine could not even ask: no verdict on the backend
	outcomeCount
)

var outcomeNames = [outcomeCount]string{"ok", "refused", "timeout", "status", "broken", "not_asked"}

// answer is what a backend says of itself.
type answer struct {
	State string  // calm, ramp, overload or escalated; empty: it does not say
	Level float64 // share of what it is offered that it sheds, 0 to 1
}

// overloaded tells whether it says that it has more than it can serve.
func (a answer) overloaded() bool {
	return a.Level > 0 || a.State == "overload" || a.State == "escalated"
}

// probed is how a probe ended.
type probed struct {
	backend int
	number  uint64 // in the order of starts, from 1
	started time.Time
	took    time.Duration
	outcome outcome
	words   string // of a failure, for people
	answer  answer
}

// maxAnswer bounds what is read of a backend's answer.
const maxAnswer = 4 << 10

// dialFunc opens a connection as a new client would.
type dialFunc func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)

func dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1} // it lives for less than a second
	conn, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, addr)
	if err != nil {
		return nil, err // not conn: a nil *TCPConn is no nil net.Conn
	}
	return conn, nil
}

// localHeader says that what follows comes from the proxy itself: PROXY protocol v2, LOCAL, no addresses.
const localHeader = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

// dialProxied is dialTCP for a backend that wants the PROXY protocol of whoever is trusted, health checks included.
func dialProxied(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	conn, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte(localHeader)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// ask asks a backend for its health on a connection of its own, within timeout. A kept connection would not do: it shows that the
// backend answers those it knows, not that it takes new ones.
func ask(ctx context.Context, dial dialFunc, addr netip.AddrPort, path string, timeout time.Duration) (answer, outcome, string) {
	deadline := time.Now().Add(timeout)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := dial(ctx, addr)
	if err != nil {
		outcome, words := judge(err, "no connection", timeout)
		return answer{}, outcome, words
	}
	// With a reset, as load balancers end their checks: neither side keeps it in TIME_WAIT, which ten a second would fill, and a hung
	// backend does not collect it.
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it would only linger
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetDeadline(deadline) // what cannot be set shows in the next call

	request := "GET " + path + " HTTP/1.1\r\nHost: " + addr.String() + "\r\nUser-Agent: spillway-relay\r\nConnection: close\r\n\r\n"
	if _, err := conn.Write([]byte(request)); err != nil {
		outcome, words := judge(err, "connected, but it does not read", timeout)
		return answer{}, outcome, words
	}
	head, err := readHead(conn)
	if err != nil {
		outcome, words := judge(err, "connected, but no answer", timeout)
		return answer{}, outcome, words
	}
	code, a, err := parseAnswer(head)
	switch {
	case err != nil:
		return answer{}, broken, err.Error()
	case code < 200 || code > 299:
		return answer{}, badStatus, fmt.Sprintf("answered %d", code)
	}
	return a, answeredOK, ""
}

// readHead reads to the end of the headers, or maxAnswer.
func readHead(conn net.Conn) ([]byte, error) {
	buf := make([]byte, 0, maxAnswer)
	for {
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if end := headEnd(buf); end > 0 {
			return buf[:end], nil
		}
		if len(buf) == cap(buf) {
			return buf, nil // the status is in it; a header that is not has not been sent in time
		}
		if err != nil {
			return nil, err
		}
	}
}

// headEnd is where the body begins, or 0.
func headEnd(b []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		line := b[i : i+n]
		i += n + 1
		if len(bytes.TrimSuffix(line, []byte{'\r'})) == 0 {
			return i
		}
	}
}

// parseAnswer reads the status and what the backend says of itself. What it says but nobody knows counts as not said.
func parseAnswer(head []byte) (code int, a answer, err error) {
	line, rest, _ := bytes.Cut(head, []byte{'\n'})
	line = bytes.TrimSuffix(line, []byte{'\r'})
	version, status, _ := bytes.Cut(line, []byte{' '})
	status, _, _ = bytes.Cut(status, []byte{' '})
	if string(version) != "HTTP/1.1" && string(version) != "HTTP/1.0" || len(status) != 3 {
		return 0, answer{}, fmt.Errorf("what it answered is not HTTP/1: %.40q", line)
	}
	for _, c := range status {
		if c < '0' || c > '9' {
			return 0, answer{}, fmt.Errorf("what it answered is not HTTP/1: %.40q", line)
		}
		code = 10*code + int(c-'0')
	}
	seenState, seenShed := false, false // the first of each counts
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte{'\n'})
		name, value, _ := bytes.Cut(line, []byte{':'})
		text := string(bytes.TrimSpace(value))
		switch {
		case !seenState && strings.EqualFold(string(name), "Spillway-State"):
			seenState = true
			switch text {
			case "calm", "ramp", "overload", "escalated":
				a.State = text
			}
		case !seenShed && strings.EqualFold(string(name), "Spillway-Shed"):
			seenShed = true
			if level, err := strconv.ParseFloat(text, 64); err == nil && level >= 0 && level <= 1 {
				a.Level = level
			}
		}
	}
	return code, a, nil
}

// judge says what a failure is, in words that tell a dead process from a lost tunnel.
func judge(err error, what string, timeout time.Duration) (outcome, string) {
	var errno syscall.Errno
	errors.As(err, &errno)
	var network net.Error
	switch errno {
	case syscall.ECONNREFUSED:
		return refused, "connection refused"
	case syscall.ECONNRESET, syscall.EPIPE:
		return broken, "connection reset"
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL:
		return ourFault, "this machine could not ask: " + errno.Error()
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH:
		return broken, errno.Error() + ": is the tunnel up?"
	}
	switch {
	case errors.As(err, &network) && network.Timeout():
		return timedOut, fmt.Sprintf("%s within %s", what, timeout)
	case errno != 0:
		return broken, errno.Error()
	case errors.Is(err, io.EOF):
		return broken, "closed before it had answered"
	}
	return broken, err.Error()
}
