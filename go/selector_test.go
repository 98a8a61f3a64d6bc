package selector

import (
	"context"
	"errors"
	"expvar"
	"math"
	"runtime"
	"sync"
	"testing"
	"time"
)

// fakeModel answers the same whatever it is asked.
type fakeModel struct {
	version       string
	probabilities [CandidateCount]float32
	err           error
	panics        bool
	asked         *int
}

func (model fakeModel) Predict(_ *Features, probabilities *[CandidateCount]float32) error {
	if model.asked != nil {
		*model.asked++
	}
	if model.panics {
		panic("a bug in a model")
	}
	*probabilities = model.probabilities
	return model.err
}
func (model fakeModel) Version() string { return model.version }
func (model fakeModel) Rule() Rule      { return Rule{FallbackConfidence: 0.6} }

var sureOfHDE = fakeModel{version: "v1", probabilities: [CandidateCount]float32{0.9, 0.06, 0.04}}

// wanTransfer is one for which HDE beats zstd by far, by what the node knows.
func wanTransfer() (*NetworkState, *DataCharacteristics) {
	network := NewNetworkState("peer-1")
	network.LinkType, network.RTTMs, network.BandwidthMbps = LinkTypeWAN, 40, 100
	network.At = time.Date(2026, 6, 1, 14, 30, 0, 0, time.UTC)
	return network, &DataCharacteristics{
		ObjectID: "object-1", DataType: DataTypeVMDisk, SizeBytes: 64 << 20, PeerHasVersion: true, AMSTStreams: 4,
		KnownShare: 0.9,
		Probe: Probe{Blocks: 64, Complete: true, Entropy: 0.6, CompressibilityScore: 0.4, DeltaPotential: 0.9,
			ZstdShare: 0.5, ZstdMsPerMB: 8, LZ4MsPerMB: 2, CPUTime: 3 * time.Millisecond},
	}
}

func TestTheModelDecides(t *testing.T) {
	selector := New(WithNodeID("node-1"), WithModel(sureOfHDE))
	network, data := wanTransfer()
	decision, err := selector.SelectCompression(context.Background(), network, data)
	if err != nil {
		t.Fatal(err)
	}
	if decision.Choice != HDE || decision.Argmax != HDE || decision.Reason != ReasonModel || decision.Arm != ArmChampion {
		t.Errorf("%v (model said %v) by %v in arm %v", decision.Choice, decision.Argmax, decision.Reason, decision.Arm)
	}
	if decision.Confidence != 0.9 || decision.ModelVersion != "v1" || decision.FeatureSetDigest != FeatureSetDigest {
		t.Errorf("confidence %v, model %q, features %q", decision.Confidence, decision.ModelVersion, decision.FeatureSetDigest)
	}
	if decision.Bucket != RolloutBucket("node-1", "object-1") || decision.ProbeTime != 3*time.Millisecond {
		t.Errorf("bucket %d, probe %v", decision.Bucket, decision.ProbeTime)
	}
	var expected Features
	if err := (&FeatureExtractor{}).Extract(network, data, &expected); err != nil || decision.Features != expected {
		t.Errorf("the features are not those that the extractor gives (%v)", err)
	}
	if decision.TimestampNs != network.At.UnixNano() {
		t.Errorf("stamped %d, decided at %d", decision.TimestampNs, network.At.UnixNano())
	}
}

