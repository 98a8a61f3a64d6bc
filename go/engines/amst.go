package engines

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	selector "dwcp.internal/selector"
	"dwcp.internal/selector/engines/internal/lz4"
	"dwcp.internal/selector/internal/cputime"
)

// A payload of AMST is: its size; every chunk's packed length, with the highest bit set
// where the chunk is stored raw; the chunks. Numbers are little-endian uint32. The bytes do
// not depend on the number of streams.
const (
	chunkBytes = selector.AMSTChunkBytes
	rawFlag    = 1 << 31
)

// maxStreams bounds the threads of a call; the contract has no more (amst_streams).
const maxStreams = 1_024

// amstCompress appends payload, chunk i packed on thread i modulo streams.
func amstCompress(dst, payload []byte, streams int) (selector.EngineRun, error) {
	count := chunksOf(len(payload))
	slot := lz4.Bound(chunkBytes)
	packed := make([][]byte, count)
	return withScratch(count*slot, func(buffer []byte) (selector.EngineRun, error) {
		run, err := onThreads(count, streams, func(number int) error {
			chunk := payload[number*chunkBytes : min((number+1)*chunkBytes, len(payload))]
			into := buffer[number*slot:][:slot]
			written, err := lz4.Pack(into, chunk)
			if err != nil {
				return err
			}
			packed[number] = into[:written]
			if written >= len(chunk) {
				packed[number] = chunk
			}
			return nil
		})
		if err != nil {
			return selector.EngineRun{}, err
		}
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
		for number, data := range packed {
			field := uint32(len(data))
			if len(data) == min(chunkBytes, len(payload)-number*chunkBytes) {
				field |= rawFlag
			}
			dst = binary.LittleEndian.AppendUint32(dst, field)
		}
		for _, data := range packed {
			dst = append(dst, data...)
		}
		run.Data = dst
		return run, nil
	})
}

// amstDecompress appends the payload of data.
func amstDecompress(dst, data []byte, streams int, most int64) (selector.EngineRun, error) {
	if len(data) < 4 {
		return selector.EngineRun{}, damaged("it has no header of AMST")
	}
	size := int(binary.LittleEndian.Uint32(data))
	if int64(size) > most {
		return selector.EngineRun{}, tooLarge(int64(size), most)
	}
	count := chunksOf(size)
	if len(data) < 4+4*count {
		return selector.EngineRun{}, damaged("it ends within its header")
	}
	packed := make([][]byte, count)
	rest := data[4+4*count:]
	for number := range packed {
		length := int(binary.LittleEndian.Uint32(data[4+4*number:]) &^ rawFlag)
		if length > len(rest) {
			return selector.EngineRun{}, damaged("it ends within a chunk")
		}
		packed[number], rest = rest[:length], rest[length:]
	}
	if len(rest) > 0 {
		return selector.EngineRun{}, damaged(fmt.Sprintf("%d bytes follow its last chunk", len(rest)))
	}
	dst = slices.Grow(dst, size)
	out := dst[len(dst):][:size]
	run, err := onThreads(count, streams, func(number int) error {
		chunk := out[number*chunkBytes : min((number+1)*chunkBytes, size)]
		if len(packed[number]) == len(chunk) {
			copy(chunk, packed[number])
			return nil
		}
		if err := lz4.Unpack(chunk, packed[number]); err != nil {
			return damaged(err)
		}
		return nil
	})
	if err != nil {
		return selector.EngineRun{}, err
	}
	run.Data = dst[:len(dst)+size]
	return run, nil
}

// onThreads deals jobs to as many OS threads as there are streams, job i to thread i
// modulo streams. CPU times are read inside each thread; the makespan is the busiest one's.
func onThreads(jobs, streams int, work func(job int) error) (selector.EngineRun, error) {
	streams = min(max(streams, 1), max(jobs, 1), maxStreams)
	times, errs := make([]time.Duration, streams), make([]error, streams)
	stream := func(number int) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		began := cputime.Thread()
		for job := number; job < jobs && errs[number] == nil; job += streams {
			errs[number] = work(job)
		}
		times[number] = cputime.Thread() - began
	}
	var others sync.WaitGroup
	for number := 1; number < streams; number++ {
		others.Add(1)
		go func(number int) {
			defer others.Done()
			stream(number)
		}(number)
	}
	stream(0)
	others.Wait()
	var run selector.EngineRun
	for number, took := range times {
		if errs[number] != nil {
			return selector.EngineRun{}, errs[number]
		}
		run.CPUTime += took
		run.Makespan = max(run.Makespan, took)
	}
	return run, nil
}

func chunksOf(size int) int { return (size + chunkBytes - 1) / chunkBytes }
