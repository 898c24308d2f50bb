package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
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
	content, err := readFile(file)
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

// readFile is for a file of ours: a FIFO must not hang the start, nor a link show another's file.
func readFile(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s: no file of ours", file)
	}
	return io.ReadAll(io.LimitReader(f, maxFileBytes))
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
	if err := replaceFile(o.file, kept); err != nil {
		o.mu.Lock()
		o.changed = true
		o.mu.Unlock()
		n.log.Warn("orders to all nodes not kept for the next start; free or repair the disk of data_dir", "err", err)
	}
}

// replaceFile leaves the old content or the new, whole.
func replaceFile(path string, content any) error {
	b, err := json.MarshalIndent(content, "", " ")
	if err != nil {
		panic("BUG: " + err.Error()) // texts and numbers always marshal
	}
	_ = os.Remove(path + ".tmp") // of a process that was killed; a link there is not followed
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		_ = os.Remove(path + ".tmp")
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
