package profile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// place is where a key makes a difference.
type place int

const (
	tracking   place = iota // where connections are tracked
	listening               // where the users' TCP ends
	connecting              // where connections to backends are opened
	inert                   // nowhere
	forwarding              // where the kernel forwards
)

// effect says what a place is in a role, and why not.
func (p place) effect(r Role) (Effect, string) {
	switch {
	case p == tracking && r == Kernel, p == forwarding && r == Kernel, p == listening && r != Kernel, p == connecting && r == Proxy:
		return Always, ""
	case p == tracking:
		return IfTracked, "acts where conntrack is loaded, as for a firewall or Docker; this role does not need it"
	case p == listening:
		return Never, "acts where the users' TCP ends: on the backend, or on a relay in proxy mode"
	case p == connecting:
		return Never, "acts where many connections are opened: on a relay in proxy mode"
	case p == inert:
		return Never, "has no effect while tcp_syncookies is 1: the queue of a listener is as long as its backlog, cookies do the rest"
	}
	return Never, "acts where the kernel forwards: on a relay in kernel mode"
}

// setting is a key before it is known where.
type setting struct {
	name, want string
	place      place
	why        string // what it is for
	atLeast    bool
	first      bool
}

// fastFail are the operator's ten lines, in order; deploy/sysctl/99-tracker.conf has the same, and a test holds them together.
var fastFail = [...]setting{
	{name: "net.ipv4.tcp_tw_reuse", want: "1", place: connecting, why: "a port is used again one second after its connection closed, not 60"},
	{name: "net.netfilter.nf_conntrack_max", want: "262144", place: tracking, atLeast: true, first: true,
		why: "a full table drops healthy traffic; this many take some 100 MB"},
	{name: "net.netfilter.nf_conntrack_tcp_timeout_syn_sent", want: "6", place: tracking,
		why: "a SYN that nobody answers is forgotten after 6 s, not 120"},
	{name: "net.netfilter.nf_conntrack_tcp_timeout_syn_recv", want: "6", place: tracking,
		why: "a SYN-ACK that nobody answers is forgotten after 6 s, not 60"},
	{name: "net.netfilter.nf_conntrack_tcp_timeout_fin_wait", want: "10", place: tracking, why: "half closed for 10 s at most, not 120"},
	{name: "net.netfilter.nf_conntrack_tcp_timeout_close_wait", want: "10", place: tracking, why: "half closed for 10 s at most, not 60"},
	{name: "net.netfilter.nf_conntrack_tcp_timeout_last_ack", want: "10", place: tracking, why: "the last ACK is awaited for 10 s, not 30"},
	{name: "net.ipv4.tcp_max_syn_backlog", want: "10000", place: inert, atLeast: true},
	{name: "net.ipv4.tcp_abort_on_overflow", want: "1", place: listening,
		why: "a full accept queue resets; that made no failure faster, and reset 28 to 53 % of connects at recovery"},
	{name: "net.ipv4.tcp_syncookies", want: "1", place: listening, why: "a full SYN queue still lets real clients in"},
}

// extra is what the ten lines lack; deploy/sysctl/99-tracker-extra.conf has the same, and argues each value.
var extra = [...]setting{
	{name: "net.netfilter.nf_conntrack_tcp_timeout_time_wait", want: "5", place: tracking,
		why: "with masquerade 7,000 connections/s x 5 s take 35,000 of the 64,512 ports towards a backend; at 120 s they run out in 10 s"},
	{name: "net.netfilter.nf_conntrack_tcp_timeout_close", want: "5", place: tracking,
		why: "the same for connections that end with a reset: at 10 s 7,000/s would take 70,000 ports"},
	{name: "net.netfilter.nf_conntrack_tcp_timeout_established", want: "7440", place: tracking,
		why: "silent connections are forgotten after 2 h 4 min (RFC 5382), not 5 days"},
	{name: "net.netfilter.nf_conntrack_tcp_loose", want: "0", place: tracking,
		why: "a flow that was ended stays ended: its next segment must not make an entry anew"},
	{name: "net.netfilter.nf_conntrack_buckets", want: "65536", place: tracking, atLeast: true, first: true,
		why: "a quarter of nf_conntrack_max: chains stay short; 512 KiB"},
	{name: "net.ipv4.ip_local_port_range", want: "10240 65535", place: connecting,
		why: "55,296 ports towards a backend, not 28,232; ports below 10240 stay free for listeners"},
}

