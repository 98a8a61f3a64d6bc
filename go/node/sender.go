package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	selector "dwcp.internal/selector"
	"dwcp.internal/selector/engines"
)

// SenderConfig says what a sender works with. Only Say, Attempts and the two budgets have
// defaults.
type SenderConfig struct {
	Link        LinkConfig
	Region      selector.Region
	LinkType    selector.LinkType
	StateDir    string
	Selector    *selector.CompressionSelectorML
	History     *selector.History
	Measurement *selector.FullMeasurement
	Engines     *engines.Engines
	Say         func(*Transfer) // told of every transfer, and again of one that was fully measured

	Attempts       int           // of one transfer while the peer is away, default 6: about 6 s
	DecisionBudget time.Duration // default 10 ms
	ProbeBudget    time.Duration // default 50 ms
}

// Transfer is what came of sending one version.
type Transfer struct {
	Version  Version
	Record   *selector.Record
	Fault    error // why the model's word was not had; nil if it was
	Attempts int
	Indexed  time.Duration // what it took, afterwards, to index what was sent for the next delta
	Measured bool          // told again, after a full measurement
	Err      error
}

// Sender sends versions to one peer. It is for one goroutine.
type Sender struct {
	config  SenderConfig
	link    *Link // nil while there is none
	memory  *peerMemory
	machine Machine
	prober  *selector.Prober
}

var (
	// ErrGone says that a peer could not be reached, however often it was tried.
	ErrGone   = errors.New("the peer cannot be reached")
	errEngine = errors.New("an engine fails to compress")
)

// NewSender connects to the peer, so that a wrong address shows at once.
func NewSender(ctx context.Context, config SenderConfig) (*Sender, error) {
	if config.Attempts <= 0 {
		config.Attempts = 6
	}
	if config.DecisionBudget <= 0 {
		config.DecisionBudget = 10 * time.Millisecond
	}
	if config.ProbeBudget <= 0 {
		config.ProbeBudget = 50 * time.Millisecond
	}
	sender := &Sender{config: config, prober: selector.NewProber(config.Engines)}
	link, err := Connect(ctx, config.Link)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w; start one with dwcpnode serve", ErrGone, config.Link.Address, err)
	}
	sender.link = link
	if err := os.MkdirAll(filepath.Join(config.StateDir, "peers"), 0o755); err != nil {
		return nil, err
	}
	sender.memory, err = openMemory(filepath.Join(config.StateDir, "peers", heldName(link.PeerID, "")+".json"))
	return sender, err
}

// Link is what was measured of the link; nil while the peer is away.
func (s *Sender) Link() *Link { return s.link }

// Close hangs up and keeps what the peer holds.
func (s *Sender) Close() error {
	if s.link != nil {
		s.link.Close()
	}
	return s.memory.save()
}

// Send sends a version and tells of it, whatever comes of it.
func (s *Sender) Send(ctx context.Context, version Version) error {
	transfer := &Transfer{Version: version}
	transfer.Err = s.send(ctx, transfer)
	if s.config.Say != nil {
		s.config.Say(transfer)
	}
	return transfer.Err
}

func (s *Sender) send(ctx context.Context, transfer *Transfer) error {
	version := transfer.Version
	payload, err := os.ReadFile(version.Path)
	if err != nil {
		return fmt.Errorf("version %s cannot be read: %w", version.Path, err)
	}
	if len(payload) == 0 {
		return fmt.Errorf("version %s is empty: there is nothing to send of it", version.Path)
	}
	digest := digestOf(payload)
	for {
		if err := s.reach(ctx, transfer); err != nil {
			return err
		}
		previous, base := s.memory.last(version.ObjectID)
		said, err := s.try(ctx, transfer, payload, digest, previous, base)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil: // away, or talking nonsense: another connection
			s.link.Close()
			s.link = nil
			if errors.Is(err, errProtocol) || errors.Is(err, errEngine) || transfer.Attempts >= s.config.Attempts {
				return err
			}
			continue
		case said.Result == resultBaseMissing && said.HeldDigest != digest && base != "":
			s.memory.forget(version.ObjectID)
			continue
		case said.Result == resultHeld, said.HeldDigest == digest: // also by an attempt whose answer was lost
		default:
			return fmt.Errorf("the peer did not keep %s: %s: %s", version.ObjectID, said.Result, said.Problem)
		}
		s.finish(transfer, payload, previous)
		began := time.Now()
		s.memory.took(version.ObjectID, version.Path, digest, payload)
		transfer.Indexed = time.Since(began)
		if err := s.link.Ping(ctx); err != nil && ctx.Err() == nil { // shows again when it is needed
			s.link.Close()
			s.link = nil
		}
		return nil
	}
}

