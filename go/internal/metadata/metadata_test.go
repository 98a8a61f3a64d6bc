package metadata

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"dwcp.internal/selector"
)

func good() map[string]string {
	return map[string]string{
		versionKey:  "v1",
		featuresKey: `["entropy", "rtt_ms"]`,
		classesKey:  `["hde", "amst", "none"]`,
		digestKey:   selector.FeatureSetDigest,
		ruleKey:     `{"fallback_confidence": 0.6, "gain_margins": [0.3, 0.2, 0.1]}`,
	}
}

func TestParse(t *testing.T) {
	found, err := Parse(good())
	if err != nil {
		t.Fatal(err)
	}
	rule := selector.Rule{FallbackConfidence: 0.6, GainMargins: [3]float64{0.3, 0.2, 0.1}}
	if found.Version != "v1" || found.Rule != rule {
		t.Errorf("found %+v", found)
	}
	if found.Columns[0] != selector.FeatureEntropy || found.Columns[1] != selector.FeatureRTTMs {
		t.Errorf("the columns are %v", found.Columns)
	}
}

func TestParseRefuses(t *testing.T) {
	many, err := json.Marshal(make([]string, selector.FeatureCount+1))
	if err != nil {
		t.Fatal(err)
	}
	for key, wrong := range map[string][]string{
		versionKey:  {""},
		featuresKey: {"", "[]", "{", `["of another contract"]`, string(many)},
		classesKey:  {"", "[", `["amst", "hde", "none"]`, `["hde"]`},
		digestKey:   {"", "0123456789abcdef"},
		ruleKey:     {"", "[", `{"gain_margins": [0, 0, 0]}`, `{"fallback_confidence": 0.6, "gain_margins": [0]}`},
	} {
		for _, text := range wrong {
			entries := good()
			entries[key] = text
			if found, err := Parse(entries); err == nil {
				t.Errorf("%s = %q was taken: %+v", key, text, found)
			} else if strings.TrimSpace(err.Error()) == "" {
				t.Errorf("%s = %q: no word of why", key, text)
			}
		}
	}
}

func TestGatherRefusesWhatIsNotFinite(t *testing.T) {
	found, err := Parse(good())
	if err != nil {
		t.Fatal(err)
	}
	var features selector.Features
	features[selector.FeatureEntropy], features[selector.FeatureRTTMs] = 0.25, 40
	features[selector.FeatureJitterMs] = float32(math.NaN()) // not looked at
	inputs := make([]float32, 2)
	if err := found.Gather(&features, inputs); err != nil || inputs[0] != 0.25 || inputs[1] != 40 {
		t.Errorf("gathered %v, %v", inputs, err)
	}
	features[selector.FeatureRTTMs] = float32(math.Inf(1))
	var refused *selector.NonFiniteError
	if err := found.Gather(&features, inputs); !errors.As(err, &refused) || refused.Feature != selector.FeatureRTTMs {
		t.Errorf("an infinite RTT: %v", err)
	}
}

func TestAnswer(t *testing.T) {
	var probabilities [selector.CandidateCount]float32
	if err := Answer([]float32{0.5, 0.25, 0.25}, &probabilities); err != nil || probabilities[0] != 0.5 {
		t.Errorf("%v, %v", probabilities, err)
	}
	if err := Answer([]float32{0.5, float32(math.NaN()), 0}, &probabilities); !errors.Is(err, selector.ErrAnswerNotFinite) {
		t.Errorf("NaN: %v", err)
	}
}
