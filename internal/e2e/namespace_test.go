//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// namespace is a network namespace joined to ours by a veth pair: clients in it have addresses of their own.
type namespace struct {
	name    string
	outside string    // our end's address
	inside  [2]string // two addresses in it
}

// newNamespace makes a namespace that goes with the test. The addresses are of 198.18.0.0/15, the range RFC 2544 sets
// aside for tests of network devices, and not martian to any client as 127/8 is.
func newNamespace(t *testing.T) namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("network namespaces need root")
	}
	n := rand.IntN(2 * 256)
	net := fmt.Sprintf("198.%d.%d.", 18+n/256, n%256)
	ns := namespace{name: fmt.Sprintf("spillway-%d-%d", os.Getpid(), n), outside: net + "254", inside: [2]string{net + "1", net + "2"}}
	ours, theirs := fmt.Sprintf("spw%da", n), fmt.Sprintf("spw%db", n)
	ip(t, "netns", "add", ns.name)
	t.Cleanup(func() { output("ip", "netns", "del", ns.name) }) // takes the veth pair with it
	ip(t, "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", ns.name)
	ip(t, "addr", "add", ns.outside+"/24", "dev", ours)
	ip(t, "link", "set", ours, "up")
	ip(t, "-n", ns.name, "link", "set", "lo", "up")
	for _, addr := range ns.inside {
		ip(t, "-n", ns.name, "addr", "add", addr+"/24", "dev", theirs)
	}
	ip(t, "-n", ns.name, "link", "set", theirs, "up")
	return ns
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if _, err := output(append([]string{"ip"}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// start runs argv inside; without a namespace, beside us.
func (ns namespace) start(t *testing.T, name string, argv ...string) *process {
	t.Helper()
	if ns.name == "" {
		return start(t, name, argv...)
	}
	return start(t, name, append([]string{"ip", "netns", "exec", ns.name}, argv...)...)
}