func TestEveryFallbackHasItsReason(t *testing.T) {
	unsure := fakeModel{version: "v1", probabilities: [CandidateCount]float32{0.2, 0.3, 0.5}}
	past, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	invalid := errors.New("bit flip")
	for _, known := range []struct {
		name    string
		release func(*CompressionSelectorML) *release // nil: as New made it
		model   Predictor
		spoil   func(*NetworkState, *DataCharacteristics)
		ctx     context.Context
		choice  Choice
		reason  Reason
		err     error
	}{
		{name: "missing", choice: HDE, reason: ReasonModelMissing, err: ErrModelMissing},
		{name: "invalid", release: func(*CompressionSelectorML) *release {
			return &release{fault: errors.Join(ErrModelInvalid, invalid)}
		}, choice: HDE, reason: ReasonModelInvalid, err: invalid},
		{name: "stale", release: func(s *CompressionSelectorML) *release {
			return &release{champion: s.served(sureOfHDE), expiresAtNs: time.Now().Add(-time.Hour).UnixNano()}
		}, choice: HDE, reason: ReasonModelStale, err: ErrModelStale},
		{name: "rules are meant", release: func(*CompressionSelectorML) *release { return &release{} },
			choice: HDE, reason: ReasonRules},
		{name: "error", model: fakeModel{err: errors.New("no")}, choice: HDE, reason: ReasonInferenceError, err: ErrInference},
		{name: "panic", model: fakeModel{panics: true}, choice: HDE, reason: ReasonInferenceError, err: ErrInference},
		{name: "NaN answer", model: fakeModel{probabilities: [CandidateCount]float32{float32(math.NaN()), 1, 0}},
			choice: HDE, reason: ReasonInferenceError, err: ErrInference},
		{name: "NaN input", model: sureOfHDE, spoil: func(n *NetworkState, _ *DataCharacteristics) { n.RTTMs = math.NaN() },
			choice: HDE, reason: ReasonNonFiniteInput, err: &InputError{}},
		{name: "infinite input", model: sureOfHDE,
			spoil:  func(_ *NetworkState, d *DataCharacteristics) { d.Probe.Entropy = math.Inf(1) },
			choice: HDE, reason: ReasonNonFiniteInput, err: &InputError{}},
		{name: "deadline", model: sureOfHDE, ctx: past, choice: Zstd, reason: ReasonDeadlinePassed, err: context.DeadlineExceeded},
		{name: "unsure and not worth it", model: unsure, choice: Zstd, reason: ReasonLowConfidence},
		{name: "sure and not worth it", model: fakeModel{probabilities: [CandidateCount]float32{0, 0.1, 0.9}},
			choice: Zstd, reason: ReasonNotWorthIt},
	} {
		t.Run(known.name, func(t *testing.T) {
			selector := New()
			if known.model != nil {
				selector = New(WithModel(known.model))
			}
			if known.release != nil {
				selector.install(known.release(selector))
			}
			network, data := wanTransfer()
			if known.spoil != nil {
				known.spoil(network, data)
			}
			ctx := known.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			decision, err := selector.SelectCompression(ctx, network, data)
			if decision.Choice != known.choice || decision.Reason != known.reason {
				t.Errorf("%v by %v", decision.Choice, decision.Reason)
			}
			var input *InputError
			if _, wantsInput := known.err.(*InputError); wantsInput {
				if !errors.As(err, &input) {
					t.Errorf("error %v is no *InputError", err)
				}
			} else if !errors.Is(err, known.err) {
				t.Errorf("error %v, expected %v", err, known.err)
			}
			for index, value := range decision.Features {
				if value-value != 0 {
					t.Errorf("%s was served as %v", FeatureSpecs[index].Name, value)
				}
			}
			if got := selector.Counters().ByReason; got[known.reason.String()] != 1 || len(got) != 1 {
				t.Errorf("counted %v", got)
			}
		})
	}
}

func TestNilStateGetsADecision(t *testing.T) {
	selector := New(WithModel(sureOfHDE))
	network, data := wanTransfer()
	for _, transfer := range []Transfer{{nil, data}, {network, nil}, {nil, nil}} {
		decision, err := selector.SelectCompression(context.Background(), transfer.Network, transfer.Data)
		if !errors.Is(err, ErrNoState) || decision.Reason != ReasonNonFiniteInput || decision.TimestampNs == 0 {
			t.Errorf("%v by %v, error %v", decision.Choice, decision.Reason, err)
		}
	}
}

