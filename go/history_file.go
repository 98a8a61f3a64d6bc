package selector

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// A history is kept as: the magic, a format number, a digest of what its figures mean;
// each data type's averages; the objects' names with their averages and last probes and
// the peers' with their averages, in runs of which an empty one is the last; SHA-256 of
// all before. Numbers are little-endian, figures float64.

var historyMagic = [8]byte{'D', 'W', 'C', 'P', 'H', 'I', 'S', 'T'}

const (
	historyFormat = 1
	// historyMostNames bounds the work on a file that is none; no node remembers more.
	historyMostNames = 1 << 24
)

var (
	// ErrHistoryDamaged says that a kept history was cut off, changed or is none.
	ErrHistoryDamaged = errors.New("the history is damaged")
	// ErrHistoryOutdated says that a history was kept by a program that remembered
	// other quantities. Its figures would be misread.
	ErrHistoryOutdated = errors.New("the history is of another version")
)

// historyMeaning changes with the definition of anything that is remembered.
func historyMeaning() [sha256.Size]byte {
	return sha256.Sum256([]byte(fmt.Sprint(
		FeatureSetDigest, rememberedNames, datatypeNames, historyAlpha, historyTypeAlpha,
		callBytes, leastShare, deltaMsPerMB, newMsPerMB, AMSTChunkBytes,
		ProbeBlockBytes, probeFewestBlocks, probeMostBlocks, probeBlocksPerLook, probeZstdEvery,
	)))
}

// Save writes the history. Transfers may go on meanwhile; what they add may be missed.
func (h *History) Save(to io.Writer) error {
	buffered := bufio.NewWriter(to)
	sum := sha256.New()
	out := io.MultiWriter(buffered, sum)
	meaning := historyMeaning()
	var head bytes.Buffer
	head.Write(historyMagic[:])
	head.Write(binary.LittleEndian.AppendUint32(nil, historyFormat))
	head.Write(meaning[:])
	for kind := range h.types {
		head.Write(appendFloats(nil, h.types[kind].Load()[:]...))
	}
	if _, err := out.Write(head.Bytes()); err != nil {
		return err
	}
	if err := saveTable(out, h.objects, appendObject); err != nil {
		return err
	}
	if err := saveTable(out, h.peers, appendLink); err != nil {
		return err
	}
	if _, err := buffered.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return buffered.Flush()
}

// saveTable writes a table shard by shard, and locks none while it writes.
func saveTable[V any](out io.Writer, t *table[V], appendValue func([]byte, *V) []byte) error {
	var run []byte
	for n := range t.shards {
		s := &t.shards[n]
		s.mutex.RLock()
		if len(s.slots) > 0 {
			run = binary.LittleEndian.AppendUint32(run[:0], uint32(len(s.slots)))
			for place := range s.slots {
				kept := &s.slots[place]
				run = binary.LittleEndian.AppendUint16(run, uint16(len(kept.name)))
				run = append(run, kept.name...)
				run = appendValue(run, &kept.value)
			}
		}
		s.mutex.RUnlock()
		if _, err := out.Write(run); err != nil {
			return err
		}
		run = run[:0]
	}
	_, err := out.Write(binary.LittleEndian.AppendUint32(nil, 0))
	return err
}

func appendObject(to []byte, kept *object) []byte {
	probe := &kept.probe
	return appendFloats(appendFloats(to, kept.averages[:]...),
		float64(probe.Blocks), probe.Entropy, probe.CompressibilityScore, probe.DeltaPotential,
		probe.ZstdShare, probe.ZstdMsPerMB, probe.LZ4MsPerMB,
	)
}

func appendLink(to []byte, kept *link) []byte { return appendFloats(to, kept[:]...) }

func appendFloats(to []byte, values ...float64) []byte {
	for _, value := range values {
		to = binary.LittleEndian.AppendUint64(to, math.Float64bits(value))
	}
	return to
}

// LoadHistory reads what Save wrote, into a history of these limits. The history that
// it returns can always be used: with an error it is empty, and the node starts cold.
// Errors wrap ErrHistoryDamaged, ErrHistoryOutdated, or what from returned.
func LoadHistory(from io.Reader, limits Limits) (*History, error) {
	history := NewHistory(limits)
	in := &historyReader{from: bufio.NewReader(from), sum: sha256.New()}
	if err := history.load(in); err != nil {
		return NewHistory(limits), err
	}
	return history, nil
}

