package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// netlinkWait bounds each exchange with the kernel; it waits for other programs' transactions.
const netlinkWait = 5 * time.Second

// socket speaks to nf_tables in the network namespace it was made in, on whatever thread it is used. It is not safe for concurrent
// use. google/nftables is not enough here: it cannot set a set's gc-interval, nor read an address of a flow in an inet table, and
// it has each of a transaction's hundreds of messages acknowledged, which overflows the socket's buffer.
type socket struct {
	fd  int
	seq uint32
	buf []byte
}

func dial() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	wait := unix.NsecToTimeval(int64(netlinkWait))
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1))
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("netlink: %w", err)
	}
	// A transaction is one datagram. The largest table takes 130 KiB (TestTheLargestTable); without the right to force the room, the
	// kernel gives as much as it does by default.
	const room = 1 << 20
	for _, opt := range []struct{ force, ask int }{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt.force, room) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt.ask, room)
		}
	}
	return &socket{fd: fd, buf: make([]byte, 1<<16)}, nil // a datagram of a dump has 32 KiB at most
}

func (s *socket) close() error { return unix.Close(s.fd) }

// batch is one transaction: all of it is done, or nothing.
type batch struct {
	msgs []message
}

type message struct {
	kind, flags uint16
	what        string // for errors
	body        []byte
}

// add adds a message about what in the inet tables.
func (b *batch) add(kind, flags uint16, what string, attrs []byte) {
	b.addOf(unix.NFPROTO_INET, kind, flags, what, attrs)
}

func (b *batch) addOf(family byte, kind, flags uint16, what string, attrs []byte) {
	b.msgs = append(b.msgs, message{unix.NFNL_SUBSYS_NFTABLES<<8 | kind, flags, what, append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...)})
}

// commit has the kernel do all of b. Only the last message is acknowledged; errors come unasked for.
func (s *socket) commit(b *batch) error {
	if len(b.msgs) == 0 {
		return nil
	}
	edge := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}
	first := s.seq + 1
	last := first + uint32(len(b.msgs))
	out := s.append(nil, message{kind: unix.NFNL_MSG_BATCH_BEGIN, body: edge})
	for i, m := range b.msgs {
		if i == len(b.msgs)-1 {
			m.flags |= unix.NLM_F_ACK
		}
		out = s.append(out, m)
	}
	out = s.append(out, message{kind: unix.NFNL_MSG_BATCH_END, body: edge})
	if err := s.send(out); err != nil {
		return fmt.Errorf("send a transaction of %d bytes: %w", len(out), err)
	}
	var failed error
	for {
		done := false
		err := s.receive(func(seq uint32, kind, _ uint16, body []byte) {
			if kind != unix.NLMSG_ERROR || seq-first > last-first {
				return // of an exchange that was given up
			}
			err := ackError(body)
			if err != nil && failed == nil {
				what := "transaction"
				if i := int(seq-first) - 1; i >= 0 {
					what = b.msgs[i].what
				}
				failed = fmt.Errorf("%s: %w", what, err)
			}
			done = done || seq == last || seq == first && err != nil
		})
		if done || failed != nil && err != nil {
			return failed
		}
		if err != nil {
			return err
		}
	}
}

// ask sends one request, and gives the attributes of each answer. With NLM_F_DUMP it tells whether the tables were changed
// meanwhile, so that something may be missing or twice.
func (s *socket) ask(kind, flags uint16, attrs []byte, each func(attrs []byte)) (interrupted bool, err error) {
	return s.askOf(unix.NFPROTO_INET, kind, flags, attrs, each)
}

func (s *socket) askOf(family byte, kind, flags uint16, attrs []byte, each func(attrs []byte)) (interrupted bool, err error) {
	if flags&unix.NLM_F_DUMP == 0 {
		flags |= unix.NLM_F_ACK // so that each ends in the same way
	}
	out := s.append(nil, message{kind: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, flags: flags, body: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...)})
	if err := s.sendAtOnce(out); err != nil {
		return false, fmt.Errorf("ask: %w", err)
	}
	for done := false; !done; {
		var answer error
		if err := s.receive(func(seq uint32, kind, flags uint16, body []byte) {
			if seq != s.seq || done {
				return
			}
			interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR:
				done, answer = true, ackError(body)
			case len(body) >= 4:
				each(body[4:])
			}
		}); err != nil {
			return false, err
		}
		if answer != nil {
			return interrupted, answer
		}
	}
	return interrupted, nil
}

// dump is ask for all there is, at one moment: it is repeated if the tables were changed meanwhile.
func (s *socket) dump(kind uint16, attrs []byte) (all [][]byte, err error) {
	for range 10 {
		all = nil
		interrupted, err := s.ask(kind, unix.NLM_F_DUMP, attrs, func(attrs []byte) { all = append(all, slices.Clone(attrs)) })
		if err != nil || !interrupted {
			return all, err
		}
	}
	return nil, errors.New("the tables are changed all the time")
}

func (s *socket) append(out []byte, m message) []byte {
	s.seq++
	out = binary.NativeEndian.AppendUint32(out, uint32(unix.SizeofNlMsghdr+len(m.body)))
	out = binary.NativeEndian.AppendUint16(out, m.kind)
	out = binary.NativeEndian.AppendUint16(out, m.flags|unix.NLM_F_REQUEST)
	out = binary.NativeEndian.AppendUint32(out, s.seq)
	out = binary.NativeEndian.AppendUint32(out, 0)
	return pad(append(out, m.body...))
}

func (s *socket) send(out []byte) error {
	for {
		err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

// sendAtOnce is send for a question, on which the kernel waits for nobody. Go's scheduler is not told, nor is it in receive of an answer
// that is there: five times a second its monitor would be woken, which costs more than the answer.
func (s *socket) sendAtOnce(out []byte) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(out))), uintptr(len(out)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return s.send(out)
	}
	return nil
}

// read is the next datagram, and how long it was before it was cut to the buffer.
func (s *socket) read() (size int, err error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(s.buf))), uintptr(len(s.buf)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if errno == 0 {
		return int(n), nil
	}
	size, _, err = unix.Recvfrom(s.fd, s.buf, unix.MSG_TRUNC) // it waits
	return size, err
}

// receive waits for a datagram and gives each message in it.
func (s *socket) receive(each func(seq uint32, kind, flags uint16, body []byte)) error {
	for end := time.Now().Add(netlinkWait); ; {
		n, err := s.read()
		switch {
		case err == unix.EINTR && time.Now().Before(end):
			continue
		case err == unix.EAGAIN || err == unix.EINTR:
			return fmt.Errorf("no answer of the kernel within %v", netlinkWait)
		case err != nil:
			return fmt.Errorf("netlink: receive: %w", err)
		case n > len(s.buf):
			return errors.New("netlink: an answer of more than 64 KiB")
		}
		for b := s.buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return errors.New("netlink: an answer that is cut short")
			}
			each(binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), b[unix.SizeofNlMsghdr:size])
			b = b[min((size+3)&^3, len(b)):]
		}
		return nil
	}
}

// ackError is the error in an acknowledgement or at the end of a dump; nil if there is none.
func ackError(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code >= 0 {
		return nil
	}
	err := error(unix.Errno(-code))
	if len(body) < 4+unix.SizeofNlMsghdr {
		return err
	}
	const text = 1 // NLMSGERR_ATTR_MSG
	for kind, value := range attributes(body[4+unix.SizeofNlMsghdr:]) {
		if kind == text && len(value) > 1 {
			return fmt.Errorf("%w: %s", err, value[:len(value)-1])
		}
	}
	return err
}
