package listen

import (
	"log/slog"

	"golang.org/x/sys/unix"
)

// reservedFiles are kept for what is no public connection: the admin listener's 256, listeners, logs, snapshots.
const reservedFiles = 512

// FitMaxConns raises the soft limit of open files as far as maxConns needs it and the hard limit lets it, and returns how many
// connections fit, at most maxConns. It warns, naming key (as "http.max_conns"), if that is fewer: accept would fail with EMFILE,
// and so would the snapshot.
func FitMaxConns(maxConns int, key string, log *slog.Logger) int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("limit of open files unknown", "err", err)
		return maxConns
	}
	need := uint64(maxConns) + reservedFiles
	if limit.Cur < need && limit.Cur < limit.Max {
		raised := unix.Rlimit{Cur: min(need, limit.Max), Max: limit.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err == nil {
			limit = raised
		}
	}
	fits := fitConns(maxConns, limit.Cur)
	if fits < maxConns {
		log.Warn(key+" lowered to the limit of open files; raise LimitNOFILE (ulimit -n) or lower "+key,
			"wanted", maxConns, "fits", fits, "limit_nofile", limit.Cur, "needed", need)
	}
	return fits
}

// fitConns is how many connections files leaves room for. Under a tiny limit, connections and the rest share it.
func fitConns(maxConns int, files uint64) int {
	room := max(files/2, files-min(files, reservedFiles), 1)
	return int(min(uint64(maxConns), room))
}
