package tracker

import (
	"bytes"

	"github.com/valyala/fasthttp"
)

// noHost stands for a Host header that names nothing.
const noHost = "tracker.invalid"

// repairHost makes a Host header one that fasthttp parses, before it answers 400 for it: libtorrent 2.0.8 sends
// "Host: ::1:6969", without brackets, for an IPv6 address in the announce URL. Nothing but the home page reads it.
func repairHost(h *fasthttp.RequestHeader) (unchanged fasthttp.RequestConfig) {
	host := h.Host()
	colon := bytes.LastIndexByte(host, ':')
	name, port := host, []byte(nil)
	if colon >= 0 && !bytes.HasSuffix(host, []byte("]")) {
		name, port = host[:colon], host[colon+1:]
	}
	if isHostName(name) && isDigits(port) {
		return
	}
	if isIPv6(bytes.Trim(name, "[]")) && isDigits(port) {
		if name[0] != '[' {
			h.SetHost("[" + string(name) + "]:" + string(port))
		}
		return
	}
	if isIPv6(host) {
		h.SetHost("[" + string(host) + "]")
		return
	}
	h.SetHost(noHost)
	return
}

func isIPv6(b []byte) bool {
	addr, ok := parseHop(b)
	return ok && addr.Is6() && b[0] != '['
}

func isHostName(b []byte) bool {
	for _, c := range b {
		switch {
		case c|0x20 >= 'a' && c|0x20 <= 'z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

func isDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
