package selector

import "time"

// Choice is what a node may do with a transfer: an index into the contract's
// algorithms. The first CandidateCount of them are what the model chooses
// between, in its class order.
type Choice uint8

// Reason says why the executed choice was made.
type Reason uint8

// Arm is the part of a rollout that a transfer fell into.
type Arm uint8

// Features are the model's inputs as the node served them, in the contract's
// order (see FeatureSpecs). Every one of them is finite.
type Features [FeatureCount]float32

// Predictor is one form of the published model. It is safe for concurrent use.
type Predictor interface {
	// Predict fills probabilities, in candidate order, for one feature vector.
	// The pure Go form allocates nothing. It returns a *NonFiniteError if a
	// feature is NaN or infinite.
	Predict(features *Features, probabilities *[CandidateCount]float32) error
	// Version names the model.
	Version() string
	// Rule is the never-worse rule that was published with the model.
	Rule() Rule
}

// Decision is the answer for one transfer, with everything that its log needs.
type Decision struct {
	Choice           Choice        // what runs
	Argmax           Choice        // the model's choice before any fallback
	Confidence       float32       // the model's highest probability
	Reason           Reason        // why Choice runs
	ModelVersion     string        // empty without a model
	Features         Features      // as served
	FeatureSetDigest string        // names the definition of Features
	Bucket           int           // rollout bucket, 0 to RolloutBuckets-1
	Arm              Arm           // rollout arm
	DecisionTime     time.Duration // without the probe
	ProbeTime        time.Duration // time spent looking at the payload
	TimestampNs      int64         // when it was made, since 1970 UTC; strictly increasing per selector
}

// FeatureSpec is the contract's definition of one feature.
type FeatureSpec struct {
	Name             string
	Unit             string
	Default          float64 // served at cold start
	Minimum, Maximum float64 // inclusive
	Meaning          string
}

// Kind is the type of a logged value, with InfluxDB's names of field types.
type Kind uint8

// The kinds of logged values.
const (
	Float Kind = iota
	Integer
	String
)

// Column is the contract's definition of one tag or field of the metrics log.
type Column struct {
	Name             string
	Kind             Kind
	Nullable         bool
	Minimum, Maximum float64 // inclusive; both 0 for text
	MaxLength        int     // characters; 0 for numbers
}

// nameOf is the text of an enum's value, for its String method.
func nameOf(names []string, value uint8) string {
	if int(value) < len(names) {
		return names[value]
	}
	return "unknown"
}

// indexOf is the inverse of nameOf; found is false if no value has that name.
func indexOf(names []string, name string) (value uint8, found bool) {
	for index, known := range names {
		if known == name {
			return uint8(index), true
		}
	}
	return 0, false
}
