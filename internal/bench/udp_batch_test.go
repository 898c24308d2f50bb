//go:build linux

package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"spillway/internal/flood"
)

// udpBatchSize is how many packets go out, or come in, at once.
const udpBatchSize = 64

// udpBatch is a socket that sends and receives many packets with one call, so that it is cheaper than the servers it asks.
type udpBatch struct {
	fd      int
	to      unix.RawSockaddrInet4
	in, out [udpBatchSize]mmsg
	inVec   [udpBatchSize]unix.Iovec
	outVec  [udpBatchSize]unix.Iovec
	packets [udpBatchSize][98]byte
	replies [udpBatchSize][2048]byte
	control [udpBatchSize]pktInfo // where each packet comes from, of a socket that is not connected
}

// mmsg is struct mmsghdr.
type mmsg struct {
	unix.Msghdr
	n uint32
}

// pktInfo is struct cmsghdr and struct in_pktinfo.
type pktInfo struct {
	unix.Cmsghdr
	unix.Inet4Pktinfo
	_ [4]byte
}

// newUDPBatch asks a server, which has an IPv4 address. With manySources each packet names its source (IP_PKTINFO): a budget for each
// source means nothing to a load from one. Else the socket is connected, which is cheaper.
func newUDPBatch(server netip.AddrPort, manySources bool) (*udpBatch, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	b := &udpBatch{fd: fd, to: unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: server.Addr().As4()}}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&b.to.Port))[:], server.Port())
	for i := range udpBatchSize {
		out, in := &b.out[i].Msghdr, &b.in[i].Msghdr
		if c := &b.control[i]; manySources {
			c.Cmsghdr = unix.Cmsghdr{Len: unix.SizeofCmsghdr + unix.SizeofInet4Pktinfo, Level: unix.IPPROTO_IP, Type: unix.IP_PKTINFO}
			out.Name, out.Namelen = (*byte)(unsafe.Pointer(&b.to)), unix.SizeofSockaddrInet4
			out.Control = (*byte)(unsafe.Pointer(c))
			out.SetControllen(int(unsafe.Sizeof(*c)))
		}
		out.Iov, in.Iov = &b.outVec[i], &b.inVec[i]
		out.SetIovlen(1)
		in.SetIovlen(1)
		b.outVec[i].Base, b.inVec[i].Base = &b.packets[i][0], &b.replies[i][0]
		b.inVec[i].SetLen(len(b.replies[i]))
	}
	if !manySources {
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}); err != nil {
			b.close()
			return nil, err
		}
	}
	return b, nil
}

func (b *udpBatch) close() {
	if b.fd >= 0 {
		_ = unix.Close(b.fd)
	}
	b.fd = -1
}

// udpConnect is a request for a connection id (BEP 15).
func udpConnect(transaction uint32) []byte {
	p := binary.BigEndian.AppendUint64(nil, 0x41727101980)
	return binary.BigEndian.AppendUint64(p, uint64(transaction))
}

// connectPacket makes packet n one.
func (b *udpBatch) connectPacket(n int, transaction uint32) {
	b.outVec[n].SetLen(copy(b.packets[n][:], udpConnect(transaction)))
}

// announcePacket makes packet n an announce of a leecher, whose port is yet to be told.
func (b *udpBatch) announcePacket(n int, id uint64, transaction uint32, torrent int, event uint32, numWant int) {
	p := b.packets[n][:]
	clear(p)
	binary.BigEndian.PutUint64(p, id)
	binary.BigEndian.PutUint32(p[8:], 1)
	binary.BigEndian.PutUint32(p[12:], transaction)
	hash := flood.InfoHash(torrent)
	copy(p[16:], hash[:])
	copy(p[36:], "-qB4650-benchbenchbe")
	binary.BigEndian.PutUint64(p[64:], 1<<20)
	binary.BigEndian.PutUint32(p[80:], event)
	binary.BigEndian.PutUint32(p[92:], uint32(numWant))
	b.outVec[n].SetLen(len(p))
}

func (b *udpBatch) port(n, port int) { binary.BigEndian.PutUint16(b.packets[n][96:], uint16(port)) }

// send sends n packets. What the socket has no room for is lost, as it would be on a network.
func (b *udpBatch) send(n int) error {
	_, err := b.sendFrom(0, n)
	return err
}

// sendAll sends n packets, as soon as there is room.
func (b *udpBatch) sendAll(n int) error {
	for at := 0; at < n; {
		k, err := b.sendFrom(at, n)
		if err != nil {
			return err
		}
		at += k
	}
	return nil
}

func (b *udpBatch) sendFrom(at, n int) (int, error) {
	k, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(b.fd), uintptr(unsafe.Pointer(&b.out[at])), uintptr(n-at), unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0:
		return int(k), nil
	case unix.EAGAIN, unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("send packets: %w", errno)
}

// receive takes what is there.
func (b *udpBatch) receive() (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(b.fd), uintptr(unsafe.Pointer(&b.in[0])), udpBatchSize, unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN, unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("read replies: %w", errno)
}

// reply is one that was received, until the next are.
func (b *udpBatch) reply(i int) []byte { return b.replies[i][:b.in[i].n] }
