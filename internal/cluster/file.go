package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"spillway/internal/datadir"
)

// ordersFile is the file: what this node knows of orders. Without it an order would be followed again after a restart, over what
// the node's operator has said since, and what Redis has not been told would be lost.
type ordersFile struct {
	Version int      `json:"version"`
	Orders  []*entry `json:"orders"`
}

const (
	fileVersion  = 1
	maxFileBytes = 16 << 20
)

// open reads the file. Without one there are no orders; one that makes no sense is as good as none, for Redis and the other nodes
// have them too.
func (o *orders) open(file string) error {
	o.woken = make(chan struct{}, 1)
	o.entries = map[string]*entry{}
	o.file = file
	if file == "" {
		return nil
	}
	content, err := datadir.Read(file, maxFileBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var kept ordersFile
	if err == nil {
		err = json.Unmarshal(content, &kept)
	}
	if err != nil {
		return fmt.Errorf("orders to all nodes, as this node knew them: %w; going on with what redis has", err)
	}
	for _, e := range kept.Orders {
		if e != nil && e.What != "" && len(e.What) <= maxWhatBytes && len(e.Text) <= maxTextBytes && e.At > 0 && e.At < maxTimeUs && len(o.entries) < maxOrders {
			o.entries[e.What] = e
		}
	}
	return nil
}

// save writes the file, if something has changed.
func (o *orders) save(n *Node) {
	o.saving.Lock()
	defer o.saving.Unlock()
	o.mu.Lock()
	if !o.changed || o.file == "" {
		o.mu.Unlock()
		return
	}
	o.changed = false
	kept := ordersFile{Version: fileVersion, Orders: []*entry{}}
	for _, e := range o.entries {
		copied := *e
		kept.Orders = append(kept.Orders, &copied)
	}
	o.mu.Unlock()
	content, err := json.MarshalIndent(kept, "", " ")
	if err != nil {
		panic("BUG: " + err.Error()) // texts and numbers always marshal
	}
	if err := datadir.Replace(o.file, append(content, '\n')); err != nil {
		o.mu.Lock()
		o.changed = true
		o.mu.Unlock()
		n.log.Warn("orders to all nodes not kept for the next start; free or repair the disk of data_dir", "err", err)
	}
}
