//go:build e2e

package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/internal/waittest"
	"spillway/tracker/swarm/shared/link"
)

// redisServer is a real redis-server that forgets all when it ends.
type redisServer struct {
	t    *testing.T
	addr string
	argv []string

	username, password string
	cmd                *exec.Cmd
}

func startRedis(t *testing.T, flags ...string) *redisServer {
	t.Helper()
	port := freePort(t)
	addr := "127.0.0.1:" + port
	r := &redisServer{t: t, addr: addr}
	name := cmp.Or(os.Getenv("SPILLWAY_TEST_REDIS"), "redis-server") // or valkey-server
	r.argv = append([]string{name, "--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--appendonly", "no"}, flags...)
	r.start()
	t.Cleanup(r.kill)
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command(r.argv[0], r.argv[1:]...)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("%v; .ci/install installs it", err)
	}
	waittest.Until(r.t, patience, "redis answers", func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})

}

func (r *redisServer) kill() {
	if r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	}
}

// tester is a node that notes what it is sent and told.
type tester struct {
	*Node
	stop func()

	mu       sync.Mutex // guards what follows
	messages []string
	told     []string
}

func startNode(t *testing.T, r *redisServer, file string) *tester {
	t.Helper()
	n := &tester{}
	var err error
	n.Node, err = New(Config{
		Redis: link.Config{Addrs: []string{r.addr}, Username: r.username, Password: r.password, Name: "a b"},
		File:  file, State: func() string { return "calm" },
		Receive: func(b []byte) { n.mu.Lock(); defer n.mu.Unlock(); n.messages = append(n.messages, string(b)) },
		Apply:   func(o Order) { n.mu.Lock(); defer n.mu.Unlock(); n.told = append(n.told, o.What+"="+o.Text) },
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.Run(ctx) })
	n.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(n.stop)
	return n
}

func (n *tester) got() (messages, orders []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.messages, n.told
}

func (n *tester) gotOrders() string {
	_, orders := n.got()
	return strings.Join(orders, " ")
}

// meet waits until both know of one another.
func meet(t *testing.T, a, b *tester) {
	t.Helper()
	waittest.Until(t, patience, "nodes meet", func() bool { return a.Alive(b.ID()) && b.Alive(a.ID()) })
}

// TestNodesTalk: messages arrive, whole, in order and soon; a node that ends is known to have, at once if it says so and after its
// lifetime if it cannot; and after Redis was killed and is back, empty, they talk on.
func TestNodesTalk(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	a, b, c := startNode(t, r, ""), startNode(t, r, ""), startNode(t, r, "")
	meet(t, a, b)
	meet(t, a, c)
	talk := func(round string) {
		t.Helper()
		want := 300
		before, _ := b.got()
		began := time.Now()
		for i := range want {
			if !a.Send(b.ID(), fmt.Appendf(nil, "%s %d %s", round, i, strings.Repeat("x", i*13))) {
				t.Fatalf("message %d: not taken", i)
			}
		}
		waittest.Until(t, patience, "all arrive", func() bool { m, _ := b.got(); return len(m)-len(before) == want })
		t.Logf("%s: %d messages in %v", round, want, time.Since(began))
		m, _ := b.got()
		for i, text := range m[len(before):] {
			if text != fmt.Sprintf("%s %d %s", round, i, strings.Repeat("x", i*13)) {
				t.Fatalf("message %d: got %.40q", i, text)
			}
		}
		if m, _ := c.got(); len(m) != 0 {
			t.Errorf("node that nobody has sent anything: got %d messages", len(m))
		}
	}
	talk("first")
	if p := a.Peers(); len(p) != 3 || p[0].State != "calm" {
		t.Errorf("peers: got %v, want three that are calm", p)
	}
	began := time.Now()
	c.stop()
	waittest.Until(t, lifetime*2/3, "a node that stops is gone at once", func() bool { return !a.Alive(c.ID()) })
	t.Logf("stopped node unknown after %v", time.Since(began))

	r.kill()
	waittest.Until(t, patience, "messages are refused", func() bool { return !a.Send(b.ID(), []byte("lost")) })
	waittest.Until(t, lifetime+patience, "nobody is known to live", func() bool { return !a.Alive(b.ID()) && len(a.Peers()) == 0 })
	r.start()
	meet(t, a, b)
	talk("again")

	// A hang is known too, and ends.
	_ = r.cmd.Process.Signal(syscall.SIGSTOP)
	began = time.Now()
	waittest.Until(t, patience, "messages are refused", func() bool { return !a.Send(b.ID(), []byte("lost")) })
	t.Logf("messages to a hung Redis refused after %v", time.Since(began))
	_ = r.cmd.Process.Signal(syscall.SIGCONT)
	meet(t, a, b)
	waittest.Until(t, patience, "messages are taken", func() bool { return a.Send(b.ID(), []byte("x")) })
}

