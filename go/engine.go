package selector

import "time"

// Engines are the codecs that a node transfers with. The probe runs them on single
// blocks, full measurement on whole payloads. They are safe for concurrent use. The
// nested module engines has them over libzstd and liblz4; DWCP brings its own.
type Engines interface {
	// LightBytes is how many bytes AMST's codec makes of one block on its own.
	LightBytes(block []byte) (int, error)
	// HeavyBytes is how many bytes the baseline makes of one block on its own.
	HeavyBytes(block []byte) (int, error)
	// Compress appends the compressed payload to dst. HDE, AMST and Zstd are engines.
	Compress(dst []byte, engine Choice, payload []byte, options EngineOptions) (EngineRun, error)
	// Decompress appends the payload to dst; options are those that it was compressed with.
	Decompress(dst []byte, engine Choice, data []byte, options EngineOptions) (EngineRun, error)
}

// EngineOptions are what both ends of a transfer know; an engine ignores what it has
// no use for.
type EngineOptions struct {
	Previous *Version // the version that the peer holds: HDE's references and dictionary; nil without one
	Streams  int      // AMST's threads; 0 is one
}

// Version is one version of an object with the block index that a node keeps from
// when it sent it.
type Version struct {
	Payload []byte
	Blocks  *BlockIndex
}

// EngineRun is what one call of an engine gave and took. Times are CPU time, read in
// the OS threads that did the work (internal/cputime), never in a thread that waits.
type EngineRun struct {
	Data       []byte
	CPUTime    time.Duration // of all threads
	Makespan   time.Duration // of the busiest thread: what a transfer waits for
	KnownShare float64       // HDE compressing: share of the payload's bytes replaced by references
}
