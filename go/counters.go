package selector

import (
	"encoding/json"
	"sync/atomic"
)

// Counters is a snapshot of what a selector did since it was made. Only what
// happened is in the maps, by the contract's words.
type Counters struct {
	Decisions     uint64            `json:"decisions"`
	ByReason      map[string]uint64 `json:"by_reason"`
	ByChoice      map[string]uint64 `json:"by_choice"`
	ByArm         map[string]uint64 `json:"by_arm"`
	CacheHits     uint64            `json:"cache_hits"`
	CacheMisses   uint64            `json:"cache_misses"`
	ShadowFaults  uint64            `json:"shadow_faults"` // a model in the shadow failed; rules act anyway
	ModelReleases uint64            `json:"model_releases"`
	ModelVersion  string            `json:"model_version"` // of the champion, empty without one
	Challenger    string            `json:"challenger"`
	ChannelSerial int64             `json:"channel_serial"`
}

// tally counts decisions; safe for concurrent use.
type tally struct {
	reasons      [ReasonNotWorthIt + 1]atomic.Uint64
	choices      [AlgorithmCount]atomic.Uint64
	arms         [ArmChampion + 1]atomic.Uint64
	hits, misses atomic.Uint64
	shadowFaults atomic.Uint64
	releases     atomic.Uint64
}

func (t *tally) count(decision *Decision) {
	t.reasons[decision.Reason].Add(1)
	t.choices[decision.Choice].Add(1)
	t.arms[decision.Arm].Add(1)
}

// Counters returns a snapshot. The counters are read one by one, so under load they may
// differ by the decisions made meanwhile.
func (selector *CompressionSelectorML) Counters() Counters {
	t, now := &selector.tally, selector.release.Load()
	snapshot := Counters{
		ByReason:      map[string]uint64{},
		ByChoice:      map[string]uint64{},
		ByArm:         map[string]uint64{},
		CacheHits:     t.hits.Load(),
		CacheMisses:   t.misses.Load(),
		ShadowFaults:  t.shadowFaults.Load(),
		ModelReleases: t.releases.Load(),
		ChannelSerial: now.serial,
	}
	if now.champion != nil {
		snapshot.ModelVersion = now.champion.version
	}
	if now.challenger != nil {
		snapshot.Challenger = now.challenger.version
	}
	for index := range t.reasons {
		if count := t.reasons[index].Load(); count > 0 {
			snapshot.ByReason[Reason(index).String()] = count
			snapshot.Decisions += count
		}
	}
	for index := range t.choices {
		if count := t.choices[index].Load(); count > 0 {
			snapshot.ByChoice[Choice(index).String()] = count
		}
	}
	for index := range t.arms {
		if count := t.arms[index].Load(); count > 0 {
			snapshot.ByArm[Arm(index).String()] = count
		}
	}
	return snapshot
}

// String is the snapshot in JSON, which makes a selector an expvar.Var:
// expvar.Publish("dwcp_selector", selector).
func (selector *CompressionSelectorML) String() string {
	text, err := json.Marshal(selector.Counters())
	if err != nil { // numbers and texts always marshal
		return "{}"
	}
	return string(text)
}
