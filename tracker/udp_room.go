package tracker

import (
	"time"

	"golang.org/x/sys/unix"
)

// udpRoom decides how many bytes of packets may wait for a socket, so that the kernel drops those that would be answered too late.
//
// Over UDP nothing is cheaper than that: to answer "later" costs what to answer does, and to read and be silent costs 0.4 of it.
// So what has been read is answered, and the queue is kept as short as the share of the core that the socket has allows: what
// tells is the youngest packet of a window (CoDel, RFC 8289). While even that has waited, packets stand in the queue that need not.
// Where a goroutine waits long for its turn, as beside other programs, most packets are old, and the youngest is not: room
// that is taken away then is work that is missing in the next turn. It is pure.
type udpRoom struct {
	most, now int // bytes, as SO_RCVBUF counts

	since            time.Time // of the window
	packets          int
	youngest, oldest time.Duration
	crowded          bool
}

const (
	udpLeastRoom  = 64 << 10               // 80 to 170 packets
	udpWindow     = 100 * time.Millisecond // longer than any turn of the core takes
	udpStanding   = 20 * time.Millisecond  // what the youngest may have waited
	udpRoomGrowth = 1.25
)

func newUDPRoom(most int) udpRoom { return udpRoom{most: most, now: most} }

// saw takes the age of a packet that was read; one whose age is not known says nothing.
func (r *udpRoom) saw(age time.Duration) {
	if age < 0 {
		return
	}
	if r.packets == 0 {
		r.youngest, r.oldest = age, age
	}
	r.youngest, r.oldest = min(r.youngest, age), max(r.oldest, age)
	r.packets++
}

// due tells whether the window is over. The caller then calls step.
func (r *udpRoom) due(now time.Time) bool { return now.Sub(r.since) >= udpWindow }

// step ends the window, and tells whether the room has changed. Full says that packets found none in it.
func (r *udpRoom) step(now time.Time, full bool) (changed bool) {
	room, youngest := r.now, r.youngest
	if r.packets < udpBatch || now.Sub(r.since) > 2*udpWindow {
		youngest = 0 // it was idle: nothing stands
	}
	r.since, r.packets = now, 0
	r.crowded = full || youngest > udpStanding/4
	switch {
	case youngest > udpStanding:
		// The oldest has waited for as long as a full queue takes.
		room = int(float64(room) * max(1-float64(youngest-udpStanding)/float64(r.oldest), 0.5))
	case youngest < udpStanding/2:
		room = int(float64(room) * udpRoomGrowth)
	}
	room = min(max(room, min(udpLeastRoom, r.most)), r.most)
	changed, r.now = room != r.now, room
	return changed
}

// setUDPRoom bounds the bytes of packets that may wait; the kernel doubles them, for its own part of each. More than
// net.core.rmem_max needs CAP_NET_ADMIN, and is cut without.
func setUDPRoom(fd, bytes int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}
