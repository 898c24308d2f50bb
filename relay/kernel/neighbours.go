package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// most of other programs' rules that are looked at, and of times that they are read when they change meanwhile.
const (
	mostRules = 1 << 16
	mostReads = 5
)

// gate is a chain of another table that the kernel calls for what is forwarded.
type gate struct {
	family       byte
	table, chain string
	drops        bool // what it does not accept
}

// Neighbours tells which other programs' rules on this machine, as those of ufw, docker or firewalld, would drop what is forwarded to
// backends, or their answers, in words with the remedy. It changes nothing, and needs CAP_NET_ADMIN. It is right about what it
// knows of a packet: who a client is, or what is in a set, it does not.
func Neighbours(backends []netip.AddrPort) ([]string, error) {
	var found []string
	gates, rules, err := readGates()
	if err != nil {
		return nil, fmt.Errorf("other firewalls: %w", err)
	}
	for _, g := range gates {
		for _, b := range backends {
			b = netip.AddrPortFrom(b.Addr().Unmap(), b.Port())
			if g.family != unix.NFPROTO_INET && g.family != familyOf(b.Addr()).proto {
				continue
			}
			device, _ := deviceTo(b.Addr()) // without one, one thing less is known
			for _, answer := range []bool{false, true} {
				rs := ruleset{rules: rules[table{g.family, g.table}], steps: rulesetSteps}
				f := rs.walk(g.chain, passing{b, device, answer}, true, false, 0)
				if f == dropped || f == undecided && g.drops {
					found = append(found, g.describe(b, answer, rs.rules))
					break // the remedy is for both ways
				}
			}
		}
	}
	legacy, err := legacyTables()
	if err != nil {
		return nil, fmt.Errorf("other firewalls: %w", err)
	}
	return append(found, legacy...), nil
}

// table is one of another program.
type table struct {
	family byte
	name   string
}

// readGates gives the chains that may drop what is forwarded, and all rules of their tables, by chain.
func readGates() ([]gate, map[table]map[string][][]byte, error) {
	s, err := dial()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = s.close() }()
	for range mostReads {
		var gates []gate
		rules, count := map[table]map[string][][]byte{}, 0
		chains := question(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, unix.AF_UNSPEC, nil)
		changed, err := s.exchange(chains, func(family byte, attrs []byte) {
			if g, ok := parseGate(family, attrs); ok {
				gates = append(gates, g)
				rules[table{g.family, g.table}] = map[string][][]byte{}
			}
		})
		if err != nil || len(gates) == 0 && !changed {
			return nil, nil, err
		}
		all := question(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, unix.AF_UNSPEC, nil)
		again, err := s.exchange(all, func(family byte, attrs []byte) {
			of := rules[table{family, text(attribute(attrs, unix.NFTA_RULE_TABLE))}]
			if of == nil {
				return
			}
			if count++; count <= mostRules {
				chain := text(attribute(attrs, unix.NFTA_RULE_CHAIN))
				of[chain] = append(of[chain], slices.Clone(attribute(attrs, unix.NFTA_RULE_EXPRESSIONS)))
			}
		})
		switch {
		case err != nil:
			return nil, nil, err
		case count > mostRules:
			return nil, nil, fmt.Errorf("%d rules beside chains of what is forwarded; %d are looked at, at most", count, mostRules)
		case !changed && !again:
			return gates, rules, nil
		}
	}
	return nil, nil, errors.New("they are changed all the time")
}

// parseGate is false for chains that cannot drop what is forwarded, and our own.
func parseGate(family byte, attrs []byte) (gate, bool) {
	g := gate{family: family, table: text(attribute(attrs, unix.NFTA_CHAIN_TABLE)), chain: text(attribute(attrs, unix.NFTA_CHAIN_NAME))}
	hook := attribute(attrs, unix.NFTA_CHAIN_HOOK, unix.NFTA_HOOK_HOOKNUM)
	policy := attribute(attrs, unix.NFTA_CHAIN_POLICY)
	g.drops = policy != nil && uint32Of(policy) == nfDrop
	filters := text(attribute(attrs, unix.NFTA_CHAIN_TYPE)) == "filter"
	known := family == unix.NFPROTO_INET || family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6
	ours := family == unix.NFPROTO_INET && g.table == TableName
	return g, known && filters && !ours && len(hook) == 4 && uint32Of(hook) == unix.NF_INET_FORWARD
}

// describe says what is wrong and what would mend it.
func (g gate) describe(b netip.AddrPort, answer bool, rules map[string][][]byte) string {
	what := fmt.Sprintf("packets to %v", b)
	if answer {
		what = fmt.Sprintf("answers of %v", b)
	}
	family, how := "inet", "has a rule that drops them"
	iptables, firewalld := "iptables", "ipv4"
	if b.Addr().Is6() {
		iptables, firewalld = "ip6tables", "ipv6"
	}
	switch g.family {
	case unix.NFPROTO_IPV4:
		family = "ip"
	case unix.NFPROTO_IPV6:
		family = "ip6"
	}
	if g.drops {
		how = "drops what nobody accepts"
	}
	has := func(prefix string) bool {
		for chain := range rules {
			if strings.HasPrefix(chain, prefix) {
				return true
			}
		}
		return false
	}
	var remedy string
	switch {
	case has("ufw"):
		remedy = fmt.Sprintf("ufw route allow proto tcp to %v port %d", b.Addr(), b.Port())
	case has("DOCKER"):
		remedy = fmt.Sprintf("%s -I DOCKER-USER -p tcp -m conntrack --ctstate DNAT --ctreplsrc %v -j ACCEPT", iptables, b.Addr())
	case g.table == "firewalld":
		remedy = fmt.Sprintf("a policy of firewalld (ingress zone ANY, egress zone ANY) with --add-rich-rule='rule family=%q destination address=%q "+
			"port port=\"%d\" protocol=\"tcp\" accept'", firewalld, b.Addr(), b.Port())
	case family != "inet" && g.table == "filter" && g.chain == "FORWARD":
		remedy = fmt.Sprintf("%s -I FORWARD -p tcp -m conntrack --ctstate DNAT --ctreplsrc %v -j ACCEPT", iptables, b.Addr())
	default:
		remedy = fmt.Sprintf("nft insert rule %s %s %s ct status dnat accept", family, g.table, g.chain)
	}
	return fmt.Sprintf("table %s %s, chain %s %s: %s may die there; accept them, as by: %s", family, g.table, g.chain, how, what, remedy)
}

// legacyTables tells of filters that nf_tables does not know of: those of iptables-legacy.
func legacyTables() (found []string, err error) {
	for _, l := range []struct{ file, program string }{
		{"/proc/thread-self/net/ip_tables_names", "iptables-legacy"}, {"/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy"},
	} {
		names, err := os.ReadFile(l.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if slices.Contains(strings.Fields(string(names)), "filter") {
			found = append(found, fmt.Sprintf("%s has a filter of its own, which is not looked at: see that %s -S FORWARD accepts what is for the backends, and what is from them",
				l.program, l.program))
		}
	}
	return found, nil
}
