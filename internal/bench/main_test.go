//go:build linux

package bench

import (
	"bufio"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// roleEnv makes the test binary be something else than the tests: a server or a filled table, in a process of its own.
const roleEnv = "SPILLWAY_BENCH_ROLE"

var roles = map[string]func() error{
	"floor": floorRole,
	"fill":  fillRole,
	"spin":  spinRole,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(roleEnv); name != "" {
		role, ok := roles[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "%s: no role %q\n", roleEnv, name)
			os.Exit(2)
		}
		if err := role(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	code := m.Run()
	results.print(os.Stdout)
	if buildDir != "" {
		_ = os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

// How long the contests are: make bench runs them in full, and a quick look is -rounds=1 -turn=500ms.
var (
	rounds = flag.Int("rounds", 5, "times each server is loaded")
	turn   = flag.Duration("turn", 3*time.Second, "length of one load")
)

// floorRole serves the body given in hex, until its input ends.
func floorRole() error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	body, err := hex.DecodeString(strings.TrimSpace(line))
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(0)
	}()
	return serveFloor(ln, body)
}

// spinRole takes turns with a server on its core. A client with a core of its own cannot open connections as fast as a
// server closes them; beside the spinner the server is half as fast, and always has connections waiting. The spinner
// touches no memory, so it costs the server's caches nothing.
func spinRole() error {
	for turns := 0; ; turns++ {
	}
}

// role is the test binary as another program.
func role(tb testing.TB, name string) *exec.Cmd {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+name, "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	return cmd
}

// serveFloor answers every request on ln with body, by a fasthttp server as it comes. No tracker on this library can be
// cheaper without changing the library's work for a connection, so it is the floor that announces are measured against.
func serveFloor(ln net.Listener, body []byte) error {
	server := fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/plain")
		ctx.SetBody(body)
	}}
	return server.Serve(ln)
}