// demux is written where the kernel forwards, and with the extra block only.
var demux = setting{name: "net.ipv4.tcp_early_demux", want: "0", place: forwarding,
	why: "what is forwarded is not looked for among this machine's sockets first"}

const (
	forward4 = "net.ipv4.ip_forward"
	forward6 = "net.ipv6.conf.all.forwarding"
	acceptRA = "net.ipv6.conf.%s.accept_ra"
)

// Keys are the keys a host should have, in the order they should be written in. root is asked for its interfaces, if there are IPv6
// backends: keep the list for as long as it is watched, since Apply changes what says which interfaces need it.
func Keys(root string, o Options) []Key {
	var keys []Key
	add := func(b Block, s setting) {
		effect, why := s.place.effect(o.Role)
		if why == "" {
			why = s.why
		}
		keys = append(keys, Key{Name: s.name, Want: s.want, AtLeast: s.atLeast, Block: b, Effect: effect, Why: why, first: s.first})
	}
	if o.FastFail {
		for _, s := range fastFail {
			add(FastFail, s) // all ten everywhere, as the operator has it
		}
	}
	if o.FastFail && o.Extra {
		for _, s := range extra {
			// What loose=0 may cost, a firewall that cuts what it has not seen begin, buys nothing but on a forwarding relay.
			loose := strings.HasSuffix(s.name, "_loose")
			if effect, _ := s.place.effect(o.Role); effect != Never && (!loose || o.Role == Kernel) {
				add(Extra, s)
			}
		}
	}
	if o.Role != Kernel {
		return keys
	}
	if o.FastFail && o.Extra {
		add(Forwarding, demux)
	}
	add(Forwarding, setting{name: forward4, want: "1", place: forwarding, why: "without it nothing is forwarded"})
	if o.IPv6 {
		// Before forwarding: the kernel drops the routes it has learned from routers at that moment, unless this is 2.
		for _, link := range routedLinks(root) {
			keys = append(keys, Key{
				Name: fmt.Sprintf(acceptRA, strings.ReplaceAll(link, ".", "/")), Want: "2", Block: Forwarding, Effect: Always,
				Why: "a host that forwards ignores routers at 1, and would lose its default route", perLink: true,
			})
		}
		add(Forwarding, setting{name: forward6, want: "1", place: forwarding, why: "without it no IPv6 is forwarded"})
	}
	return keys
}

// routedLinks are the interfaces that listen to routers now, and "default" for those to come. Where the kernel forwards already and
// accept_ra is 1 it does not listen, and the operator has got on without.
func routedLinks(root string) []string {
	dir := filepath.Join(root, "net/ipv6/conf")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // Read says that IPv6 forwarding is not there
	}
	read := func(link, file string) string {
		value, _ := os.ReadFile(filepath.Join(dir, link, file)) // gone in between: not listed
		return blanks(string(value))
	}
	var links []string
	for _, e := range entries {
		link := e.Name()
		if link == "all" || link == "lo" { // the kernel does not look at all/accept_ra, and no router is on lo
			continue
		}
		ra := read(link, "accept_ra")
		if ra == "2" || ra == "1" && read(link, "forwarding") == "0" {
			links = append(links, link)
		}
	}
	slices.Sort(links)
	return links
}

// ours tells the names that Apply may have written: what a state file says besides is not written back.
func ours(name string) bool {
	named := func(s setting) bool { return s.name == name }
	if slices.ContainsFunc(fastFail[:], named) || slices.ContainsFunc(extra[:], named) || name == demux.name || name == forward4 || name == forward6 {
		return true
	}
	return ofLink(name, "net.ipv6.conf.", ".accept_ra")
}

// ofLink tells the names of a setting of one interface, or of default.
func ofLink(name, before, after string) bool {
	link, ok := strings.CutPrefix(name, before)
	link, ok2 := strings.CutSuffix(link, after)
	if !ok || !ok2 || link == "" || len(link) > 15 || strings.ContainsAny(link, ". \t\n\x00") { // IFNAMSIZ less the final NUL
		return false
	}
	return link != "/" && link != "//" // "." and ".." in the file system
}
