package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// CDN puts a real nginx before the relay, as a CDN's: HTTP to the clients, kept connections to the relay.
func CDN(l *Lab, dir string) (netip.AddrPort, error) {
	const port = 8080
	config := fmt.Sprintf(`daemon off;
pid %[1]s/cdn.pid;
error_log %[1]s/cdn.log crit;
worker_processes 1;
events { worker_connections %[4]d; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	upstream origin {
		server %[3]s max_fails=0;
		keepalive 128;
	}
	server {
		listen %[2]d;
		location / {
			proxy_pass http://origin;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			# X-Forwarded-For comes from the crowd: its own addresses are all of one network.
			proxy_connect_timeout 5s;
			proxy_read_timeout 15s;
		}
	}
}
`, dir, port, Public(false), l.files-100)
	file := filepath.Join(dir, "cdn.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return netip.AddrPort{}, err
	}
	p, err := l.Edge.Start(dir, []string{nginxProgram, "-p", dir, "-c", file})
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := netip.AddrPortFrom(edgePublic4, port)
	return at, p.waitListening(l.Edge, at)
}
