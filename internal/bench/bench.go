// Package bench measures what an announce costs a tracker, as a ratio to other servers in the same run.
//
// Times on their own say little: a virtual machine's core changes from hour to hour. So each figure is a pair, the
// server under test and a floor (or an oracle), loaded in turn, A B A B, by the same client; the median of each and
// their ratio are what docs/benchmarks.md records.
//
// The way of one measurement: StartPinned puts the server on a core of its own with GOMAXPROCS=1; Load drives it from
// the other core until the server, not the client, is the bottleneck; CPUTime reads what the kernel charged to the
// server before and after; the difference over the replies counted is the cost of an announce. The client's own time is
// never counted.
//
// The benchmarks are in the test files; run them with make bench. Linux only: the client is built on raw sockets and
// epoll.
package bench
