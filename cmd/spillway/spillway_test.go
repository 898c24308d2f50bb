package main

import (
	"net"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"spillway": main})
}

// The scripts in testdata run the program as an operator does. Besides
// testscript's own commands they have those of script_test.go:
//
//	serve NAME [args]      start spillway serve, wait until it says "serving"; sets $ANNOUNCE, $UDP and $ADMIN
//	signal NAME HUP        send a signal
//	logged NAME REGEXP     wait until the log has a line like that; "! logged": it has none now
//	stopped NAME [CODE]    wait until it has ended, by itself with that exit code, or "killed"
//	get URL                HTTP GET, status and body to stdout; $TOKEN and $FORWARDED_FOR are sent if set
//	hold URL               send half a request and keep the connection
//	certificate            make cert.pem and key.pem for 127.0.0.1
//	documented             every metric of the page last got is in docs/metrics.md
//	systemd                play systemd: sets $NOTIFY_SOCKET
//	notified TEXT          wait until spillway tells systemd so
//	udp URL PORT           announce over UDP, what is answered to stdout
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			docs, err := filepath.Abs("../../docs/metrics.md")
			if err != nil {
				return err
			}
			env.Setenv("METRICS_MD", docs)
			env.Setenv("SPILLWAY_UDP_LISTEN", "") // scripts run side by side
			env.Values[serving{}] = make(map[string]*exec.Cmd)
			env.Values[notifySocket{}] = new(*net.UnixConn)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":       cmdServe,
			"signal":      cmdSignal,
			"logged":      cmdLogged,
			"stopped":     cmdStopped,
			"get":         cmdGet,
			"hold":        cmdHold,
			"certificate": cmdCertificate,
			"documented":  cmdDocumented,
			"systemd":     cmdSystemd,
			"notified":    cmdNotified,
			"udp":         cmdUDP,
		},
	})
}