// reach makes sure of a link, with growing waits while the peer is away.
func (s *Sender) reach(ctx context.Context, transfer *Transfer) error {
	wait := 200 * time.Millisecond
	for {
		transfer.Attempts++
		if s.link != nil {
			return nil
		}
		link, err := Connect(ctx, s.config.Link)
		if err == nil {
			s.link = link
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if transfer.Attempts >= s.config.Attempts {
			return fmt.Errorf("%w at %s in %d attempts: %w", ErrGone, s.config.Link.Address, transfer.Attempts, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, 2*time.Second)
		}
	}
}

// try looks, decides, compresses and sends once, and fills the record.
func (s *Sender) try(
	ctx context.Context, transfer *Transfer, payload []byte, digest string, previous *selector.Version, base string,
) (verdict, error) {
	data := s.look(ctx, &transfer.Version, payload, previous)
	network := s.network()
	deciding, cancel := context.WithTimeout(ctx, s.config.DecisionBudget)
	decision, fault := s.config.Selector.SelectCompression(deciding, network, data)
	cancel()
	transfer.Fault = fault
	record := &selector.Record{
		Network: *network, Data: *data, Decision: decision,
		TransferID: newTransferID(), ObjectVersion: s.memory.number(transfer.Version.ObjectID), PayloadDigest: digest,
	}
	record.Network.At = time.Unix(0, decision.TimestampNs)
	transfer.Record = record

	run := selector.EngineRun{Data: payload}
	if decision.Choice != selector.None {
		var err error
		options := selector.EngineOptions{Previous: previous, Streams: data.AMSTStreams}
		if run, err = s.config.Engines.Compress(nil, decision.Choice, payload, options); err != nil {
			return verdict{}, fmt.Errorf("%w: %v: %w", errEngine, decision.Choice, err)
		}
	}
	offered := &offer{
		TransferID: record.TransferID, ObjectID: transfer.Version.ObjectID,
		Engine: decision.Choice.String(), Streams: data.AMSTStreams,
		SizeBytes: int64(len(payload)), SentBytes: int64(len(run.Data)), Digest: digest,
	}
	if decision.Choice == selector.HDE {
		offered.BaseDigest = base
	}
	said, wireMs, err := s.link.Send(ctx, offered, run.Data)
	if err != nil {
		return verdict{}, err
	}
	record.TransferMs, record.SentBytes = wireMs, offered.SentBytes
	measured := selector.Measured{
		CompressedBytes: offered.SentBytes,
		CompressionMs:   milliseconds(run.Makespan),
		DecompressionMs: float64(said.DecompressionNs) / 1e6,
	}
	switch decision.Choice {
	case selector.HDE:
		record.Measured.HDE, record.Measured.HDEHitRate = measured, run.KnownShare
	case selector.AMST:
		record.Measured.AMST, record.Measured.AMSTStreams = measured, data.AMSTStreams
		record.Measured.AMSTCPUMs, record.Measured.AMSTDecompressionCPUMs = milliseconds(run.CPUTime), float64(said.CPUNs)/1e6
	case selector.Zstd:
		record.Measured.Zstd = measured
	}
	return said, nil
}

// look is what the node knows of a payload before it chooses. What looking took is in the
// probe's CPUTime: comparing blocks each time, probing only an object's first time.
func (s *Sender) look(
	ctx context.Context, version *Version, payload []byte, previous *selector.Version,
) *selector.DataCharacteristics {
	var index *selector.BlockIndex
	if previous != nil {
		index = previous.Blocks
	}
	began := time.Now()
	known, zero := shares(payload, previous)
	compared := time.Since(began)
	probing, cancel := context.WithTimeout(ctx, s.config.ProbeBudget)
	defer cancel()
	size := int64(len(payload))
	// Without a probe the contract's defaults are served: the decision goes on.
	probe, _ := s.prober.ProbeOnce(probing, s.config.History, version.ObjectID, selector.Memory(payload), size, index)
	probe.CPUTime += compared
	s.machine.Look()
	return &selector.DataCharacteristics{
		ObjectID: version.ObjectID, DataType: version.DataType, SizeBytes: size,
		PeerHasVersion: previous != nil, KnownShare: known, ZeroShare: zero, Probe: probe,
		AMSTStreams: selector.PlanStreams(size, min(s.machine.IdleCores(), s.link.PeerIdleCores)),
	}
}

func (s *Sender) network() *selector.NetworkState {
	state := selector.NewNetworkState(s.link.PeerID)
	state.Region, state.LinkType = s.config.Region, s.config.LinkType
	state.RTTMs, state.JitterMs, state.BandwidthMbps = s.link.RTTMs, s.link.JitterMs, s.link.BandwidthMbps
	state.CPUUsage, state.MemoryAvailableMB = s.machine.Usage(), memoryAvailableMB()
	return state
}

// finish hands a transfer to full measurement, which logs it. One that is measured is told
// of again, and the object's probe is taken afresh, as no transfer waits for that.
func (s *Sender) finish(transfer *Transfer, payload []byte, previous *selector.Version) {
	later := *transfer
	record := later.Record
	copied := *record // the measurement changes its own
	transfer.Record = &copied
	s.config.Measurement.Finish(record, payload, previous, func() {
		if !record.FullyMeasured {
			return
		}
		var index *selector.BlockIndex
		if previous != nil {
			index = previous.Blocks
		}
		probe, err := s.prober.Probe(context.Background(), selector.Memory(payload), int64(len(payload)), index)
		if err == nil {
			s.config.History.KeepProbe(record.Data.ObjectID, probe)
		}
		later.Measured = true
		if s.config.Say != nil {
			s.config.Say(&later)
		}
	})
}

func newTransferID() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, crypto/rand says
	return hex.EncodeToString(random[:])
}
