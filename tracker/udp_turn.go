package tracker

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// turnEvery is how long a goroutine that always has work goes on before it gives the others their turn.
const turnEvery = time.Millisecond

// udpTurn lets a goroutine that never has to wait give way to all others of its processor, those that wait for the network among
// them. runtime.Gosched does not: while there is a goroutine to run, as the one that gave way, the poller is asked by the
// runtime's monitor alone, each 10 ms, and on one core that waits for its own turn: beside a flood of packets half of all HTTP
// requests took 8 ms, some half a second.
//
// So it waits for the poller itself, for an event that it has sent to itself: 2 us, each millisecond.
type udpTurn struct {
	file *os.File // an eventfd
	raw  syscall.RawConn
	poll func(fd uintptr) bool // made once
	sent bool
	last time.Time
}

func newUDPTurn() (*udpTurn, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	t := &udpTurn{file: os.NewFile(uintptr(fd), "eventfd")}
	if t.raw, err = t.file.SyscallConn(); err != nil {
		_ = t.file.Close()
		return nil, err
	}
	t.poll = func(fd uintptr) bool {
		count := uint64(1)
		call := uintptr(unix.SYS_READ)
		if !t.sent {
			call = unix.SYS_WRITE
		}
		_, _, _ = unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(&count)), unsafe.Sizeof(count))
		t.sent = !t.sent
		return !t.sent
	}
	return t, nil
}

// rested says that the goroutine has just waited.
func (t *udpTurn) rested(now time.Time) { t.last = now }

// give gives way if it is time to.
func (t *udpTurn) give(now time.Time) {
	if now.Sub(t.last) < turnEvery {
		return
	}
	t.last = now
	t.sent = false
	_ = t.raw.Read(t.poll) // fails once it is closed, and then there is no more to do
}