// TestOrders: those that are there are told, those that come later too, and those that come back; the last word counts; what Redis
// has lost is told again; and nobody is told twice.
func TestOrders(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	fileB := filepath.Join(t.TempDir(), "orders")
	a, b := startNode(t, r, ""), startNode(t, r, fileB)
	meet(t, a, b)
	order := func(n *tester, what, text string, d time.Duration) {
		t.Helper()
		if err := n.Order(context.Background(), what, text, d, 0); err != nil {
			t.Fatalf("order %s %s: %v", what, text, err)
		}
	}
	wants := func(n *tester, want string) {
		t.Helper()
		began := time.Now()
		waittest.Until(t, patience, "orders "+want, func() bool { return n.gotOrders() == want })
		t.Logf("%s after %v", want, time.Since(began))
	}
	order(a, "switch ws", "off", 0)
	wants(b, "switch ws=off")
	b.stop()
	order(a, "switch ws", "drain", 0)
	order(a, "block x", "yes", 0)
	order(a, "block short", "yes", 100*time.Millisecond)
	time.Sleep(200 * time.Millisecond)
	order(a, "switch udp", "off", 0) // and what is over is forgotten
	b = startNode(t, r, fileB)
	wants(b, "switch ws=drain block x=yes switch udp=off")
	if got := a.gotOrders(); got != "" {
		t.Errorf("who gave them: got %q, want nothing", got)
	}

	// Redis is killed. An order is kept, and told when it is back; what it has forgotten as well.
	r.kill()
	waittest.Until(t, patience, "b knows", func() bool { return !b.up.Load() })
	began := time.Now()
	err := b.Order(context.Background(), "switch ws", "on", 0, 0)
	if !errors.Is(err, ErrUntold) || time.Since(began) > patience {
		t.Errorf("order without Redis: got %v after %v, want ErrUntold soon", err, time.Since(began))
	}
	b.stop() // and a restart does not lose it
	b = startNode(t, r, fileB)
	r.start()
	wants(a, "switch ws=on")
	c := startNode(t, r, "")
	waittest.Until(t, patience, "a node that is new", func() bool {
		got := c.gotOrders()
		return strings.Contains(got, "switch ws=on") && strings.Contains(got, "block x=yes") && strings.Contains(got, "switch udp=off") && len(strings.Fields(got)) == 6
	})

	if got := b.gotOrders(); got != "" {
		t.Errorf("b, which knew all: got %q, want nothing", got)
	}
	// An earlier word that comes late does not count.
	early := &entry{What: "switch ws", Text: "early", At: a.clock(time.Now().Add(-time.Hour)), Untold: true}
	a.Node.orders.mu.Lock()
	a.Node.orders.entries["switch ws"] = early
	a.Node.orders.mu.Unlock()
	if err := a.tell(context.Background()); err != nil {
		t.Fatal(err)
	}
	order(a, "switch http", "last", 0)
	waittest.Until(t, patience, "c hears the last", func() bool { return strings.HasSuffix(c.gotOrders(), "switch http=last") })
	if got := c.gotOrders(); strings.Contains(got, "early") {
		t.Errorf("c: got %q, want no early", got)
	}
}