func TestNothingThatACallerForgetsPanics(t *testing.T) {
	network, data := wanTransfer()
	unloaded, _ := LoadBundleFile("no such file")
	for name, selector := range map[string]*CompressionSelectorML{
		"no model": New(WithModel(nil)), "a model that was not loaded": New(WithModel(unloaded)),
	} {
		decision, err := selector.SelectCompression(context.Background(), network, data)
		if !errors.Is(err, ErrModelMissing) || decision.Reason != ReasonModelMissing {
			t.Errorf("%s: by %v, error %v", name, decision.Reason, err)
		}
	}
	var none context.Context
	decision, err := New(WithModel(sureOfHDE)).SelectCompression(none, network, data)
	if !errors.Is(err, ErrInference) || decision.Choice != Baseline || decision.Reason != ReasonInferenceError {
		t.Errorf("no context: %v by %v, error %v", decision.Choice, decision.Reason, err)
	}
}

func TestAfterTheDeadlineTheLastGoodChoiceRuns(t *testing.T) {
	selector := New(WithModel(sureOfHDE))
	network, data := wanTransfer()
	late, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := selector.SelectCompression(context.Background(), network, data); err != nil {
		t.Fatal(err)
	}
	for name, known := range map[string]struct {
		change func(*NetworkState, *DataCharacteristics)
		choice Choice
	}{
		"the same pair":  {func(*NetworkState, *DataCharacteristics) {}, HDE},
		"another object": {func(_ *NetworkState, d *DataCharacteristics) { d.ObjectID = "object-2" }, Zstd},
		"another peer":   {func(n *NetworkState, _ *DataCharacteristics) { n.PeerID = "peer-2" }, Zstd},
		"another link":   {func(n *NetworkState, _ *DataCharacteristics) { n.LinkType = LinkTypeDC }, Zstd},
	} {
		network, data := wanTransfer()
		known.change(network, data)
		decision, err := selector.SelectCompression(late, network, data)
		if !errors.Is(err, context.Canceled) || decision.Choice != known.choice {
			t.Errorf("%s: %v, error %v", name, decision.Choice, err)
		}
	}
}

func TestShadowLogsTheModelAndRulesAct(t *testing.T) {
	selector := New()
	noneModel := fakeModel{version: "v2", probabilities: [CandidateCount]float32{0, 0, 1}}
	selector.install(&release{challenger: selector.served(noneModel)})
	network, data := wanTransfer()
	decision, err := selector.SelectCompression(context.Background(), network, data)
	if err != nil || decision.Choice != HDE || decision.Reason != ReasonRules || decision.Arm != ArmShadow {
		t.Errorf("%v by %v in %v, error %v", decision.Choice, decision.Reason, decision.Arm, err)
	}
	if decision.Argmax != None || decision.Confidence != 1 || decision.ModelVersion != "v2" {
		t.Errorf("the model's word: %v, %v, %q", decision.Argmax, decision.Confidence, decision.ModelVersion)
	}
	selector.install(&release{challenger: selector.served(fakeModel{version: "v3", panics: true})})
	decision, err = selector.SelectCompression(context.Background(), network, data)
	if err != nil || decision.Reason != ReasonRules || decision.ModelVersion != "" || selector.Counters().ShadowFaults != 1 {
		t.Errorf("by %v, model %q, error %v, %+v", decision.Reason, decision.ModelVersion, err, selector.Counters())
	}
}

func TestTheCacheForgetsWithTheLinkAndTheModel(t *testing.T) {
	asked := 0
	model := sureOfHDE
	model.asked = &asked
	selector := New(WithModel(model))
	network, data := wanTransfer()
	ask := func(what string, expected int) {
		t.Helper()
		if _, err := selector.SelectCompression(context.Background(), network, data); err != nil || asked != expected {
			t.Errorf("%s: asked %d times, expected %d (%v)", what, asked, expected, err)
		}
	}
	ask("first", 1)
	ask("again", 1)
	data.SizeBytes++
	ask("one byte more is the same float32", 1)
	data.SizeBytes *= 2
	ask("another size", 2)
	network.LinkType = LinkTypeMetro
	ask("another link", 3)
	network.LinkType = LinkTypeWAN
	ask("back again, but forgotten", 4)
	selector.install(&release{champion: selector.served(model)})
	ask("another model", 5)
	ask("again", 5)
	if counters := selector.Counters(); counters.CacheHits != 3 || counters.CacheMisses != 5 {
		t.Errorf("%+v", counters)
	}
}

