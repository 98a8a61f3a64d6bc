package engines

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/crypto/blake2b"

	selector "dwcp.internal/selector"
	"dwcp.internal/selector/engines/internal/zstd"
)

// A payload of HDE is: 0 and a zstd frame, where the peer holds nothing; or 1, the
// payload's size, the length of the references, the number of frames; the references
// (int32 steps between neighbours, as a zstd frame; no bytes if all are 0); the frames'
// lengths; the frames. Numbers are little-endian.
const (
	plain          = 0
	delta          = 1
	hdeHeaderBytes = 1 + 4 + 4 + 2

	blockBytes = selector.ProbeBlockBytes
	frameBytes = 512 << 10
	reachBytes = 128 << 10
)

// reference is a block's place in the previous version, counting from 1; 0 has none.
type reference = int32

// span is a half-open range of bytes.
type span struct{ start, stop int }

func (s span) len() int { return s.stop - s.start }

// hdeCompress appends payload, encoded against previous; knownShare is the share of its
// bytes that references replaced.
func hdeCompress(dst, payload []byte, previous *selector.Version) (data []byte, knownShare float64, err error) {
	if previous == nil || len(previous.Payload) == 0 {
		data, err = appendZstd(append(dst, plain), payload)
		return data, 0, err
	}
	references, err := refer(payload, previous)
	if err != nil {
		return nil, 0, err
	}
	hits := 0
	for _, block := range references {
		if block > 0 {
			hits++
		}
	}
	frames := planFrames(len(payload), references, len(previous.Payload))
	header := len(dst)
	dst = append(dst, make([]byte, hdeHeaderBytes)...)
	if hits > 0 {
		if dst, err = appendZstd(dst, steps(references)); err != nil {
			return nil, 0, err
		}
	}
	packed := len(dst) - header - hdeHeaderBytes
	sizes := len(dst)
	dst = append(dst, make([]byte, 4*len(frames))...)
	for number := range frames {
		before := len(dst)
		if dst, err = frames[number].appendTo(dst, payload, previous.Payload); err != nil {
			return nil, 0, err
		}
		binary.LittleEndian.PutUint32(dst[sizes+4*number:], uint32(len(dst)-before))
	}
	dst[header] = delta
	binary.LittleEndian.PutUint32(dst[header+1:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(dst[header+5:], uint32(packed))
	binary.LittleEndian.PutUint16(dst[header+9:], uint16(len(frames)))
	return dst, min(1, float64(hits*blockBytes)/float64(max(1, len(payload)))), nil
}

// hdeDecompress appends the payload of data.
func hdeDecompress(dst, data []byte, previous *selector.Version, most int64) ([]byte, error) {
	if len(data) > 0 && data[0] == plain {
		return appendUnzstd(dst, data[1:], most)
	}
	if len(data) < hdeHeaderBytes || data[0] != delta {
		return nil, damaged("it has no header of HDE")
	}
	if previous == nil {
		return nil, damaged("it is a delta, and the version that it was made against is missing")
	}
	size := int(binary.LittleEndian.Uint32(data[1:]))
	packed := int(binary.LittleEndian.Uint32(data[5:]))
	count := int(binary.LittleEndian.Uint16(data[9:]))
	data = data[hdeHeaderBytes:]
	if int64(size) > most {
		return nil, tooLarge(int64(size), most)
	}
	if len(data) < packed+4*count {
		return nil, damaged("it ends within its header")
	}
	references, err := unpackReferences(data[:packed], size, len(previous.Payload))
	if err != nil {
		return nil, err
	}
	sizes, data := data[packed:packed+4*count], data[packed+4*count:]
	frames := planFrames(size, references, len(previous.Payload))
	if len(frames) != count {
		return nil, damaged(fmt.Sprintf("%d frames where its references need %d", count, len(frames)))
	}
	dst = slices.Grow(dst, size)
	out := dst[len(dst):][:size]
	for block, reference := range references {
		if reference > 0 {
			copy(out[block*blockBytes:], previous.Payload[(reference-1)*blockBytes:][:blockBytes])
		}
	}
	for number := range frames {
		length := int(binary.LittleEndian.Uint32(sizes[4*number:]))
		if length > len(data) {
			return nil, damaged("it ends within a frame")
		}
		if err := frames[number].readInto(out, data[:length], previous.Payload); err != nil {
			return nil, err
		}
		data = data[length:]
	}
	if len(data) > 0 {
		return nil, damaged(fmt.Sprintf("%d bytes follow its last frame", len(data)))
	}
	return dst[:len(dst)+size], nil
}

// refer finds every block of payload in the previous version.
func refer(payload []byte, previous *selector.Version) ([]reference, error) {
	references := make([]reference, blocksOf(len(payload)))
	if bytes.Equal(payload, previous.Payload) { // a compare at memory speed spares hashing when nothing changed
		for block := 0; block < len(payload)/blockBytes; block++ {
			references[block] = reference(block + 1)
		}
		return references, nil
	}
	index := previous.Blocks
	if index == nil {
		scan, err := selector.ScanShares(context.Background(), selector.Memory(previous.Payload), int64(len(previous.Payload)), nil)
		if err != nil {
			return nil, err
		}
		index = scan.Blocks
	}
	// The same hash as selector.HashBlock's, by vector instructions twice as fast.
	hasher, err := blake2b.New(selector.ProbeHashBytes, nil)
	if err != nil {
		return nil, err
	}
	var hash selector.BlockHash
	for block := range references {
		start := block * blockBytes
		hasher.Reset()
		_, _ = hasher.Write(payload[start:min(start+blockBytes, len(payload))]) // a hash takes all
		hasher.Sum(hash[:0])
		if position, found := index.Position(hash); found {
			references[block] = reference(position + 1)
		}
	}
	return references, nil
}

// steps are references as differences between neighbours: runs become constant, which
// zstd all but removes.
func steps(references []reference) []byte {
	out := make([]byte, 0, 4*len(references))
	before := reference(0)
	for _, now := range references {
		out = binary.LittleEndian.AppendUint32(out, uint32(now-before))
		before = now
	}
	return out
}

// unpackReferences is the inverse of steps, checked against both sizes.
func unpackReferences(packed []byte, size, previousSize int) ([]reference, error) {
	references := make([]reference, blocksOf(size))
	if len(packed) == 0 {
		return references, nil
	}
	unpacked, err := appendUnzstd(nil, packed, int64(4*len(references)))
	if err != nil {
		return nil, err
	}
	if len(unpacked) != 4*len(references) {
		return nil, damaged(fmt.Sprintf("references of %d bytes for %d blocks", len(unpacked), len(references)))
	}
	now := reference(0)
	for block := range references {
		now += reference(binary.LittleEndian.Uint32(unpacked[4*block:]))
		if now < 0 || int(now) > previousSize/blockBytes || now > 0 && (block+1)*blockBytes > size {
			return nil, damaged(fmt.Sprintf("block %d refers to block %d of the previous version", block, now-1))
		}
		references[block] = now
	}
	return references, nil
}

// frame is some of the bytes that no reference replaces. Its dictionary is the previous
// version around them: as far to either side as a range is long, at least one block and at
// most 128 KiB. It follows from the references alone, so that the receiver finds the same.
type frame struct {
	ranges     []span // of the payload
	dictionary []span // of the previous version
}

// planFrames cuts the blocks without a reference into frames.
func planFrames(size int, references []reference, previousSize int) []frame {
	var frames []frame
	filled := frameBytes
	put := func(part span) {
		if filled+part.len() > frameBytes {
			frames = append(frames, frame{})
			filled = 0
		}
		last := &frames[len(frames)-1]
		last.ranges = append(last.ranges, part)
		filled += part.len()
	}
	for block := 0; block < len(references); {
		if references[block] != 0 {
			block++
			continue
		}
		first := block
		for block < len(references) && references[block] == 0 {
			block++
		}
		high := min(block*blockBytes, size)
		for at := first * blockBytes; at < high; at += frameBytes {
			put(span{at, min(at+frameBytes, high)})
		}
	}
	for number := range frames {
		frames[number].addDictionary(previousSize)
	}
	return frames
}

func (f *frame) addDictionary(previousSize int) {
	done := 0
	for _, part := range f.ranges {
		reach := min(max(part.len(), blockBytes), reachBytes)
		low, high := max(done, part.start-reach), min(previousSize, part.stop+reach)
		if low < high {
			f.dictionary = append(f.dictionary, span{low, high})
			done = high
		}
	}
}

// appendTo adds the frame, compressed.
func (f *frame) appendTo(dst, payload, previous []byte) ([]byte, error) {
	literal, dictionary := joined(payload, f.ranges), joined(previous, f.dictionary)
	dst = slices.Grow(dst, zstd.Bound(len(literal)))
	written, err := zstd.CompressWith(dst[len(dst):cap(dst)], literal, level, dictionary)
	if err != nil {
		return nil, err
	}
	return dst[:len(dst)+written], nil
}

// readInto puts a compressed frame's content where it belongs in the payload.
func (f *frame) readInto(payload, data, previous []byte) error {
	dictionary := joined(previous, f.dictionary)
	if len(f.ranges) == 1 {
		return unframe(payload[f.ranges[0].start:f.ranges[0].stop], data, dictionary)
	}
	size := 0
	for _, part := range f.ranges {
		size += part.len()
	}
	literal := make([]byte, size)
	if err := unframe(literal, data, dictionary); err != nil {
		return err
	}
	for _, part := range f.ranges {
		literal = literal[copy(payload[part.start:part.stop], literal):]
	}
	return nil
}

// unframe fills into with a frame's content, which has exactly that size.
func unframe(into, data, dictionary []byte) error {
	written, err := zstd.Decompress(into, data, dictionary)
	if err != nil {
		return damaged(err)
	}
	if written != len(into) {
		return damaged(fmt.Sprintf("a frame of %d bytes in place of %d", written, len(into)))
	}
	return nil
}

// joined are the parts of data one after the other; a single one in place.
func joined(data []byte, parts []span) []byte {
	if len(parts) == 1 {
		return data[parts[0].start:parts[0].stop]
	}
	size := 0
	for _, part := range parts {
		size += part.len()
	}
	out := make([]byte, 0, size)
	for _, part := range parts {
		out = append(out, data[part.start:part.stop]...)
	}
	return out
}

func blocksOf(size int) int { return (size + blockBytes - 1) / blockBytes }
