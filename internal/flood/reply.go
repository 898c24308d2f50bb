package flood

import "bytes"

// outcome is what became of a request.
type outcome uint8

const (
	pending     outcome = iota // more of the reply is to come
	good                       // 200, bencoded and whole, with the key, in time
	late                       // the same, too late
	shed                       // 200 and bencoded, without the key
	shedFailure                // the same, and it is a failure reason
	badStatus                  // another status
	malformed                  // not HTTP, or not bencoded
	refused                    // connection refused
	reset                      // closed or reset before the reply was whole
	timedOut
	unsent // no connection was to be had
	outcomeCount
)

var (
	endOfHead     = []byte("\r\n\r\n")
	contentLength = []byte("content-length:")
	failureReason = []byte("failure reason")
)

// maxReply is more than any tracker's reply to a numwant of 50. A longer one is malformed.
const maxReply = 8 << 10

// classify judges the beginning of a reply, all of it that has come; ended says that no more will. A reply that is served is good:
// whether it is late, the caller knows.
func classify(b, key []byte, ended bool) outcome {
	head := bytes.Index(b, endOfHead)
	if head < 0 {
		switch {
		case len(b) > maxReply:
			return malformed
		case ended:
			return reset
		}
		return pending
	}
	status, ok := parseStatus(b)
	if !ok {
		return malformed
	}
	body := b[head+len(endOfHead):]
	switch length := parseLength(b[:head+2]); {
	case length > maxReply:
		return malformed
	case length < 0 && !ended, length > len(body) && !ended:
		return pending
	case length > len(body):
		return reset
	case length >= 0 && length < len(body):
		return malformed // it goes on where it should have ended
	}
	if status != 200 {
		return badStatus
	}
	has, failure, ok := walkReply(body, key)
	switch {
	case !ok:
		return malformed
	case failure:
		return shedFailure
	case has:
		return good
	}
	return shed
}

// classifyScrape is classify for a scrape. One whose counts are all zero is shed: that is how a tracker answers what it does not
// serve, because clients take a failed scrape for a failed announce. So torrents are announced before they are scraped.
func classifyScrape(b, key []byte, ended bool) outcome {
	o := classify(b, key, ended)
	if o == good && !countsAnything(b) {
		return shed
	}
	return o
}

var (
	completeKey   = []byte("completei") // and of incomplete the end
	downloadedKey = []byte("downloadedi")
)

// countsAnything tells whether a scrape's reply has a count that is not zero.
func countsAnything(b []byte) bool {
	for _, key := range [...][]byte{completeKey, downloadedKey} {
		for rest := b; ; {
			i := bytes.Index(rest, key)
			if i < 0 {
				break
			}
			if rest = rest[i+len(key):]; len(rest) > 0 && rest[0] >= '1' && rest[0] <= '9' {
				return true
			}
		}
	}
	return false
}

// classifyUpgrade is classify for a WebSocket's handshake, whose answer ends with its head.
func classifyUpgrade(b []byte, ended bool) outcome {
	if !bytes.Contains(b, endOfHead) {
		if ended {
			return reset
		}
		if len(b) > maxReply {
			return malformed
		}
		return pending
	}
	switch status, ok := parseStatus(b); {
	case !ok:
		return malformed
	case status == 101:
		return good
	case status == 503:
		return shed // full, or overloaded
	}
	return badStatus
}

// parseStatus reads "HTTP/1.1 200 ...".
func parseStatus(b []byte) (status int, ok bool) {
	if len(b) < 13 || string(b[:7]) != "HTTP/1." || b[8] != ' ' || b[12] != ' ' && b[12] != '\r' {
		return 0, false
	}
	for _, c := range b[9:12] {
		if c < '0' || c > '9' {
			return 0, false
		}
		status = status*10 + int(c-'0')
	}
	return status, true
}

// parseLength is the Content-Length among the lines of a head, -1 if it says none.
func parseLength(head []byte) int {
	for len(head) > 0 {
		line := head
		if i := bytes.IndexByte(head, '\n'); i >= 0 {
			line, head = head[:i], head[i+1:]
		} else {
			head = nil
		}
		if len(line) <= len(contentLength) || line[0]|0x20 != 'c' || !bytes.EqualFold(line[:len(contentLength)], contentLength) {
			continue
		}
		n := 0
		for _, c := range bytes.TrimSpace(line[len(contentLength):]) {
			if c < '0' || c > '9' || n > maxReply {
				return maxReply + 1
			}
			n = n*10 + int(c-'0')
		}
		return n
	}
	return -1
}

// maxDepth is far more than a tracker's reply needs: a dictionary, in it a list of dictionaries.
const maxDepth = 8

// walkReply goes over a bencoded dictionary, and tells whether key and "failure reason" are among its own keys, and whether it is
// whole and nothing follows.
func walkReply(b, key []byte) (has, failure, ok bool) {
	var isDict, wantKey [maxDepth + 1]bool
	depth := 0
	for i := 0; i < len(b); {
		c := b[i]
		keyWanted := isDict[depth] && wantKey[depth]
		if depth == 0 && c != 'd' || keyWanted && (c < '0' || c > '9') && c != 'e' {
			return false, false, false
		}
		switch {
		case c == 'd' || c == 'l':
			if depth == maxDepth {
				return false, false, false
			}
			depth++
			isDict[depth], wantKey[depth] = c == 'd', true
			i++
			continue
		case c == 'e':
			if isDict[depth] && !wantKey[depth] {
				return false, false, false // a key without a value
			}
			depth--
			i++
			if depth == 0 {
				return has, failure, i == len(b)
			}
		case c == 'i':
			end := bytes.IndexByte(b[i:], 'e')
			if end < 2 || !isInteger(b[i+1:i+end]) {
				return false, false, false
			}
			i += end + 1
		case c < '0' || c > '9':
			return false, false, false
		default:
			n := 0
			for ; i < len(b) && b[i] >= '0' && b[i] <= '9' && n <= maxReply; i++ {
				n = n*10 + int(b[i]-'0')
			}
			if i == len(b) || b[i] != ':' || n > len(b)-i-1 {
				return false, false, false
			}
			s := b[i+1 : i+1+n]
			i += 1 + n
			if keyWanted && depth == 1 {
				has = has || bytes.Equal(s, key)
				failure = failure || bytes.Equal(s, failureReason)
			}
		}
		if isDict[depth] {
			wantKey[depth] = !wantKey[depth]
		}
	}
	return false, false, false
}

func isInteger(b []byte) bool {
	if b[0] == '-' {
		b = b[1:]
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}
