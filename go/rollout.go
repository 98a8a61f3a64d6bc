package selector

import "encoding/binary"

// RolloutBucket is the stable bucket of a node's object, 0 to RolloutBuckets-1:
// an object stays in its arm as long as its node sends it. It is the pipeline's
// function: the first eight bytes of BLAKE2b over "node/object".
func RolloutBucket(nodeID, objectID string) int {
	var room [256]byte // longer names are rare and cost one allocation
	name := append(append(append(room[:0], nodeID...), '/'), objectID...)
	digest := blake2b64(name)
	return int(binary.BigEndian.Uint64(digest[:]) % RolloutBuckets)
}

// release is what serves one region: the models of a channel document, loaded.
// It never changes; a newer one replaces it as a whole.
type release struct {
	champion, challenger *servedModel // nil: none
	shareBuckets         int          // this many of the buckets follow the challenger
	fault                error        // why a champion that should serve does not
	serial               int64        // of the channel document, 0 without one
	expiresAtNs          int64        // from then on its models are too old; 0: never
}

// servedModel is a loaded model with what it says of itself, asked once, and a number
// of its own, by which the cache tells it from every other one, two loads of one
// version included.
type servedModel struct {
	Predictor
	version string
	rule    Rule
	number  uint64
}

// route says which model a bucket asks, the arm that it lies in, and whether the
// model's word acts. Without a champion the rules act beyond the challenger's
// share and the challenger runs in the shadow. Beside a champion a challenger is
// asked within its share only, as a log row holds one model's word.
func (r *release) route(bucket int) (model *servedModel, arm Arm, acts bool) {
	switch {
	case r.challenger != nil && bucket < r.shareBuckets:
		return r.challenger, ArmCanary, true
	case r.champion != nil:
		return r.champion, ArmChampion, true
	case r.challenger != nil && r.fault == nil:
		return r.challenger, ArmShadow, false
	default:
		return nil, ArmRules, true
	}
}