func TestBatchDecidesLikeSingles(t *testing.T) {
	network, data := wanTransfer()
	broken := *network
	broken.JitterMs = math.Inf(-1)
	small := *data
	small.SizeBytes = 100
	transfers := []Transfer{{network, data}, {&broken, data}, {network, &small}, {nil, nil}}
	decisions := make([]Decision, len(transfers))
	err := New(WithModel(sureOfHDE)).SelectBatch(context.Background(), transfers, decisions)
	var input *InputError
	if !errors.As(err, &input) {
		t.Errorf("error %v", err)
	}
	for index, transfer := range transfers {
		single, _ := New(WithModel(sureOfHDE)).SelectCompression(context.Background(), transfer.Network, transfer.Data)
		got := decisions[index]
		if got.Choice != single.Choice || got.Reason != single.Reason || got.Features != single.Features {
			t.Errorf("transfer %d: %v by %v, alone %v by %v", index, got.Choice, got.Reason, single.Choice, single.Reason)
		}
	}
}

func TestTimestampsStrictlyIncrease(t *testing.T) {
	selector := New(WithModel(sureOfHDE))
	const workers, each = 4, 500
	stamps := make([][]int64, workers)
	var group sync.WaitGroup
	for worker := range stamps {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			network, data := wanTransfer() // all at the same time
			for n := 0; n < each; n++ {
				decision, _ := selector.SelectCompression(context.Background(), network, data)
				stamps[worker] = append(stamps[worker], decision.TimestampNs)
			}
		}(worker)
	}
	group.Wait()
	seen := map[int64]bool{}
	for _, ofWorker := range stamps {
		for index, stamp := range ofWorker {
			if seen[stamp] || index > 0 && stamp <= ofWorker[index-1] {
				t.Fatalf("%d comes twice or goes back", stamp)
			}
			seen[stamp] = true
		}
	}
}

func TestASwapUnderLoadFailsNoDecision(t *testing.T) {
	selector := New(WithModel(sureOfHDE))
	done := make(chan struct{})
	var group sync.WaitGroup
	for worker := 0; worker < 4; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			network, data := wanTransfer()
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				data.SizeBytes = int64(worker*1000+n%50) << 12
				decision, err := selector.SelectCompression(context.Background(), network, data)
				// Each version has a choice of its own: an answer of another version would show.
				if err != nil || decision.Argmax != map[string]Choice{"v1": HDE, "v2": AMST}[decision.ModelVersion] {
					t.Errorf("%v by %q: %v", decision.Argmax, decision.ModelVersion, err)
					return
				}
			}
		}(worker)
	}
	other := fakeModel{version: "v2", probabilities: [CandidateCount]float32{0.1, 0.8, 0.1}}
	for n := 0; n < 300; n++ {
		selector.install(&release{champion: selector.served([]Predictor{sureOfHDE, other}[n%2])})
		runtime.Gosched()
	}
	close(done)
	group.Wait()
}

func TestCountersAreAnExpvar(t *testing.T) {
	var _ expvar.Var = New()
	selector := New(WithModel(sureOfHDE))
	network, data := wanTransfer()
	_, _ = selector.SelectCompression(context.Background(), network, data)
	expected := `{"decisions":1,"by_reason":{"model":1},"by_choice":{"hde":1},"by_arm":{"champion":1},` +
		`"cache_hits":0,"cache_misses":1,"shadow_faults":0,"model_releases":1,"model_version":"v1",` +
		`"challenger":"","channel_serial":0}`
	if selector.String() != expected {
		t.Error(selector.String())
	}
}

func TestADecisionAllocatesNothing(t *testing.T) {
	selector := New(WithModel(sureOfHDE), WithHistory(NewHistory(Limits{})))
	network, data := wanTransfer()
	ctx := context.Background()
	if allocations := testing.AllocsPerRun(100, func() {
		data.SizeBytes += 1 << 20
		_, _ = selector.SelectCompression(ctx, network, data)
	}); allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
}
