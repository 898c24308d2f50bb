package sys

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Given a server on loopback, in either family, when a socket is dialed from an address of its own, then it is polled, written to,
// read from and seen to end, and its events name its place.
func TestASocketIsPolled(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Logf("left out: %v", err)
			continue
		}
		defer ln.Close()
		to := NewAddr(netip.MustParseAddrPort(ln.Addr().String()))
		var from *Addr
		want := "::1"
		if !to.Is6() {
			from, want = NewAddr(netip.MustParseAddrPort("127.0.0.1:0")), "127.7.1.2"
			from.Set4([4]byte{127, 7, 0, 0})
			from.SetHost(0x0102)
		}
		p, err := NewPoller()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		fd, errno := Dial(unix.SOCK_STREAM, from, to)
		if errno != 0 {
			t.Fatalf("dial %s: %v", host, errno)
		}
		defer Abort(fd)
		if errno := p.Add(fd, 3, 5, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP); errno != 0 {
			t.Fatal(errno)
		}
		await := func(what uint32) {
			t.Helper()
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
				events, errno := p.Wait(10 * time.Millisecond)
				if errno != 0 {
					t.Fatal(errno)
				}
				for _, e := range events {
					if e.Fd != 3 || e.Pad != 5 {
						t.Errorf("an event of place %d, generation %d; want 3, 5", e.Fd, e.Pad)
					}
					if e.Events&what != 0 {
						return
					}
				}
			}
			t.Fatalf("%s: no event %#x", host, what)
		}
		await(unix.EPOLLOUT)
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr(); got != netip.MustParseAddr(want) {
			t.Errorf("it came from %s, want %s", got, want)
		}
		b := make([]byte, 8)
		if _, errno := Recv(fd, b); errno != unix.EAGAIN {
			t.Errorf("nothing yet: got %v, want EAGAIN", errno)
		}
		if n, errno := Send(fd, []byte("ping")); n != 4 || errno != 0 {
			t.Errorf("send: got %d, %v", n, errno)
		}
		if n, err := conn.Read(b); string(b[:n]) != "ping" {
			t.Errorf("the server read %q, %v", b[:n], err)
		}
		if _, err := conn.Write([]byte("pong")); err != nil {
			t.Fatal(err)
		}
		await(unix.EPOLLIN)
		if n, errno := Recv(fd, b); string(b[:max(n, 0)]) != "pong" {
			t.Errorf("read %q, %v", b[:max(n, 0)], errno)
		}
		conn.Close()
		await(unix.EPOLLRDHUP)
		if n, errno := Recv(fd, b); n != 0 || errno != 0 {
			t.Errorf("the end: got %d, %v", n, errno)
		}
	}
}

func TestAFlightIsInOrder(t *testing.T) {
	t.Parallel()
	f := NewFlight(6)
	in := func(want ...int32) {
		t.Helper()
		var got []int32
		for i := f.First; i != None; i = f.links[i].next {
			got = append(got, i)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	in()
	for _, i := range []int32{3, 1, 5, 0} {
		f.Push(i)
	}
	in(3, 1, 5, 0)
	f.Remove(1)
	in(3, 5, 0)
	f.Remove(3)
	f.Remove(0)
	in(5)
	f.Push(3)
	in(5, 3)
	f.Remove(5)
	f.Remove(3)
	in()
}

func TestProcessCPUCountsWhatThisProcessBurns(t *testing.T) {
	t.Parallel()
	before, err := ProcessCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const burnt = 20 * time.Millisecond
	for deadline := time.Now().Add(30 * time.Second); ; {
		after, err := ProcessCPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if after-before >= burnt {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("CPU time: got %s in 30 s, want %s", after-before, burnt)
		}
	}
	if _, err := ProcessCPU(1<<22 + 1); err == nil {
		t.Error("no such process: got no error")
	}
}