// TestRights: what docs/redis.md says is enough is enough.
func TestRights(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	user := []any{"acl", "setuser", "tracker", "on", ">secret", "~sw:*", "&sw:*", "-@all"}
	_, section, _ := strings.Cut(string(docs), "## Rights")
	for _, quoted := range strings.Split(section, "`")[1:] {
		for _, r := range strings.Fields(quoted) {
			if strings.HasPrefix(r, "+") {
				user = append(user, r)
			}
		}
	}
	for _, clustered := range []bool{false, true} {
		servers := []*redisServer{startRedis(t)}
		if clustered {
			servers = startMasters(t)
		}
		r := servers[0]
		for _, one := range servers {
			c := redis.NewClient(&redis.Options{Addr: one.addr, DisableIdentity: true, Protocol: 2})
			if err := c.Do(context.Background(), user...).Err(); err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
		}
		r.username, r.password = "tracker", "secret"
		a, b := startNode(t, r, ""), startNode(t, r, "")
		meet(t, a, b)
		if !a.Send(b.ID(), []byte("hello")) {
			t.Error("message: not taken")
		}
		if err := a.Order(context.Background(), "switch ws", "off", time.Minute, 0); err != nil {
			t.Error(err)
		}
		waittest.Until(t, patience, "message and order arrive", func() bool {
			m, o := b.got()
			return len(m) == 1 && len(o) == 1
		})

	}
}

// startMasters starts three masters that are one Redis Cluster.
func startMasters(t *testing.T) (masters []*redisServer) {
	t.Helper()
	argv := []string{"redis-cli", "--cluster-yes", "--cluster-replicas", "0", "--cluster", "create"}
	for range 3 {
		m := startRedis(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")
		masters, argv = append(masters, m), append(argv, m.addr)
	}
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	for _, m := range masters {
		c := redis.NewClient(&redis.Options{Addr: m.addr, DisableIdentity: true, Protocol: 2})
		waittest.Until(t, patience, "the cluster is up", func() bool {
			return strings.Contains(c.ClusterInfo(context.Background()).Val(), "cluster_state:ok")
		})

		_ = c.Close()
	}
	return masters
}

// TestMastersDie: whichever master of a cluster is killed, when it is back nodes know of one another, talk, and know all orders.
func TestMastersDie(t *testing.T) {
	t.Parallel()
	masters := startMasters(t)
	a, b := startNode(t, masters[0], ""), startNode(t, masters[0], "")
	for round := range len(masters) + 1 {
		if round > 0 {
			masters[round-1].kill()
			time.Sleep(1500 * time.Millisecond) // the others notice after a second
			masters[round-1].start()
		}
		began := time.Now()
		waittest.Until(t, patience, "both ways", func() bool {
			text := fmt.Appendf(nil, "%d %d", round, time.Now().UnixNano())
			there := a.Alive(b.ID()) && b.Alive(a.ID()) && a.Send(b.ID(), text) && b.Send(a.ID(), text)
			time.Sleep(20 * time.Millisecond)
			m, _ := a.got()
			n, _ := b.got()
			return there && len(m) > 0 && len(n) > 0 && m[len(m)-1] == string(text) && n[len(n)-1] == string(text)
		})

		t.Logf("round %d: talk after %v", round, time.Since(began))
		what := fmt.Sprintf("switch %d", round)
		waittest.Until(t, patience, "an order is taken", func() bool {
			return a.Order(context.Background(), what, "off", 0, 0) == nil
		})

		waittest.Until(t, patience, "and followed", func() bool { return strings.Contains(b.gotOrders(), what+"=off") })
	}
	c := startNode(t, masters[0], "")
	waittest.Until(t, patience, "a new node knows all", func() bool { _, o := c.got(); return len(o) == len(masters)+1 })
}

// freePort is below those that Linux gives to outgoing connections, and leaves room for a cluster node's bus at +10000.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := 10000 + rand.IntN(600)*20 + int(ports.Add(1))%20
		if bindable(port) && bindable(port+10000) {
			return strconv.Itoa(port)
		}
	}
	t.Fatal("no free port")
	return ""
}

var ports atomic.Int32

func bindable(port int) bool {
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		_ = ln.Close()
	}
	return err == nil
}
