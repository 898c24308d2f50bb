package profile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// loadTimeout is what one way to load conntrack may take.
const loadTimeout = 5 * time.Second

// loadConntrack has the kernel load it, as it does for whoever asks conntrack something over netlink; that works in a unit that may
// not load modules itself. Where it does not, modprobe is asked.
func loadConntrack() error {
	err := askConntrack()
	if conntrackLoaded() {
		return nil
	}
	if err == nil {
		err = errors.New("asked over netlink, the kernel did not load it")
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w; as root: modprobe nf_conntrack", err)
	}
	program, lookErr := exec.LookPath("modprobe")
	if lookErr != nil {
		return fmt.Errorf("%w, and there is no modprobe here; in a container load it on the host: modprobe nf_conntrack", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "nf_conntrack")
	cmd.WaitDelay = time.Second
	if out, runErr := cmd.CombinedOutput(); runErr != nil {
		return fmt.Errorf("%w, and modprobe nf_conntrack: %w: %.200s", err, runErr, blanks(string(out)))
	}
	return nil
}

func conntrackLoaded() bool {
	_, err := os.Stat(ProcSys + "/net/netfilter/nf_conntrack_max")
	return err == nil
}

// askConntrack asks how many entries there are (IPCTNL_MSG_CT_GET_STATS). The answer does not matter.
func askConntrack() error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(loadTimeout)); err != nil {
		return err
	}
	const getStats = 5 // include/uapi/linux/netfilter/nfnetlink_conntrack.h
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | getStats, Flags: netlink.Request | netlink.Acknowledge},
		Data:   make([]byte, 4), // struct nfgenmsg: any family
	})
	if err != nil {
		return fmt.Errorf("ask conntrack over netlink: %w", err)
	}
	return nil
}
