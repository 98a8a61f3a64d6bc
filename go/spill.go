package selector

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// spill keeps batches that could not be sent in one directory, a file each, oldest
// first. The names carry order and row count, so nothing else need be remembered:
// a process that starts again finds what its predecessor left. It survives the
// process, not a power cut: files are renamed into place but not synced. It is used
// by one goroutine at a time.
type spill struct {
	dir      string
	maxBytes int64
	files    []spilled
	bytes    int64
	next     int64
}

type spilled struct {
	name  string
	rows  int
	bytes int64
}

const spillSuffix = ".lp"

// openSpill makes the directory if need be and takes stock of what lies in it.
func openSpill(dir string, maxBytes int64) (*spill, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("metrics cannot be spilled: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("metrics cannot be spilled: %w", err)
	}
	s := &spill{dir: dir, maxBytes: maxBytes}
	for _, entry := range entries {
		number, rows, ours := parseSpillName(entry.Name())
		info, err := entry.Info()
		if !ours || err != nil || !info.Mode().IsRegular() || info.Size() > maxBytes {
			continue
		}
		s.files = append(s.files, spilled{entry.Name(), rows, info.Size()})
		s.bytes += info.Size()
		s.next = max(s.next, number+1)
	}
	sort.Slice(s.files, func(i, j int) bool { return s.files[i].name < s.files[j].name })
	return s, nil
}

func (s *spill) empty() bool { return len(s.files) == 0 }

// put keeps a batch and gives up the oldest ones where room is short; it returns how
// many rows were lost by that, or with the batch itself.
func (s *spill) put(data []byte, rows int) (lost int, err error) {
	if int64(len(data)) > s.maxBytes {
		return rows, fmt.Errorf("a batch of %d bytes is larger than the whole spill of %d", len(data), s.maxBytes)
	}
	for s.bytes+int64(len(data)) > s.maxBytes {
		lost += s.files[0].rows
		if err := s.remove(); err != nil {
			return lost + rows, err
		}
	}
	name := fmt.Sprintf("%019d-%d%s", s.next, rows, spillSuffix)
	temporary := filepath.Join(s.dir, ".part")
	if err = os.WriteFile(temporary, data, 0o600); err == nil {
		err = os.Rename(temporary, filepath.Join(s.dir, name))
	}
	if err != nil {
		return lost + rows, fmt.Errorf("a batch cannot be spilled: %w", err)
	}
	s.next++
	s.files = append(s.files, spilled{name, rows, int64(len(data))})
	s.bytes += int64(len(data))
	return lost, nil
}

// oldest reads the batch that waits longest.
func (s *spill) oldest() (data []byte, rows int, err error) {
	data, err = os.ReadFile(filepath.Join(s.dir, s.files[0].name))
	return data, s.files[0].rows, err
}

// remove forgets the oldest batch.
func (s *spill) remove() error {
	first := s.files[0]
	s.files = s.files[1:]
	s.bytes -= first.bytes
	if err := os.Remove(filepath.Join(s.dir, first.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("a spilled batch cannot be removed: %w", err)
	}
	return nil
}

func parseSpillName(name string) (number int64, rows int, ours bool) {
	base, suffixed := strings.CutSuffix(name, spillSuffix)
	left, right, cut := strings.Cut(base, "-")
	number, numberErr := strconv.ParseInt(left, 10, 64)
	rows, rowsErr := strconv.Atoi(right)
	return number, rows, suffixed && cut && numberErr == nil && rowsErr == nil && len(left) == 19 && rows > 0
}
