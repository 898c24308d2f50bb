package proxy

import (
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxBurst = 64
	// filePause is how long a loop that could not get a descriptor does not accept.
	filePause = 100 * time.Millisecond
	// reservedFiles are kept for what is no connection: the pipes, the admin listener, probes, logs.
	reservedFiles = 256 + 2*maxPipes
)

// arm has epoll tell of the listeners that listen.
func (l *loop) arm() {
	if l.held {
		return
	}
	for i, ln := range l.p.listeners {
		if l.armed[i] || !ln.listening.Load() {
			continue
		}
		// Exclusive: one loop is told of a connection, not all.
		err := epollCtl(l.ep, unix.EPOLL_CTL_ADD, ln.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, int32(eventListener-i), 0)
		if err != nil {
			l.p.log.Error("cannot watch a listener", "listen", ln.name, "err", err)
			continue
		}
		l.armed[i], l.burst[i] = true, 1
	}
}

func (l *loop) disarm(i int) {
	if l.armed[i] {
		_ = epollCtl(l.ep, unix.EPOLL_CTL_DEL, l.p.listeners[i].fd, 0, 0, 0)
		l.armed[i] = false
	}
}

// hold stops accepting until the clock shows till and there is room.
func (l *loop) hold(till int64) {
	if !l.held {
		l.held = true
		l.p.held.Add(1)
		for i := range l.armed {
			l.disarm(i)
		}
	}
	l.heldTill = max(l.heldTill, till)
	l.startTicking()
}

// resume accepts again, and tells the others if there is room for theirs.
func (l *loop) resume() {
	if l.held && l.now >= l.heldTill && l.p.conns.Load() < l.p.maxConns {
		l.held = false
		l.p.held.Add(-1)
		l.arm()
	}
	if l.freed {
		l.freed = false
		if l.p.held.Load() > 0 {
			l.p.wakeLoops(l)
		}
	}
}

// accept takes what waits at a listener, at most a burst of it: what is left epoll tells again, after the others have had their turn.
// A burst grows while it is full, so that a lone connection is not followed by a call that finds nothing.
func (l *loop) accept(i int) {
	for taken := range l.burst[i] {
		if l.held {
			return
		}
		if l.p.conns.Add(1) > l.p.maxConns {
			l.p.conns.Add(-1)
			l.hold(0)
			return
		}
		fd, err := l.peer.accept(l.p.listeners[i].fd)
		if err == nil {
			l.start(fd)
			continue
		}
		l.p.conns.Add(-1)
		if outOfFiles(err) {
			l.outOfFiles(err)
		}
		if err != unix.ECONNABORTED && err != unix.EINTR { // nobody is left, or it does not listen any more
			l.burst[i] = max(taken, 1)
			return
		}
	}
	l.burst[i] = min(2*l.burst[i], maxBurst)
}

func (l *loop) outOfFiles(err error) {
	l.p.stats.files.Add(1)
	l.p.log.Warn("no file descriptor for a connection; raise LimitNOFILE (ulimit -n) or lower relay.proxy.max_conns", "err", err)
	l.hold(l.now + int64(filePause))
}

// fitConns raises the limit of open files as far as the hard limit lets it, and returns how many connections fit, at most maxConns.
func fitConns(maxConns int, log *slog.Logger) int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("limit of open files unknown", "err", err)
		return maxConns
	}
	if limit.Cur < limit.Max {
		raised := unix.Rlimit{Cur: limit.Max, Max: limit.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err == nil {
			limit = raised
		}
	}
	fits := connsFor(maxConns, limit.Cur)
	if fits < maxConns {
		log.Warn("relay.proxy.max_conns lowered to the limit of open files; raise LimitNOFILE (ulimit -n) or lower relay.proxy.max_conns",
			"wanted", maxConns, "fits", fits, "limit_nofile", limit.Cur, "needed", 2*uint64(maxConns)+reservedFiles)
	}
	return fits
}

// connsFor is how many connections files leaves room for, two each. Under a tiny limit, connections and the rest share it.
func connsFor(maxConns int, files uint64) int {
	room := max(files/2, files-min(files, reservedFiles), 2)
	return int(min(uint64(maxConns), room/2))
}
