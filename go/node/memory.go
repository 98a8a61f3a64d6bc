package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	selector "dwcp.internal/selector"
)

// peerMemory is what a sender knows that a peer holds: the last version of every object
// that it took, with its block index. It takes as much memory as those versions; on disk
// only their places and digests are kept, and a file that changed since is forgotten.
type peerMemory struct {
	path    string
	objects map[string]sent
}

// sent is a version that the peer took.
type sent struct {
	Path    string            `json:"path"`
	Digest  string            `json:"digest"`
	Number  int64             `json:"number"` // how often the object was sent before
	version *selector.Version // nil until it is needed
}

// openMemory reads what is known of a peer; a missing file is a new peer's. With an error
// the memory is empty and can be used.
func openMemory(path string) (*peerMemory, error) {
	memory := &peerMemory{path, map[string]sent{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return memory, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &memory.objects)
	}
	if err != nil || memory.objects == nil {
		memory.objects = map[string]sent{}
	}
	if err != nil {
		return memory, fmt.Errorf("what the peer holds is not known, %s: %w", path, err)
	}
	return memory, nil
}

// last is the version that the peer holds of an object, indexed; nil without one.
func (m *peerMemory) last(objectID string) (version *selector.Version, digest string) {
	known, found := m.objects[objectID]
	if !found {
		return nil, ""
	}
	if known.version == nil {
		payload, err := os.ReadFile(known.Path)
		if err != nil || digestOf(payload) != known.Digest {
			m.forget(objectID)
			return nil, ""
		}
		known.version = &selector.Version{Payload: payload, Blocks: indexOf(payload)}
		m.objects[objectID] = known
	}
	return known.version, known.Digest
}

// number is how many versions of an object the peer took.
func (m *peerMemory) number(objectID string) int64 {
	if known, found := m.objects[objectID]; found {
		return known.Number + 1
	}
	return 0
}

// took remembers that the peer has a version; its blocks are indexed here, where no
// transfer waits.
func (m *peerMemory) took(objectID, path, digest string, payload []byte) {
	m.objects[objectID] = sent{path, digest, m.number(objectID), &selector.Version{Payload: payload, Blocks: indexOf(payload)}}
}

// forget drops what the peer turned out not to hold; how often the object was sent stays.
func (m *peerMemory) forget(objectID string) {
	if known, found := m.objects[objectID]; found {
		m.objects[objectID] = sent{Number: known.Number, version: nil}
	}
}

func (m *peerMemory) save() error {
	text, err := json.MarshalIndent(m.objects, "", " ")
	if err != nil {
		return err
	}
	return writeWhole(m.path, text)
}

func indexOf(payload []byte) *selector.BlockIndex {
	scan, err := selector.ScanShares(context.Background(), selector.Memory(payload), int64(len(payload)), nil)
	if err != nil { // memory can be read and the context does not end
		return nil
	}
	return scan.Blocks
}
