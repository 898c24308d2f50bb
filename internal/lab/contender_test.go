package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// Where Debian has what is compared.
const (
	haproxyProgram = "/usr/sbin/haproxy"
	streamModule   = "/usr/lib/nginx/modules/ngx_stream_module.so" // libnginx-mod-stream
)

// FastFail is the profile's keys that act on a relay which only forwards, and that each namespace has for itself.
var FastFail = map[string]string{
	"net/netfilter/nf_conntrack_tcp_timeout_syn_sent":   "6",
	"net/netfilter/nf_conntrack_tcp_timeout_syn_recv":   "6",
	"net/netfilter/nf_conntrack_tcp_timeout_fin_wait":   "10",
	"net/netfilter/nf_conntrack_tcp_timeout_close_wait": "10",
	"net/netfilter/nf_conntrack_tcp_timeout_last_ack":   "10",
	"net/ipv4/tcp_tw_reuse":                             "1",
	"net/ipv4/tcp_max_syn_backlog":                      "10000",
	"net/ipv4/tcp_abort_on_overflow":                    "1",
	"net/ipv4/tcp_syncookies":                           "1",
}

// DNATProfile is DNAT with the operator's cure.
func DNATProfile(masquerade bool) Contender {
	return Contender{Name: "DNAT + profile", start: func(l *Lab, _ string) (*Process, error) {
		for key, value := range FastFail {
			if err := l.Relay.sysctl(key, value); err != nil {
				return nil, err
			}
		}
		return nil, l.Relay.Do(func() error { return forward(masquerade) })
	}}
}

// HAProxy is one in tcp mode that asks for the backend's health as often as we do.
func HAProxy() Contender {
	return Contender{Name: "HAProxy", program: haproxyProgram, start: func(l *Lab, dir string) (*Process, error) {
		return l.startConfigured(dir, "haproxy.cfg", fmt.Sprintf(`global
	maxconn %[5]d
	nbthread 1
defaults
	mode tcp
	timeout connect 1s
	timeout client 60s
	timeout server 60s
	timeout check 300ms
	retries 0
	option redispatch 0
frontend public
	bind :%[1]d
	bind [::]:%[1]d v6only
	use_backend tracker6 if { dst %[4]s }
	default_backend tracker
backend tracker
	option httpchk GET /healthz
	server tracker %[2]s check inter 100ms fastinter 100ms downinter 100ms fall 2 rise 1 on-marked-down shutdown-sessions
backend tracker6
	option httpchk GET /healthz
	server tracker6 %[3]s check inter 100ms fastinter 100ms downinter 100ms fall 2 rise 1 on-marked-down shutdown-sessions
`, PublicPort, BackendAddr(false), BackendAddr(true), RelayPublic6, l.files/2-200), func(file string) []string {
			return []string{haproxyProgram, "-db", "-f", file}
		})
	}}
}

// NginxStream is nginx as a TCP proxy, which asks nobody for health.
func NginxStream() Contender {
	return Contender{Name: "nginx stream", program: streamModule, start: func(l *Lab, dir string) (*Process, error) {
		return l.startConfigured(dir, "nginx.conf", fmt.Sprintf(`load_module %[6]s;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log crit;
worker_processes 1;
events { worker_connections %[5]d; }
stream {
	server { listen %[2]d; proxy_connect_timeout 1s; proxy_pass %[3]s; }
	server { listen [::]:%[2]d ipv6only=on; proxy_connect_timeout 1s; proxy_pass %[4]s; }
}
`, dir, PublicPort, BackendAddr(false), BackendAddr(true), l.files-100, streamModule), func(file string) []string {
			return []string{nginxProgram, "-p", dir, "-c", file}
		})
	}}
}

func (l *Lab) startConfigured(dir, name, config string, argv func(file string) []string) (*Process, error) {
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return l.Relay.Start(dir, argv(file))
}

// CDN puts a real nginx before the relay, as a CDN's: HTTP to the clients, kept connections to the relay.
func CDN(l *Lab, dir string) (netip.AddrPort, error) {
	return l.front(dir, 1, "", fmt.Sprintf(`
	upstream origin {
		server %s max_fails=0;
		keepalive 128;
	}
	server {
		listen %d;
		location / {
			proxy_pass http://origin;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			# X-Forwarded-For comes from the crowd: its own addresses are all of one network.
			proxy_connect_timeout 5s;
			proxy_read_timeout 15s;
		}
	}
`, Public(false), frontPort))
}
