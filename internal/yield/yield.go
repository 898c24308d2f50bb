// Package yield lets a goroutine that never has to wait give way to all others of its processor, those that wait for the network among
// them.
//
// runtime.Gosched does not: while there is a goroutine to run, as the one that gave way, the poller is asked by the runtime's
// monitor alone, each 10 ms, and on one core that waits for its own turn. Beside a flood of packets half of all HTTP requests took 8 ms,
// some half a second.
package yield

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Turn waits for the poller itself, for an event that it has sent to itself: 2 us. One goroutine at a time uses it.
type Turn struct {
	file *os.File // an eventfd
	raw  syscall.RawConn
	poll func(fd uintptr) bool // made once
	sent bool
}

// New takes a file descriptor; Close gives it back.
func New() (*Turn, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	t := &Turn{file: os.NewFile(uintptr(fd), "eventfd")}
	if t.raw, err = t.file.SyscallConn(); err != nil {
		_ = t.file.Close()
		return nil, err
	}
	t.poll = func(fd uintptr) bool {
		count, call := uint64(1), uintptr(unix.SYS_READ)
		if !t.sent {
			call = unix.SYS_WRITE
		}
		_, _, _ = unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(&count)), unsafe.Sizeof(count))
		t.sent = !t.sent
		return !t.sent
	}
	return t, nil
}

// Give returns when the others have had their turn; at once, if it is closed.
func (t *Turn) Give() {
	t.sent = false
	_ = t.raw.Read(t.poll)
}

// Close may be called more than once.
func (t *Turn) Close() { _ = t.file.Close() }
