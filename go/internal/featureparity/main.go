// Command featureparity answers with what the selector makes of given input, so that
// the pipeline's tests can hold it against Python's (tests/features/test_go_parity.py).
//
// All input is standard input, all output standard output:
//
//	featureparity features   JSON lines, one transfer each, of each node in time order
//	                         → a vector of little-endian float32 for each
//	featureparity probe      pairs of payload and previous version, each a little-endian
//	                         uint64 length and its bytes; length 0: none
//	                         → one JSON line a pair
//	featureparity streams    lines of size in bytes and idle cores → lines of streams
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"time"

	"dwcp.internal/selector"
)

func main() {
	commands := map[string]func(io.Reader, io.Writer) error{"features": features, "probe": probe, "streams": streams}
	if len(os.Args) != 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: featureparity features|probe|streams")
		os.Exit(2)
	}
	out := bufio.NewWriter(os.Stdout)
	err := commands[os.Args[1]](bufio.NewReaderSize(os.Stdin, 1<<20), out)
	if err = errors.Join(err, out.Flush()); err != nil {
		fmt.Fprintln(os.Stderr, "featureparity:", err)
		os.Exit(1)
	}
}

// transfer is one line of input. Nanoseconds are since 1970.
type transfer struct {
	Node           string
	AtNs           int64
	Peer           string
	Region         string
	LinkType       string
	RTTMs          float64
	JitterMs       float64
	BandwidthMbps  float64
	PacketLossRate float64
	CPUUsage       float64
	MemoryMB       int64
	Active         int
	Object         string
	DataType       string
	SizeBytes      int64
	PeerHasVersion bool
	Streams        int
	KnownShare     float64
	ZeroShare      float64
	Probe          *selector.Probe // null: nothing was probed
	Outcome        selector.Outcome
}

func (t *transfer) state() (*selector.NetworkState, *selector.DataCharacteristics) {
	network := &selector.NetworkState{
		PeerID: t.Peer, Region: selector.ParseRegion(t.Region), LinkType: selector.ParseLinkType(t.LinkType),
		RTTMs: t.RTTMs, JitterMs: t.JitterMs, BandwidthMbps: t.BandwidthMbps, PacketLossRate: t.PacketLossRate,
		CPUUsage: t.CPUUsage, MemoryAvailableMB: t.MemoryMB, ActiveTransfers: t.Active, At: time.Unix(0, t.AtNs),
	}
	data := &selector.DataCharacteristics{
		ObjectID: t.Object, DataType: selector.ParseDataType(t.DataType), SizeBytes: t.SizeBytes,
		PeerHasVersion: t.PeerHasVersion, AMSTStreams: t.Streams, KnownShare: t.KnownShare, ZeroShare: t.ZeroShare,
	}
	if t.Probe != nil {
		data.Probe = *t.Probe
	}
	return network, data
}

// features: transfers of a node at one time see the same past, so what they add is kept
// back until its clock moves on.
func features(in io.Reader, out io.Writer) error {
	type node struct {
		extractor selector.FeatureExtractor
		waiting   []transfer
	}
	nodes := map[string]*node{}
	for lines := json.NewDecoder(in); ; {
		var next transfer
		switch err := lines.Decode(&next); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		here := nodes[next.Node]
		if here == nil {
			here = &node{extractor: selector.FeatureExtractor{History: selector.NewHistory(selector.Limits{})}}
			nodes[next.Node] = here
		}
		if len(here.waiting) > 0 && here.waiting[0].AtNs != next.AtNs {
			for n := range here.waiting {
				network, data := here.waiting[n].state()
				if err := here.extractor.History.Observe(network, data, &here.waiting[n].Outcome); err != nil {
					return err
				}
			}
			here.waiting = here.waiting[:0]
		}
		here.waiting = append(here.waiting, next)
		network, data := next.state()
		var vector selector.Features
		if err := here.extractor.Extract(network, data, &vector); err != nil {
			return err
		}
		if err := binary.Write(out, binary.LittleEndian, vector[:]); err != nil {
			return err
		}
	}
}

// counting stands in for the codecs: what it makes of a block, Python makes of it too.
type counting struct{ selector.Engines }

// LightBytes is two bytes for each run of equal bytes.
func (counting) LightBytes(block []byte) (int, error) {
	runs := 1
	for at := 1; at < len(block); at++ {
		if block[at] != block[at-1] {
			runs++
		}
	}
	return 2 * runs, nil
}

// HeavyBytes is sixteen bytes for each distinct byte.
func (counting) HeavyBytes(block []byte) (int, error) {
	var seen [256]bool
	distinct := 0
	for _, symbol := range block {
		if !seen[symbol] {
			seen[symbol] = true
			distinct++
		}
	}
	return 16 * distinct, nil
}

// recorder remembers where a payload was read.
type recorder struct {
	io.ReaderAt
	blocks []int64
}

func (r *recorder) ReadAt(into []byte, offset int64) (int, error) {
	r.blocks = append(r.blocks, offset/selector.ProbeBlockBytes)
	return r.ReaderAt.ReadAt(into, offset)
}

type looked struct {
	Blocks               []int64
	Entropy              float64
	CompressibilityScore float64
	DeltaPotential       float64
	ZstdShare            float64
	KnownShare           float64
	ZeroShare            float64
}

func probe(in io.Reader, out io.Writer) error {
	ctx, prober, lines := context.Background(), selector.NewProber(counting{}), json.NewEncoder(out)
	for {
		payload, err := readSized(in)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		previous, err := readSized(in)
		if err != nil {
			return err
		}
		var known *selector.BlockIndex
		if len(previous) > 0 {
			before, err := selector.ScanShares(ctx, selector.Memory(previous), int64(len(previous)), nil)
			if err != nil {
				return err
			}
			known = before.Blocks
		}
		size := int64(len(payload))
		reader := &recorder{ReaderAt: bytes.NewReader(payload)}
		found, err := prober.Probe(ctx, reader, size, known)
		if err != nil {
			return err
		}
		inPlace, err := prober.Probe(ctx, selector.Memory(payload), size, known)
		if err != nil {
			return err
		}
		if inPlace.Entropy != found.Entropy || inPlace.Blocks != len(reader.blocks) {
			return fmt.Errorf("read in place: %+v, read block by block: %+v", inPlace, found)
		}
		scan, err := selector.ScanShares(ctx, selector.Memory(payload), size, known)
		if err != nil {
			return err
		}
		sort.Slice(reader.blocks, func(i, j int) bool { return reader.blocks[i] < reader.blocks[j] })
		if err := lines.Encode(looked{
			reader.blocks, found.Entropy, found.CompressibilityScore, found.DeltaPotential, found.ZstdShare,
			scan.KnownShare, scan.ZeroShare,
		}); err != nil {
			return err
		}
	}
}

func readSized(in io.Reader) ([]byte, error) {
	var length uint64
	if err := binary.Read(in, binary.LittleEndian, &length); err != nil {
		return nil, err
	}
	data := make([]byte, length)
	_, err := io.ReadFull(in, data)
	return data, err
}

func streams(in io.Reader, out io.Writer) error {
	for {
		var size int64
		var idle float64
		switch _, err := fmt.Fscan(in, &size, &idle); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		fmt.Fprintln(out, selector.PlanStreams(size, idle))
	}
}
