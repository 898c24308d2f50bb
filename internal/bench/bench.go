// Package bench measures what an announce costs a tracker, as a ratio to other servers in the same run.
//
// Times on their own say little: a virtual machine's core changes from hour to hour. So each figure is a pair, the
// server under test and a floor (or an oracle), loaded in turn, A B A B, by the same client; the median of each and
// their ratio are what docs/benchmarks.md records.
//
// The way of one measurement: startSpillway and its like put the server on a core of its own with GOMAXPROCS=1
// (servers_test.go); a load drives it from the other core until the server, not the client, is the bottleneck
// (load_test.go, udp_load_test.go, ws_load_test.go); what the kernel charged to the server meanwhile, over the replies
// counted, is the cost of an announce, and contest compares those of several (contest_test.go). The client's own time is
// never counted.
//
// All of it is tests: run them with make bench. BenchmarkPeers has other trackers (make bench-peers), BenchmarkFlood has
// internal/flood ask for more than can be served (make bench-flood).
package bench
