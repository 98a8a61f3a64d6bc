// Command drill is a node in every region that decides without a pause while its channel
// changes, for `make incidents`:
//
//	drill -home HOME -state STATE [-every 2ms] [-poll 100ms]
//
// HOME is a pipeline's: channel/, bundles/, keys/signing.pub.pem. For each line on standard
// input it answers one line of JSON with what every region did so far; it ends with the input.
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"dwcp.internal/selector"
)

func main() {
	home := flag.String("home", "", "the pipeline's `directory`")
	state := flag.String("state", "", "`directory` of these nodes alone")
	every := flag.Duration("every", 2*time.Millisecond, "`time` between two decisions of a region")
	poll := flag.Duration("poll", 100*time.Millisecond, "`time` between two looks at the channel")
	flag.Parse()
	if err := run(*home, *state, *every, *poll); err != nil {
		fmt.Fprintln(os.Stderr, "drill:", err)
		os.Exit(1)
	}
}

// region is one node with what became of its decisions.
type region struct {
	name     selector.Region
	decider  *selector.CompressionSelectorML
	updater  *selector.Updater
	made     atomic.Uint64
	failed   atomic.Uint64 // no choice that can be executed, or an error where a model or the rules should speak
	slowest  atomic.Int64  // ns
	failure  atomic.Pointer[string]
	versions sync.Map // what acted, by name: a count
}

// said is what a region tells of itself.
type said struct {
	Serial    int64             `json:"serial"`
	Champion  string            `json:"champion"`
	Decisions uint64            `json:"decisions"`
	Failed    uint64            `json:"failed"`
	Failure   string            `json:"failure"`
	SlowestMs float64           `json:"slowest_ms"`
	ByVersion map[string]uint64 `json:"by_version"`
	ByReason  map[string]uint64 `json:"by_reason"`
	Refused   uint64            `json:"refused"` // documents or bundles
	LastError string            `json:"last_error"`
}

func run(home, state string, every, poll time.Duration) error {
	pem, err := os.ReadFile(filepath.Join(home, "keys", "signing.pub.pem"))
	if err != nil {
		return err
	}
	key, err := selector.ParsePublicKey(pem)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	var working sync.WaitGroup
	nodes := map[string]*region{}
	for _, name := range []selector.Region{
		selector.RegionUSEast, selector.RegionUSWest, selector.RegionEUCentral, selector.RegionEUWest,
		selector.RegionAPSouth, selector.RegionAPNortheast,
	} {
		node, err := open(home, state, key, name, poll)
		if err != nil {
			stop()
			return err
		}
		nodes[name.String()] = node
		_ = node.updater.Poll(ctx) // so that the first decision has what is published; the status tells
		working.Add(2)
		go func() { defer working.Done(); node.updater.Run(ctx) }()
		go func() { defer working.Done(); node.work(ctx, every) }()
	}
	asked, answers := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for asked.Scan() {
		told := map[string]said{}
		for name, node := range nodes {
			told[name] = node.tell()
		}
		if err = answers.Encode(told); err != nil {
			break
		}
	}
	stop()
	working.Wait()
	return errors.Join(err, asked.Err())
}

func open(home, state string, key ed25519.PublicKey, name selector.Region, poll time.Duration) (*region, error) {
	decider := selector.New(
		selector.WithNodeID("drill-"+name.String()), selector.WithHistory(selector.NewHistory(selector.Limits{})),
	)
	updater, err := selector.NewUpdater(decider, selector.UpdaterConfig{
		Source: selector.DirectorySource(home), PublicKey: key, Region: name,
		StateDir: filepath.Join(state, name.String()), Interval: poll,
	})
	return &region{name: name, decider: decider, updater: updater}, err
}

// work decides until ctx is done.
func (r *region) work(ctx context.Context, every time.Duration) {
	chance := rand.New(rand.NewSource(int64(r.name)))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		network, data := transfer(chance, r.name)
		decision, err := r.decider.SelectCompression(context.Background(), network, data)
		r.made.Add(1)
		if err != nil || int(decision.Choice) >= selector.AlgorithmCount {
			r.failed.Add(1)
			text := fmt.Sprintf("%v, choice %v, reason %v", err, decision.Choice, decision.Reason)
			r.failure.CompareAndSwap(nil, &text)
		}
		if took := decision.DecisionTime.Nanoseconds(); took > r.slowest.Load() {
			r.slowest.Store(took)
		}
		acted := decision.ModelVersion
		if acted == "" || decision.Arm == selector.ArmShadow {
			acted = "rules"
		}
		count, _ := r.versions.LoadOrStore(acted, new(atomic.Uint64))
		count.(*atomic.Uint64).Add(1)
	}
}

// transfer is any that a node may have: all kinds of payload over all kinds of link.
func transfer(chance *rand.Rand, region selector.Region) (*selector.NetworkState, *selector.DataCharacteristics) {
	link := chance.Intn(3)
	network := selector.NewNetworkState(fmt.Sprintf("peer-%d", chance.Intn(8)))
	network.Region, network.LinkType = region, selector.LinkType(link+1)
	network.RTTMs = []float64{0.4, 4, 60}[link] * (0.5 + chance.Float64())
	network.JitterMs, network.PacketLossRate = network.RTTMs*0.1, chance.Float64()*1e-3
	network.BandwidthMbps = []float64{10_000, 2_000, 200}[link] * (0.3 + 0.7*chance.Float64())
	network.CPUUsage, network.ActiveTransfers = chance.Float64(), chance.Intn(8)
	size := int64(1) << (10 + chance.Intn(16))
	known := chance.Float64()
	return network, &selector.DataCharacteristics{
		ObjectID: fmt.Sprintf("object-%d", chance.Intn(500)), DataType: selector.DataType(1 + chance.Intn(8)),
		SizeBytes: size, PeerHasVersion: known > 0.3, AMSTStreams: selector.PlanStreams(size, 4), KnownShare: known,
		Probe: selector.Probe{
			Blocks: 64, Complete: true, Entropy: chance.Float64(), CompressibilityScore: chance.Float64(),
			DeltaPotential: known, ZstdShare: 0.1 + 0.9*chance.Float64(), ZstdMsPerMB: 8, LZ4MsPerMB: 2,
			CPUTime: time.Millisecond,
		},
	}
}

func (r *region) tell() said {
	status, counters := r.updater.Status(), r.decider.Counters()
	told := said{
		Serial: status.Serial, Champion: counters.ModelVersion, Decisions: r.made.Load(), Failed: r.failed.Load(),
		SlowestMs: float64(r.slowest.Load()) / 1e6, ByVersion: map[string]uint64{}, ByReason: counters.ByReason,
		Refused: status.Refused, LastError: status.LastError,
	}
	if text := r.failure.Load(); text != nil {
		told.Failure = *text
	}
	r.versions.Range(func(name, count any) bool {
		told.ByVersion[name.(string)] = count.(*atomic.Uint64).Load()
		return true
	})
	return told
}
