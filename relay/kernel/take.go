package kernel

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"spillway/relay"
)

// An earlier relay's table, maybe one that was killed while a backend was down, is taken over. If ours would be the same it stays
// as it is: not a packet is treated otherwise. If not, it is replaced in one transaction. A first packet that is between the old
// chain and the new at that very instant meets neither, and is refused: one connection in a thousand or so of those opened
// meanwhile, on each change of the configuration.

// lockName is an abstract unix socket: of the network namespace, as the table is, and the kernel frees it whatever ends the process.
const lockName = "@spillway-relay"

func lock() (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("lock: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: lockName})
	if err == nil {
		return fd, nil
	}
	_ = unix.Close(fd)
	if errors.Is(err, unix.EADDRINUSE) {
		return -1, ErrRunning
	}
	return -1, fmt.Errorf("lock: %w", err)
}

// Comments by which our table is told from another program's of that name. The whole mark has a digest of all that does not depend
// on a plan.
const mark = "spillway relay"

var errForeign = errors.New("it exists and was not made by spillway relay; remove or rename it")

func (cfg Config) mark() string {
	digest := sha256.New()
	for _, m := range cfg.build(&batch{}, "").msgs {
		_, _ = digest.Write(m.body)
	}
	return fmt.Sprintf("%s %x", mark, digest.Sum(nil)[:8])
}

// owner tells whether there is a table of our name, and whether it is ours.
func owner(s *socket) (exists, ours bool, err error) {
	exists, found, err := ownMark(s)
	return exists, strings.HasPrefix(found, mark), err
}

func ownMark(s *socket) (exists bool, found string, err error) {
	_, err = s.ask(unix.NFT_MSG_GETTABLE, 0, appendText(nil, unix.NFTA_TABLE_NAME, TableName), func([]byte) { exists = true })
	if errors.Is(err, unix.ENOENT) {
		return false, "", nil
	}
	if err != nil {
		return false, "", err
	}
	attrs := appendText(appendText(nil, unix.NFTA_RULE_TABLE, TableName), unix.NFTA_RULE_CHAIN, "untracked")
	rules, err := s.dump(unix.NFT_MSG_GETRULE, attrs)
	for _, r := range rules {
		comment, _ := userdata.GetString(attribute(r, unix.NFTA_RULE_USERDATA), userdata.TypeComment)
		if text(attribute(r, unix.NFTA_RULE_TABLE)) == TableName && strings.HasPrefix(comment, mark) {
			found = comment
		}
	}
	return exists, found, err
}

// hasRules tells whether the table has any: ours has none after nft flush table, and then nothing says that it is ours.
func hasRules(s *socket) (bool, error) {
	rules, err := s.dump(unix.NFT_MSG_GETRULE, appendText(nil, unix.NFTA_RULE_TABLE, TableName))
	return slices.ContainsFunc(rules, func(r []byte) bool { return text(attribute(r, unix.NFTA_RULE_TABLE)) == TableName }), err
}

// adopt takes the table as it is, if it is as ours would be. Counters go on from where they are.
func (p *Path) adopt() (bool, error) {
	if _, found, err := ownMark(p.socket); err != nil || found != p.cfg.mark() {
		return false, err
	}
	plan, err := p.cfg.planBefore(p.socket)
	if err != nil {
		return false, nil // it is replaced
	}
	if whole, err := p.cfg.whole(p.socket, &plan); err != nil || !whole {
		return false, err
	}
	if err := p.readCounters(); err != nil {
		return false, err
	}
	for name, n := range p.counted {
		p.earlier[name] = -n // modulo 2^64; the sum is what is new
	}
	p.plan = plan
	if left, err := hasChain(p.socket, dead.name); err != nil || !left || slices.Contains(plan.Down, true) {
		return err == nil, err
	}
	b := &batch{} // an earlier relay's refusal has ended, and what looks for it is there still
	b.takeAway(dead)
	return true, p.commit(b)
}

func hasChain(s *socket, name string) (bool, error) {
	chains, err := s.dump(unix.NFT_MSG_GETCHAIN, nil)
	return slices.ContainsFunc(chains, func(c []byte) bool {
		return text(attribute(c, unix.NFTA_CHAIN_TABLE)) == TableName && text(attribute(c, unix.NFTA_CHAIN_NAME)) == name
	}), err
}

// planBefore is what the table does now.
func (cfg Config) planBefore(s *socket) (relay.Plan, error) {
	plan := cfg.first(cfg.downBefore(s, true))
	for _, f := range cfg.families() {
		slots := f.slots(&plan)
		for i := range slots {
			slots[i] = relay.Nobody
		}
		lists, err := s.dump(unix.NFT_MSG_GETSETELEM, setAttrs("slots"+f.name))
		if err != nil {
			return plan, err
		}
		for _, list := range lists {
			for _, item := range attributes(attribute(list, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
				slot := attribute(item, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
				chain := text(attribute(item, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN))
				for i := range cfg.Backends {
					n, checks := keySlot(slot), chain == chainOf("check", i)
					if n < 0 || !checks && chain != chainOf("to", i) {
						continue
					}
					slots[n] = int16(i)
					if checks && !plan.Down[i] { // what it was checked for has ended
						plan.Open[i] = min(plan.Open[i], relay.Bands-1)
					}
				}
			}
		}
	}
	lists, err := s.dump(unix.NFT_MSG_GETSETELEM, setAttrs("closed"))
	for _, list := range lists {
		for key := range elementsOf(list) {
			for i := range cfg.Backends {
				for k := 1; k < relay.Bands; k++ {
					if string(bandKey(i, k)) == string(key) {
						plan.Open[i] = min(plan.Open[i], k)
					}
				}
			}
		}
	}
	return plan, err
}

// first is the plan until the first Apply.
func (cfg Config) first(left []time.Duration) relay.Plan {
	p := relay.Plan{Down: make([]bool, len(cfg.Backends)), Open: make([]int, len(cfg.Backends))}
	for i := range cfg.Backends {
		p.Down[i] = left[i] > 0
		p.Open[i] = relay.Bands
	}
	p.Slots4, p.Slots6 = cfg.share(&ipv4, p.Down), cfg.share(&ipv6, p.Down)
	return p
}

// downBefore is for how long an earlier relay's table still refuses what is for our backends. What cannot be read counts as over.
func (cfg Config) downBefore(s *socket, exists bool) []time.Duration {
	left := make([]time.Duration, len(cfg.Backends))
	for _, f := range cfg.families() {
		if !exists {
			break
		}
		lists, _ := s.dump(unix.NFT_MSG_GETSETELEM, setAttrs("down"+f.name))
		for _, list := range lists {
			for key, d := range elementsOf(list) {
				if i := slices.IndexFunc(cfg.Backends, func(b relay.Backend) bool { return b.Addr == keyAddrPort(key) }); i >= 0 {
					left[i] = min(d, relay.Forget)
				}
			}
		}
	}
	return left
}

// Revert removes the table, so that this machine forwards nothing of ours any more. Without a table it does nothing.
func Revert() error {
	if err := revert(); err != nil {
		return fmt.Errorf("table inet %s: %w", TableName, err)
	}
	return nil
}

func revert() error {
	s, err := dial()
	if err != nil {
		return unavailable(err)
	}
	defer s.close()
	fd, err := lock()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	exists, ours, err := owner(s)
	switch {
	case err != nil:
		return unavailable(err)
	case !exists:
		return nil
	case !ours:
		return errForeign
	}
	b := &batch{}
	b.add(unix.NFT_MSG_DELTABLE, 0, "table", appendText(nil, unix.NFTA_TABLE_NAME, TableName))
	return s.commit(b)
}
