// Command footprint measures what a published model costs a Go process:
//
//	footprint MODEL DECISIONS < rows > JSON
//
// MODEL is a model.dwcp. A row is the model's inputs in their order, little-endian
// float32; each is decided on in turn until DECISIONS were timed. Latencies are CPU
// time of the deciding thread, as in dwcp.export.footprint, whose fields these are.
package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"dwcp.internal/selector"
	"dwcp.internal/selector/internal/cputime"
	"dwcp.internal/selector/internal/procfs"
)

const warmUp = 200

type footprint struct {
	P50Ms           float64 `json:"latency_p50_ms"`
	P95Ms           float64 `json:"latency_p95_ms"`
	P99Ms           float64 `json:"latency_p99_ms"`
	WallP99Ms       float64 `json:"wall_p99_ms"`
	LoadMs          float64 `json:"load_ms"`
	PeakMemoryBytes int64   `json:"peak_memory_bytes"`
	Decisions       int     `json:"decisions"`
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string, in io.Reader, out io.Writer) error {
	if len(arguments) != 2 {
		return errors.New("usage: footprint MODEL DECISIONS < rows > JSON")
	}
	decisions, err := strconv.Atoi(arguments[1])
	if err != nil || decisions < 1 {
		return fmt.Errorf("%q is no number of decisions", arguments[1])
	}
	began := time.Now()
	model, err := selector.LoadBundleFile(arguments[0])
	if err != nil {
		return err
	}
	load := time.Since(began)
	rows, err := readRows(in, model.Inputs())
	if err != nil {
		return err
	}
	found, err := measure(model, rows, decisions)
	if err != nil {
		return err
	}
	found.LoadMs = ms(load)
	if found.PeakMemoryBytes, err = procfs.PeakMemoryBytes(); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(found)
}

func readRows(in io.Reader, columns []int) ([]selector.Features, error) {
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	size := 4 * len(columns)
	if len(data) == 0 || len(data)%size != 0 {
		return nil, fmt.Errorf("%d bytes are no rows of %d features", len(data), len(columns))
	}
	rows := make([]selector.Features, len(data)/size)
	for number := range rows {
		for input, column := range columns {
			bits := binary.LittleEndian.Uint32(data[number*size+4*input:])
			rows[number][column] = math.Float32frombits(bits)
		}
	}
	return rows, nil
}

func measure(model *selector.Model, rows []selector.Features, decisions int) (footprint, error) {
	runtime.LockOSThread() // what is read is this thread's time
	defer runtime.UnlockOSThread()
	var probabilities [selector.CandidateCount]float32
	for number := 0; number < warmUp; number++ {
		if err := model.Predict(&rows[number%len(rows)], &probabilities); err != nil {
			return footprint{}, err
		}
	}
	cpu, wall := make([]time.Duration, decisions), make([]time.Duration, decisions)
	for number := range cpu {
		wallBegan, cpuBegan := time.Now(), cputime.Thread()
		if err := model.Predict(&rows[number%len(rows)], &probabilities); err != nil {
			return footprint{}, err
		}
		cpu[number], wall[number] = cputime.Thread()-cpuBegan, time.Since(wallBegan)
	}
	slices.Sort(cpu)
	slices.Sort(wall)
	at := func(times []time.Duration, share float64) float64 {
		return ms(times[int(share*float64(len(times)-1))])
	}
	return footprint{
		P50Ms: at(cpu, 0.5), P95Ms: at(cpu, 0.95), P99Ms: at(cpu, 0.99), WallP99Ms: at(wall, 0.99), Decisions: decisions,
	}, nil
}

func ms(duration time.Duration) float64 { return float64(duration) / float64(time.Millisecond) }
