package listen

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// tcpListener accepts connections that meet the runtime's poller only if they must wait.
//
// Most trackers' clients open a connection for each announce, and their request is in the socket by the time it is accepted: it can be read,
// answered and closed without ever waiting. What net does for each connection before its first read (registering it with epoll, TCP_NODELAY,
// getsockname) and the wake-ups that come of it are about a quarter of such a connection's CPU: go test -bench Conn ./internal/bench.
type tcpListener struct {
	file *os.File // the listening socket's; it waits for Accept
	raw  syscall.RawConn
	addr net.Addr

	closed atomic.Bool
}

// newTCPListener takes the socket over from l, which it closes.
func newTCPListener(l *net.TCPListener) (net.Listener, error) {
	defer l.Close() // the file is a duplicate
	file, err := l.File()
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &tcpListener{file: file, raw: raw, addr: l.Addr()}, nil
}

func (l *tcpListener) Accept() (net.Conn, error) {
	c := &socket{local: l.addr}
	var acceptErr error
	err := l.raw.Read(func(fd uintptr) bool {
		c.fd, acceptErr = accept(int(fd), c)
		return acceptErr != unix.EAGAIN
	})
	if err == nil {
		err = acceptErr
	}
	if err != nil && l.closed.Load() { // the poller's own error for it has no name
		return nil, net.ErrClosed
	}
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
	}
	return c, nil
}

// Close ends an Accept that waits.
func (l *tcpListener) Close() error {
	l.closed.Store(true)
	return l.file.Close()
}

// setBacklog changes how many connections may wait to be accepted; the kernel cuts it to net.core.somaxconn.
func (l *tcpListener) setBacklog(n int) {
	_ = l.raw.Control(func(fd uintptr) { _ = unix.Listen(int(fd), n) })
}

// Addr is where it listens.
func (l *tcpListener) Addr() net.Addr { return l.addr }

// accept fills in c's remote address.
func accept(listener int, c *socket) (fd int, err error) {
	for {
		// Not unix.Accept4: it asks the kernel for the socket's protocol, once a connection.
		var addr unix.RawSockaddrAny
		fd, err = accept4(listener, &addr)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue // the client is gone already: net skips those too
		}
		if err != nil {
			return -1, err
		}
		if err := c.setRemote(&addr); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
}

// socket is an accepted TCP connection. It reads and writes its descriptor itself for as long as that need not wait; the first time it must, it
// becomes an os.File, whose poller, deadlines and safe Close it then uses for good.
type socket struct {
	local  net.Addr
	remote net.TCPAddr
	ip     [16]byte // what remote.IP points to

	mu          sync.Mutex // guards all below; never held while waiting
	fd          int        // -1 once closed, or owned by file
	file        *os.File   // nil until a call had to wait
	closed      bool
	read, write time.Time // deadlines; file has its own

	// The reader's, while it waits for the poller.
	raw    syscall.RawConn       // of file
	poll   func(fd uintptr) bool // pollRead, made once
	buf    []byte
	n      int
	stamp  int64
	pollBy error
}

// Read reads at most len(b) bytes.
func (c *socket) Read(b []byte) (int, error) {
	n, _, err := c.readStamped(b, nil)
	return n, err
}

// readStamped is Read that also tells when the kernel had what it read, in nanoseconds of Unix time: 0 unless the listener asks
// for stamps. If it must wait, conn has been seen.
func (c *socket) readStamped(b []byte, conn *Conn) (n int, stamp int64, err error) {
	if len(b) == 0 {
		return 0, 0, nil
	}
	c.mu.Lock()
	if c.fd >= 0 && !expired(c.read) {
		n, stamp, err = recvStamped(c.fd, b)
		if err == nil {
			c.mu.Unlock()
			if n == 0 {
				return 0, 0, io.EOF
			}
			return n, stamp, nil
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			c.mu.Unlock()
			return 0, 0, c.wrap("read", err)
		}
	}
	if conn != nil {
		conn.seen()
	}
	file, err := c.pollable()
	if err == nil && c.poll == nil {
		c.poll = c.pollRead
		c.raw, err = file.SyscallConn()
	}
	c.mu.Unlock()
	if err != nil {
		return 0, 0, c.wrap("read", err)
	}
	c.buf = b
	err = c.raw.Read(c.poll)
	n, stamp, c.buf = c.n, c.stamp, nil
	if err == nil {
		err = c.pollBy
	} else if c.isClosed() {
		err = net.ErrClosed // the poller's own error for it has no name
	}
	switch {
	case err != nil:
		return 0, 0, c.wrap("read", err)
	case n == 0:
		return 0, 0, io.EOF
	}
	return n, stamp, nil
}

// pollRead is called by the poller each time there may be something to read, and tells whether there was.
func (c *socket) pollRead(fd uintptr) bool {
	c.n, c.stamp, c.pollBy = recvStamped(int(fd), c.buf)
	for c.pollBy == unix.EINTR {
		c.n, c.stamp, c.pollBy = recvStamped(int(fd), c.buf)
	}
	return c.pollBy != unix.EAGAIN
}

// reset closes the connection so that the client is told at once, and nothing of it stays in the kernel.
func (c *socket) reset() {
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = c.Close()
}

