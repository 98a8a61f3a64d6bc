package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Held is what a receiver holds: the newest version of every object, by sender, on disk.
// A name is a hash, so that no name that a peer says is a path. It is safe for concurrent use.
type Held struct {
	directory string
	mutex     sync.Mutex
	digests   map[string]string // by file name; of files read or written since the start
}

// OpenHeld holds versions in a directory, which is made.
func OpenHeld(directory string) (*Held, error) {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, fmt.Errorf("no versions can be held in %s: %w", directory, err)
	}
	return &Held{directory: directory, digests: map[string]string{}}, nil
}

// Payload is the version held of a sender's object and its digest; both empty without one.
func (h *Held) Payload(senderID, objectID string) (payload []byte, digest string, err error) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	name := heldName(senderID, objectID)
	payload, err = os.ReadFile(filepath.Join(h.directory, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if digest = h.digests[name]; digest == "" {
		digest = digestOf(payload)
		h.digests[name] = digest
	}
	return payload, digest, nil
}

// Put replaces the version held, in one step.
func (h *Held) Put(senderID, objectID, digest string, payload []byte) error {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	name := heldName(senderID, objectID)
	delete(h.digests, name)
	if err := writeWhole(filepath.Join(h.directory, name), payload); err != nil {
		return err
	}
	h.digests[name] = digest
	return nil
}

func heldName(senderID, objectID string) string {
	return digestOf([]byte(fmt.Sprintf("%q %q", senderID, objectID)))[:32]
}

// digestOf names bytes: SHA-256 in hex.
func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// writeWhole replaces a file by one rename: a reader finds the old one or the new one.
func writeWhole(path string, data []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name()) // the first error is the one to tell
	}
	return err
}
