package proxy

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"spillway/relay"
)

// role, in the environment, is what this program is instead of the tests.
const role = "SPILLWAY_PROXY_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "backend":
		runBackend()
	case "load":
		runLoad()
	case "proxy":
		runProxy()
	default:
		goleak.VerifyTestMain(m)
	}
}

// self is this program in a role, on one core, with arguments. It says its first line when it is ready, and ends when its standard input
// does.
func self(t testing.TB, core int, what string, args ...string) *child {
	t.Helper()
	return start(t, exec.Command("/proc/self/exe", args...), core, role+"="+what, "GOMAXPROCS=1")
}

type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t testing.TB, cmd *exec.Cmd, core int, env ...string) *child {
	t.Helper()
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	c := &child{cmd: cmd, in: in, out: bufio.NewReader(out)}
	runtime.LockOSThread() // children inherit the mask of the thread that forks them
	defer runtime.UnlockOSThread()
	var before, pinned unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	if core >= 0 {
		pinned.Set(core)
		must(t, unix.SchedSetaffinity(0, &pinned))
	}
	err = cmd.Start()
	must(t, unix.SchedSetaffinity(0, &before))
	must(t, err)
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return c
}

// line is what the child says next.
func (c *child) line(t testing.TB) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v", c.cmd.Args, err)
	}
	return strings.TrimSpace(s)
}

// cpu is the CPU time of the child, by the scheduler's clock.
func (c *child) cpu(t testing.TB) time.Duration {
	t.Helper()
	clock := int32(^c.cmd.Process.Pid<<3 | 2) // MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
	var ts unix.Timespec
	must(t, unix.ClockGettime(clock, &ts))
	return time.Duration(ts.Nano())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Args, err)
		os.Exit(1)
	}
}

const (
	request  = "GET /announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-TR4040-aaaaaaaaaaaa&port=6881&uploaded=0&downloaded=0&left=1&compact=1 HTTP/1.1\r\nHost: tracker.example\r\n\r\n"
	response = "HTTP/1.1 200 OK\r\nContent-Length: 40\r\nConnection: close\r\n\r\nd8:intervali1800e5:peers12:aaaaaaaaaaaae"
)

// runBackend answers each connection's request once and closes it.
func runBackend() {
	l, err := newListener("127.0.0.1:0")
	check(err)
	check(unix.Listen(l.fd, 4096))
	fmt.Println(l.addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	ep, err := unix.EpollCreate1(0)
	check(err)
	check(epollCtl(ep, unix.EPOLL_CTL_ADD, l.fd, unix.EPOLLIN, int32(l.fd), 0))
	events := make([]unix.EpollEvent, 64)
	buf := make([]byte, 4096)
	answer := func(fd int) bool {
		n, err := recv(fd, buf)
		if err == unix.EAGAIN {
			return false
		}
		if n > 0 {
			_, _ = send(fd, []byte(response), 0)
		}
		closeFD(fd)
		return true
	}
	var peer address
	for {
		n, _ := unix.EpollWait(ep, events, -1)
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) != l.fd {
				answer(int(e.Fd))
				continue
			}
			for range 64 {
				fd, err := peer.accept(l.fd)
				if err != nil {
					break
				}
				if !answer(fd) {
					check(epollCtl(ep, unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, int32(fd), 0))
				}
			}
		}
	}
}

// runLoad makes connections to its first argument, as many at once as its second says, a request each. For each line of input, a number,
// it makes so many, and then says in how many nanoseconds.
func runLoad() {
	to, err := addressOf(netip.MustParseAddrPort(os.Args[1]))
	check(err)
	places, err := strconv.Atoi(os.Args[2])
	check(err)
	rate, err := strconv.Atoi(os.Args[3]) // a second; 0: as many as there can be
	check(err)
	fds := make([]int, places)
	sent := make([]bool, places)
	buf := make([]byte, 4096)
	in := bufio.NewScanner(os.Stdin)
	fmt.Println("ready")
	for in.Scan() {
		n, err := strconv.Atoi(in.Text())
		check(err)
		for i := range fds {
			fds[i] = -1
		}
		begun := time.Now()
		for opened, done := 0, 0; done < n; {
			idle := true
			for i, fd := range fds {
				if fd < 0 {
					if opened == n || rate > 0 && float64(opened) > time.Since(begun).Seconds()*float64(rate) {
						continue
					}
					fd, err = socket(to.family())
					check(err)
					if err := to.connect(fd); err != nil && err != unix.EINPROGRESS {
						check(fmt.Errorf("connect: %w", err))
					}
					fds[i], sent[i] = fd, false
					opened++
				}
				if !sent[i] {
					_, err := send(fd, []byte(request), 0)
					if err == unix.EAGAIN {
						continue
					}
					check(err)
					sent[i], idle = true, false
				}
				got, err := recv(fd, buf)
				if err == unix.EAGAIN {
					continue
				}
				check(err)
				if idle = false; got > 0 {
					if string(buf[:got]) != response {
						check(fmt.Errorf("answered with %q", buf[:got]))
					}
					_, err = recv(fd, buf)
					if err == unix.EAGAIN {
						continue
					}
					check(err)
				}
				closeFD(fd)
				fds[i] = -1
				done++
			}
			if idle {
				time.Sleep(50 * time.Microsecond)
			}
		}
		fmt.Println(time.Since(begun).Nanoseconds())
	}
}

// runProxy forwards to the backend that its argument names; lines of its input say whether that is up or down.
func runProxy() {
	p, err := Open(config(backendAt(os.Args[1])), slog.New(slog.DiscardHandler))
	check(err)
	check(p.Apply(planFor(p)))
	fmt.Println(p.Addrs()[0])
	if len(os.Args) > 2 { // so many descriptors and no more
		n, err := strconv.ParseUint(os.Args[2], 10, 64)
		check(err)
		check(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}))
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("done") {
		if in.Text() == "down" {
			check(p.Apply(planFor(p, 0)))
		} else {
			check(p.Apply(planFor(p)))
		}
	}
	check(p.Close())
}

func backendAt(addr string) relay.Backend {
	return relay.Backend{Addr: netip.MustParseAddrPort(addr), Weight: 1}
}

func config(backends ...relay.Backend) Config {
	return Config{Listen: []string{"127.0.0.1:0"}, Backends: backends, Budget: 1500, MaxConns: 4000,
		ConnectTimeout: time.Second, IdleTimeout: 5 * time.Minute}
}

// planFor spreads each family's sources over its backends in turn; those in down are so.
func planFor(p *Path, down ...int) relay.Plan {
	n := relay.Plan{Down: make([]bool, len(p.backends)), Open: make([]int, len(p.backends))}
	for i := range n.Open {
		n.Open[i] = relay.Bands
	}
	for _, i := range down {
		n.Down[i] = true
	}
	spread := func(slots *[relay.Slots]int16, family int) {
		var all, up []int16
		for i, b := range p.backends {
			if b.addr.family() == family {
				all = append(all, int16(i))
				if !n.Down[i] {
					up = append(up, int16(i))
				}
			}
		}
		if len(up) > 0 {
			all = up
		}
		for i := range slots {
			if slots[i] = relay.Nobody; len(all) > 0 {
				slots[i] = all[i%len(all)]
			}
		}
	}
	spread(&n.Slots4, unix.AF_INET)
	spread(&n.Slots6, unix.AF_INET6)
	return n
}
