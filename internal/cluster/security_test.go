package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// replyOf makes of text what a script of Redis's might answer: a word a line, ( and ) around a list, # for what is no text.
func replyOf(text string) []any {
	stack := [][]any{nil}
	for word := range strings.SplitSeq(text, "\n") {
		top := len(stack) - 1
		switch {
		case word == "(" && top < 8:
			stack = append(stack, nil)
		case word == ")" && top > 0:
			stack[top-1] = append(stack[top-1], stack[top])
			stack = stack[:top]
		case word == "#":
			stack[top] = append(stack[top], int64(1), nil, 1.5)
		default:
			stack[top] = append(stack[top], word)
		}
	}
	return stack[0]
}

// FuzzParseReplies: whoever can write to Redis decides what it answers, and that is read or refused, within bounds.
func FuzzParseReplies(f *testing.F) {
	f.Add("1764000000000000\nlife\n12\n(\nabcd\n1 {}\nabce\n0 \n)")
	f.Add("switch ws\n5\n1 2 3 text here\nblock x\n6\n1 2 x text")
	f.Add("#\n(\n(\n#\n)\n)\nx")
	f.Add("9223372036854775807\nl\n-9223372036854775808\n(\n)")
	f.Fuzz(func(t *testing.T, text string) {
		raw := replyOf(text)
		if r, err := parseBeat(raw); err == nil {
			if len(r.peers) > maxNodes || r.life == "" {
				t.Errorf("%q: got %+v", text, r)
			}
			for _, p := range r.peers {
				if len(p.State) > maxState {
					t.Errorf("%q: got a state of %d bytes", text, len(p.State))
				}
			}
		}
		news, err := parseNews(raw)
		for _, i := range news {
			if err != nil || len(i.What) > maxWhatBytes || len(i.Text) > maxTextBytes || i.What != "" && (i.At <= 0 || i.At > maxTimeUs) {
				t.Errorf("%q: got %+v, %v", text, i, err)
			}
		}
	})
}

// FuzzOrdersFile: a file of orders that makes no sense is as good as none; what is taken of one is within bounds.
func FuzzOrdersFile(f *testing.F) {
	f.Add(`{"version":1,"orders":[{"what":"switch ws","text":"{}","at_us":1764000000000000}]}`)
	f.Add(`{"orders":[null,{"what":"","at_us":1},{"what":"x","at_us":-1},{"what":"x","at_us":1e300}]}`)
	f.Add(`{"orders":[{"what":"` + strings.Repeat("x", 2000) + `","at_us":5}]}`)
	file := filepath.Join(f.TempDir(), "cluster.json")
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		n, problem := New(Config{File: file}, nil)
		if n == nil {
			t.Fatalf("%q: no node: %v", content, problem)
		}
		if problem != nil && len(n.orders.entries) > 0 {
			t.Errorf("%q: got %d orders and %v", content, len(n.orders.entries), problem)
		}
		for what, e := range n.orders.entries {
			if what != e.What || what == "" || len(what) > maxWhatBytes || len(e.Text) > maxTextBytes || e.At <= 0 {
				t.Errorf("%q: got %+v", content, e)
			}
		}
		n.orders.forget(time.Now().UnixMicro())
	})
}

// An order that says it is of next year would overrule all that are given until then.
func TestOrdersOfTheFutureAreNotFollowed(t *testing.T) {
	t.Parallel()
	var followed []string
	n := newNode(t, Config{Apply: func(o Order) { followed = append(followed, o.What) }})
	now := n.clock(time.Now())
	n.learn(&entry{What: "switch ws", Text: "{}", At: now + 365*24*time.Hour.Microseconds()}, 1)
	if len(followed) > 0 || n.metrics.ordersUnheeded.Load() != 1 || len(n.orders.entries) > 0 {
		t.Errorf("an order of next year: followed %q, known %v", followed, n.orders.entries)
	}
	n.learn(&entry{What: "switch ws", Text: "{}", At: now}, 1)
	if !slices.Equal(followed, []string{"switch ws"}) {
		t.Errorf("an order of now: followed %q", followed)
	}
}

// The file of orders is read and written through no link, and a FIFO does not hang the start.
func TestOrdersFileIsNoLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, target := filepath.Join(dir, "cluster.json"), filepath.Join(dir, "another's")
	if err := errors.Join(os.WriteFile(target, []byte(`{"orders":[]}`), 0o600), os.Symlink(target, file), os.Symlink(target, file+".tmp")); err != nil {
		t.Fatal(err)
	}
	if _, problem := New(Config{File: file}, nil); problem == nil {
		t.Error("a link was read")
	}
	kept := &orders{file: file, changed: true}
	kept.save(newNode(t, Config{}))
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
		t.Errorf("not written: %v, %v", info, err)
	}
	if b, _ := os.ReadFile(target); string(b) != `{"orders":[]}` {
		t.Errorf("written through a link: %s", b)
	}
	if err := errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, problem := New(Config{File: file}, nil); problem == nil {
		t.Error("a FIFO was read")
	}
}
