package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// nginxProgram is where Debian has it.
const nginxProgram = "/usr/sbin/nginx"

// frontPort is the CDN's in edge.
const frontPort = 8080

// frontAddrs are those a CDN connects from, so that one does not run out of ports.
const frontAddrs = 8

// MissingFront says what Front needs and the machine has not; nil: nothing.
func MissingFront() error {
	_, err := os.Stat(nginxProgram)
	return err
}

// Front puts a real nginx before the relay, as a CDN's edge: announces share connections that are kept, each WebSocket has one. It
// waits for the origin as long as timeout says, and says who asks in a header: X-Forwarded-For, which comes from the crowd.
func Front(l *Lab, dir string, timeoutSeconds int) (netip.AddrPort, error) {
	addresses := ""
	for i := range frontAddrs {
		share := fmt.Sprintf("%g%%", 100.0/frontAddrs)
		if i == frontAddrs-1 {
			share = "*"
		}
		addresses += fmt.Sprintf("\t\t%s 10.77.255.%d;\n", share, i+1)
	}
	for key, value := range map[string]string{"net/core/somaxconn": "4096", "net/ipv4/tcp_tw_reuse": "1"} {
		if err := l.Edge.sysctl(key, value); err != nil {
			return netip.AddrPort{}, err
		}
	}
	return l.front(dir, 2, "user root root;\n", fmt.Sprintf(`
	keepalive_timeout 0;
	reset_timedout_connection on;
	map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
	split_clients $connection $from {
%[3]s	}
	upstream origin {
		server %[2]s max_fails=0;
		keepalive 128;
		keepalive_requests 100000;
	}
	server {
		listen %[1]d backlog=4096;
		location / {
			proxy_pass http://origin;
			proxy_bind $from;
			proxy_http_version 1.1;
			proxy_set_header Host $http_host;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $connection_upgrade;
			proxy_next_upstream off;
			proxy_connect_timeout %[4]ds;
			proxy_read_timeout 60s;
		}
	}
`, frontPort, Public(false), addresses, timeoutSeconds))
}

// front starts nginx in edge, with main in its configuration and http in that of HTTP, and returns when it listens.
func (l *Lab) front(dir string, workers int, main, http string) (netip.AddrPort, error) {
	config := fmt.Sprintf(`daemon off;
%[2]spid %[1]s/front.pid;
error_log %[1]s/front.log crit;
worker_processes %[3]d;
events { worker_connections %[4]d; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
%[5]s}
`, dir, main, workers, l.files-100, http)
	file := filepath.Join(dir, "front.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return netip.AddrPort{}, err
	}
	p, err := l.Edge.Start(dir, []string{nginxProgram, "-p", dir, "-c", file})
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := netip.AddrPortFrom(edgePublic4, frontPort)
	return at, p.waitListening(l.Edge, at)
}
