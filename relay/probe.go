package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
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

// readAnswer is how a probe ended that was answered.
func readAnswer(head []byte) (answer, outcome, string) {
	code, a, err := parseAnswer(head)
	switch {
	case err != nil:
		return answer{}, broken, err.Error()
	case code < 200 || code > 299:
		return answer{}, badStatus, fmt.Sprintf("answered %d", code)
	}
	return a, answeredOK, ""
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