func (h *History) load(in *historyReader) error {
	var magic [len(historyMagic)]byte
	var meaning [sha256.Size]byte
	in.read(magic[:])
	format := in.uint32()
	in.read(meaning[:])
	switch {
	case in.err != nil:
		return in.err
	case magic != historyMagic:
		return fmt.Errorf("%w: it does not begin with %q", ErrHistoryDamaged, historyMagic[:])
	case format != historyFormat || meaning != historyMeaning():
		return fmt.Errorf("%w: it starts anew", ErrHistoryOutdated)
	}
	for kind := range h.types {
		var averages outcomes
		in.floats(averages[:])
		h.types[kind].Store(&averages)
	}
	loadTable(in, h.objects, readObject)
	loadTable(in, h.peers, readLink)
	if in.err != nil {
		return in.err
	}
	expected := in.sum.Sum(nil)
	var kept [sha256.Size]byte
	in.read(kept[:])
	if in.err == nil && !bytes.Equal(kept[:], expected) {
		in.err = fmt.Errorf("%w: its checksum does not match", ErrHistoryDamaged)
	}
	return in.err
}

func loadTable[V any](in *historyReader, t *table[V], readValue func(*historyReader, *V)) {
	for names := uint32(0); in.err == nil; {
		run := in.uint32()
		if run == 0 {
			return
		}
		if names += run; run > historyMostNames || names > historyMostNames {
			in.err = fmt.Errorf("%w: it has more than %d names", ErrHistoryDamaged, historyMostNames)
		}
		for ; run > 0 && in.err == nil; run-- {
			name := in.name()
			var value V
			readValue(in, &value)
			if in.err == nil {
				t.update(name, &value, &value, func(kept, loaded *V) { *kept = *loaded })
			}
		}
	}
}

func readObject(in *historyReader, value *object) {
	in.floats(value.averages[:])
	var figures [7]float64
	in.floats(figures[:])
	for _, figure := range figures {
		if in.err == nil && !(figure >= 0 && figure <= 1e9) {
			in.err = fmt.Errorf("%w: a probe has a figure of %v", ErrHistoryDamaged, figure)
		}
	}
	if figures[0] >= 1 {
		value.probe = Probe{
			Blocks: int(figures[0]), Complete: true, Entropy: figures[1], CompressibilityScore: figures[2],
			DeltaPotential: figures[3], ZstdShare: figures[4], ZstdMsPerMB: figures[5], LZ4MsPerMB: figures[6],
		}
	}
}

func readLink(in *historyReader, value *link) { in.floats(value[:]) }

// historyReader reads and sums; after its first error it reads nothing more.
type historyReader struct {
	from   *bufio.Reader
	sum    hash.Hash
	err    error
	buffer [maxNameBytes]byte
}

func (in *historyReader) read(into []byte) {
	if in.err != nil {
		return
	}
	_, err := io.ReadFull(in.from, into)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		in.err = fmt.Errorf("%w: it ends too early", ErrHistoryDamaged)
	case err != nil:
		in.err = fmt.Errorf("the history cannot be read: %w", err)
	default:
		in.sum.Write(into)
	}
}

func (in *historyReader) uint32() uint32 {
	in.read(in.buffer[:4])
	if in.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint32(in.buffer[:])
}

func (in *historyReader) name() string {
	in.read(in.buffer[:2])
	length := int(binary.LittleEndian.Uint16(in.buffer[:]))
	if in.err == nil && length > maxNameBytes {
		in.err = fmt.Errorf("%w: a name has %d bytes", ErrHistoryDamaged, length)
	}
	if in.err != nil {
		return ""
	}
	in.read(in.buffer[:length])
	return string(in.buffer[:length])
}

func (in *historyReader) floats(into []float64) {
	in.read(in.buffer[:8*len(into)])
	for place := range into {
		into[place] = math.Float64frombits(binary.LittleEndian.Uint64(in.buffer[8*place:]))
	}
}

// SaveFile writes the history to path in one step: a reader, or a node that starts
// after a crash, finds the old file or the new one.
func (h *History) SaveFile(path string) error {
	if err := h.saveFile(path); err != nil {
		return fmt.Errorf("the history was not saved to %s: %w", path, err)
	}
	return nil
}

func (h *History) saveFile(path string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = file.Close() // the first error is the one to tell
			_ = os.Remove(file.Name())
		}
	}()
	if err = h.Save(file); err != nil {
		return err
	}
	if err = file.Sync(); err != nil {
		return err
	}
	if err = file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// OpenHistory is LoadHistory of a file; a missing file is a new node's, and no error.
func OpenHistory(path string, limits Limits) (*History, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return NewHistory(limits), nil
	}
	if err != nil {
		return NewHistory(limits), fmt.Errorf("the history is not read: %w", err)
	}
	defer file.Close()
	history, err := LoadHistory(file, limits)
	if err != nil {
		return history, fmt.Errorf("%s: %w", path, err)
	}
	return history, nil
}