// Write writes all of b, or fails.
func (c *socket) Write(b []byte) (int, error) {
	sent := 0
	c.mu.Lock()
	if c.fd >= 0 && !expired(c.write) {
		n, err := send(c.fd, b)
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			c.mu.Unlock()
			return 0, c.wrap("write", err)
		}
		if sent = n; sent == len(b) {
			c.mu.Unlock()
			return sent, nil
		}
	}
	file, err := c.pollable()
	c.mu.Unlock()
	if err != nil {
		return sent, c.wrap("write", err)
	}
	n, err := file.Write(b[sent:])
	return sent + n, c.wrap("write", err)
}

// pollable is the file, made if need be. The caller holds mu.
func (c *socket) pollable() (*os.File, error) {
	switch {
	case c.closed:
		return nil, net.ErrClosed
	case c.file != nil:
		return c.file, nil
	}
	// From here on there may be many small replies on the connection, so Nagle's algorithm is turned off, as net does.
	_ = unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	c.file = os.NewFile(uintptr(c.fd), "tcp")
	c.fd = -1
	err := c.file.SetReadDeadline(c.read) // fails if the poller did not take it
	if err == nil {
		err = c.file.SetWriteDeadline(c.write)
	}
	return c.file, err
}

// Close closes the connection. A Read or Write that waits ends with net.ErrClosed.
func (c *socket) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.fd >= 0 {
		err := closeSocket(c.fd)
		c.fd = -1
		c.mu.Unlock()
		return c.wrap("close", err)
	}
	file := c.file
	c.mu.Unlock()
	if file == nil {
		return c.wrap("close", net.ErrClosed)
	}
	return c.wrap("close", file.Close())
}

func (c *socket) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// SetDeadline sets both deadlines.
func (c *socket) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the deadline of Read.
func (c *socket) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = t
	switch {
	case c.closed:
		return c.wrap("set", net.ErrClosed)
	case c.file != nil:
		return c.wrap("set", c.file.SetReadDeadline(t))
	}
	return nil
}

// SetWriteDeadline sets the deadline of Write.
func (c *socket) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write = t
	switch {
	case c.closed:
		return c.wrap("set", net.ErrClosed)
	case c.file != nil:
		return c.wrap("set", c.file.SetWriteDeadline(t))
	}
	return nil
}

// LocalAddr is the listener's address.
func (c *socket) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the client's, a *net.TCPAddr that belongs to the connection.
func (c *socket) RemoteAddr() net.Addr { return &c.remote }

// SyscallConn gives the descriptor.
func (c *socket) SyscallConn() (syscall.RawConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	file, err := c.pollable()
	if err != nil {
		return nil, c.wrap("raw", err)
	}
	return file.SyscallConn()
}

// wrap makes an error what net would have made of it; io.EOF stays as it is.
func (c *socket) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: &c.remote, Err: err}
}

func expired(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

// setRemote takes the address the kernel gave.
func (c *socket) setRemote(addr *unix.RawSockaddrAny) error {
	switch addr.Addr.Family {
	case unix.AF_INET:
		in := inet4(addr)
		c.remote.IP = c.ip[:copy(c.ip[:], in.Addr[:])]
		c.remote.Port = port(in.Port)
	case unix.AF_INET6:
		in := inet6(addr)
		c.remote.IP = c.ip[:copy(c.ip[:], in.Addr[:])]
		c.remote.Port = port(in.Port)
		if in.Scope_id != 0 {
			c.remote.Zone = fmt.Sprint(in.Scope_id)
		}
	default:
		return fmt.Errorf("accepted a connection of address family %d", addr.Addr.Family)
	}
	return nil
}

// These calls do not tell the scheduler that they are made, as package syscall's do: they never block. A call that it knows of and that takes
// over 20 us, as a close may that sends and receives on loopback, makes it move the other goroutines to another thread, and its monitor look
// around every 20 us from then on, which on a busy core is a tenth of the CPU (perf record -g: runtime.sysmon).

// recvStamped also returns the kernel's time of the last segment read, if the socket has SO_TIMESTAMPNS: as part of the same
// call it costs nothing that can be measured.
func recvStamped(fd int, b []byte) (n int, stamp int64, err error) {
	var control struct {
		header unix.Cmsghdr
		time   unix.Timespec
	}
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	msg := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: (*byte)(unsafe.Pointer(&control))}
	msg.SetControllen(int(unsafe.Sizeof(control)))
	r, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT)
	if n, err = result(r, errno); err == nil && msg.Controllen == uint64(unsafe.Sizeof(control)) && control.header.Type == unix.SCM_TIMESTAMPNS {
		stamp = control.time.Nano()
	}
	return n, stamp, err
}

func send(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return result(n, errno)
}

func closeSocket(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	_, err := result(0, errno)
	return err
}

func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// accept4 is the bare system call; addr is what it says of the client.
func accept4(listener int, addr *unix.RawSockaddrAny) (fd int, err error) {
	size := uint32(unix.SizeofSockaddrAny)
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(addr)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func inet4(addr *unix.RawSockaddrAny) *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(addr))
}

func inet6(addr *unix.RawSockaddrAny) *unix.RawSockaddrInet6 {
	return (*unix.RawSockaddrInet6)(unsafe.Pointer(addr))
}

// port reads the network's byte order.
func port(p uint16) int {
	if !cpu.IsBigEndian {
		p = bits.ReverseBytes16(p)
	}
	return int(p)
}
