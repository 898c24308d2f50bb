package shedder

import (
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
)

// Shares of the memory there is above which new WebSockets, and then all new connections, are refused.
const (
	memoryUpgrades = 0.85
	memoryConns    = 0.92
	memoryAgain    = 0.03 // below either, so that it does not flap
)

// Levels of memory.
const (
	memoryFine = iota
	memoryTight
	memoryFull
)

// memoryLevel is pure: the level that follows from the one before.
func memoryLevel(level int, used, most int64) int {
	share := float64(used) / float64(max(most, 1))
	switch {
	case most <= 0:
		return memoryFine
	case share > memoryConns, level == memoryFull && share > memoryConns-memoryAgain:
		return memoryFull
	case share > memoryUpgrades, level >= memoryTight && share > memoryUpgrades-memoryAgain:
		return memoryTight
	}
	return memoryFine
}

// MemoryLimit is what the process may use: GOMEMLIMIT, or else nine tenths of what its cgroup or the machine has; 0 where
// nothing tells.
func MemoryLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return limit
	}
	most := int64(0)
	smaller := func(n int64) {
		if n > 0 && (most == 0 || n < most) {
			most = n
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
				kib, _ := strconv.ParseInt(f[1], 10, 64)
				smaller(kib << 10)
			}
		}
	}
	if b, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		if _, path, ok := strings.Cut(strings.TrimSpace(string(b)), "0::"); ok {
			b, _ := os.ReadFile("/sys/fs/cgroup" + path + "/memory.max") // the word max, or no file: no bound
			n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			smaller(n)
		}
	}
	return most / 10 * 9
}

// memoryUsed is what Go has of the kernel and has not given back. Reading it stops nothing.
func memoryUsed(samples []metrics.Sample) int64 {
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}

func memorySamples() []metrics.Sample {
	return []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
}
