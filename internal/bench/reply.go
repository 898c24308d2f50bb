package bench

import (
	"bytes"
	"errors"
	"fmt"
)

// errShort says that more bytes are to come.
var errShort = errors.New("reply is not complete")

var (
	statusOK      = []byte("HTTP/1.1 200 ")
	endOfLine     = []byte("\r\n")
	endOfHead     = []byte("\r\n\r\n")
	contentLength = []byte("\r\nContent-Length: ")
	failureReason = []byte("14:failure reason")
)

// parseReply returns the body of the one HTTP reply in b: status 200, a Content-Length, and a body that begins as a
// bencoded dictionary and is not a failure. It returns errShort while the reply is cut short. It knows no more than
// that: the client must stay cheaper than the server.
func parseReply(b []byte) (body []byte, err error) {
	head := bytes.Index(b, endOfHead)
	if head < 0 {
		return nil, errShort
	}
	if !bytes.HasPrefix(b, statusOK) {
		return nil, fmt.Errorf("reply is not a 200: %q", b)
	}
	at := bytes.Index(b[:head+2], contentLength)
	if at < 0 {
		return nil, fmt.Errorf("reply has no Content-Length: %q", b)
	}
	length := 0
	for _, c := range b[at+len(contentLength):] {
		if c < '0' || c > '9' {
			break
		}
		if length = length*10 + int(c-'0'); length > 1<<20 {
			return nil, fmt.Errorf("Content-Length over 1 MiB: %q", b)
		}
	}
	body = b[head+len(endOfHead):]
	if len(body) < length {
		return nil, errShort
	}
	if len(body) > length {
		return nil, fmt.Errorf("%d bytes follow the reply: %q", len(body)-length, b)
	}
	if bytes.HasSuffix(body, endOfLine) { // as aquatic_http does
		length -= len(endOfLine)
		body = body[:length]
	}
	if length < 2 || body[0] != 'd' || body[length-1] != 'e' || bytes.Contains(body[:min(length, 32)], failureReason) {
		return nil, fmt.Errorf("not a served announce: %q", body)
	}
	return body, nil
}
