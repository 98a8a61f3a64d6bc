// Command engineparity runs the engines on given input, so that the pipeline's tests can
// hold them against Python's (tests/fleet/test_go_engines.py).
//
// Standard input holds requests: a line of JSON (see request), then so many bytes of data
// and of the previous version. Standard output answers each with a line of JSON (see
// answer), then so many bytes of data.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	selector "dwcp.internal/selector"
	"dwcp.internal/selector/engines"
)

type request struct {
	Operation string // compress, decompress, or blocks: the probe's two sizes of every block
	Engine    string
	Streams   int
	Runs      int // the least times of so many are answered; 0 is one
	Bytes     int
	Previous  int // -1: none
}

type answer struct {
	Error      string
	Bytes      int
	CPUNs      int64
	MakespanNs int64
	KnownShare float64
	Light      []int
	Heavy      []int
	Zstd, LZ4  string // versions of the libraries
}

func main() {
	in, out := bufio.NewReaderSize(os.Stdin, 1<<20), bufio.NewWriterSize(os.Stdout, 1<<20)
	for {
		err := serve(in, out)
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			return
		}
		fmt.Fprintln(os.Stderr, "engineparity:", err)
		os.Exit(1)
	}
}

func serve(in *bufio.Reader, out *bufio.Writer) error {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var asked request
	if err := json.Unmarshal(line, &asked); err != nil {
		return err
	}
	data := make([]byte, asked.Bytes)
	if _, err := io.ReadFull(in, data); err != nil {
		return err
	}
	var previous *selector.Version
	if asked.Previous >= 0 {
		previous = &selector.Version{Payload: make([]byte, asked.Previous)}
		if _, err := io.ReadFull(in, previous.Payload); err != nil {
			return err
		}
		scan, err := selector.ScanShares(context.Background(), selector.Memory(previous.Payload), int64(asked.Previous), nil)
		if err != nil {
			return err
		}
		previous.Blocks = scan.Blocks
	}
	said, result := run(&asked, data, previous)
	said.Bytes = len(result)
	said.Zstd, said.LZ4 = engines.Versions()
	text, err := json.Marshal(said)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "%s\n%s", text, result); err != nil {
		return err
	}
	return out.Flush()
}

func run(asked *request, data []byte, previous *selector.Version) (said answer, result []byte) {
	var codecs engines.Engines
	if asked.Operation == "blocks" {
		for start := 0; start < len(data); start += selector.ProbeBlockBytes {
			block := data[start:min(start+selector.ProbeBlockBytes, len(data))]
			light, lightErr := codecs.LightBytes(block)
			heavy, heavyErr := codecs.HeavyBytes(block)
			if err := errors.Join(lightErr, heavyErr); err != nil {
				return answer{Error: err.Error()}, nil
			}
			said.Light, said.Heavy = append(said.Light, light), append(said.Heavy, heavy)
		}
		return said, nil
	}
	engine, found := selector.ParseChoice(asked.Engine)
	if !found {
		return answer{Error: fmt.Sprintf("no engine %q", asked.Engine)}, nil
	}
	work := codecs.Compress
	if asked.Operation == "decompress" {
		work = codecs.Decompress
	}
	options := selector.EngineOptions{Previous: previous, Streams: asked.Streams}
	for number := 0; number < max(asked.Runs, 1); number++ {
		ran, err := work(result[:0], engine, data, options)
		if err != nil {
			return answer{Error: err.Error()}, nil
		}
		if number == 0 || ran.Makespan.Nanoseconds() < said.MakespanNs {
			said.CPUNs, said.MakespanNs = ran.CPUTime.Nanoseconds(), ran.Makespan.Nanoseconds()
		}
		said.KnownShare = ran.KnownShare
		result = ran.Data
	}
	return said, result
}
