package main

import (
	"errors"
	"fmt"

	"spillway/internal/config"
	"spillway/relay/kernel"
	"spillway/relay/profile"
)

// roleFlag says whose half of the profile is meant.
type roleFlag struct {
	Role string `default:"relay" enum:"relay,backend" help:"relay: this machine forwards. backend: connections end here."`
}

// host is where to look, and options what for.
func (f roleFlag) host(p *program) (relayHost, profile.Options, error) {
	cfg, err := config.Load(p.src)
	if err != nil {
		return relayHost{}, profile.Options{}, err
	}
	role, err := profile.ParseRole(f.Role, cfg.Relay.Mode)
	return thisHost(defaultFile(cfg.DataDir, systemdRelayDataDir, relayStateFile)), relayOptions(cfg.Relay, role), err
}

type relayCheckCmd struct {
	roleFlag `embed:""`
}

// Help is shown by relay check --help.
func (relayCheckCmd) Help() string {
	return `Changes nothing and needs no right. On the machine of the tracker: spillway relay check --role backend.`
}

func (cmd *relayCheckCmd) Run(p *program) error {
	host, options, err := cmd.host(p)
	if err != nil {
		return err
	}
	ok, err := relayCheck(p.stdout, host, options, p.colour())
	if err == nil && !ok {
		return exitCode(1)
	}
	return err
}

type relayApplyCmd struct {
	roleFlag `embed:""`
}

func (cmd *relayApplyCmd) Run(p *program) error {
	host, options, err := cmd.host(p)
	if err != nil {
		return err
	}
	return relayApply(p.stdout, host, options)
}

type relayRevertCmd struct{}

// Help is shown by relay revert --help.
func (relayRevertCmd) Help() string {
	return `Connections that are forwarded end with the table. It refuses while a relay runs: stop that first.`
}

func (relayRevertCmd) Run(p *program) error {
	cfg, err := config.Load(p.src)
	if err != nil {
		return err
	}
	err = kernel.Revert()
	if errors.Is(err, kernel.ErrRunning) {
		return fmt.Errorf("%w: stop it first, as by: systemctl stop spillway-relay", err)
	}
	if err == nil {
		_, err = fmt.Fprintln(p.stdout, "nothing is forwarded any more: there is no table inet "+kernel.TableName)
	}
	return errors.Join(err, relayRevert(p.stdout, thisHost(defaultFile(cfg.DataDir, systemdRelayDataDir, relayStateFile))))
}
