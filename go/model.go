package selector

import (
	"errors"
	"fmt"
	"math"
)

const (
	treeNodes   = 1 << treeDepth
	treesAtOnce = 4
	inputBits   = 6
	inputSlots  = 1 << inputBits // a power of two, so that an index needs a mask and no check
	lanes       = 4              // units of a layer that are summed side by side
)

// The contract's features fit into the slots.
const _ = uint(inputSlots - FeatureCount)

// ErrAnswerNotFinite says that a model answered with no probabilities.
var ErrAnswerNotFinite = errors.New("the model's answer is not finite")

// NonFiniteError says which feature no model may judge.
type NonFiniteError struct {
	Feature int // place in the feature vector
	Value   float32
}

// Error names the feature.
func (err *NonFiniteError) Error() string {
	return fmt.Sprintf("feature %s is %v: serve its cold-start default instead", FeatureSpecs[err.Feature].Name, err.Value)
}

// Model is a published model in pure Go: trees as complete level tables that are
// walked without a branch, a network, and their blend. LoadBundle makes it. It is
// immutable, and so safe for concurrent use.
type Model struct {
	version       string
	rule          Rule
	columns       []uint16                    // contract feature of each input
	thresholds    [][]int32                   // of each input, in order; see rank
	trees         [CandidateCount][]treeTable // in the order in which they were boosted
	baseScore     [CandidateCount]float32
	mean, scale   []float32
	layers        []layer
	treesWeight   float32
	networkWeight float32
}

// treeTable is one tree, filled up to treeDepth levels. Branch n, from 1, is followed
// by 2n and 2n+1, and the last level by the leaves.
type treeTable struct {
	branches [treeNodes]branch
	leaves   [treeNodes]float32
}

// branch is the place of its threshold among those of its input, above the input's
// number. Places instead of thresholds make a tree half the size, which counts
// more than finding an input's rank among the thresholds once: a walk waits for memory.
type branch uint16

func newBranch(place, input int) branch { return branch(place<<inputBits | input) }

// layer is a dense layer. Rows of weights hold one input's weights for lanes units;
// inputs rows after one another make a block of units.
type layer struct {
	inputs  int
	bias    [][lanes]float32
	weights [][lanes]float32
}

// Version names the model.
func (model *Model) Version() string { return model.version }

// Rule is the never-worse rule that was published with the model.
func (model *Model) Rule() Rule { return model.rule }

// Inputs are the places in a feature vector that the model looks at, in its order.
func (model *Model) Inputs() []int {
	inputs := make([]int, len(model.columns))
	for input, column := range model.columns {
		inputs[input] = int(column)
	}
	return inputs
}

// Predict fills probabilities, in candidate order. It allocates nothing unless it
// fails: with a *NonFiniteError, or with ErrAnswerNotFinite.
func (model *Model) Predict(features *Features, probabilities *[CandidateCount]float32) error {
	var inputs [inputSlots]float32
	for slot, column := range model.columns {
		value := features[column]
		if value-value != 0 {
			return &NonFiniteError{Feature: int(column), Value: value}
		}
		inputs[slot&(inputSlots-1)] = value
	}
	byTrees, byNetwork := model.treeProbabilities(&inputs), model.networkProbabilities(&inputs)
	var sum float32
	for class := range probabilities {
		probabilities[class] = model.treesWeight*byTrees[class] + model.networkWeight*byNetwork[class]
		sum += probabilities[class]
	}
	if sum-sum != 0 {
		return ErrAnswerNotFinite
	}
	return nil
}

// PredictBatch fills probabilities[n] for features[n], for the next transfers of a
// node. It returns Predict's error, wrapped, for the first vector that has one.
func (model *Model) PredictBatch(features []Features, probabilities [][CandidateCount]float32) error {
	if len(features) != len(probabilities) {
		return fmt.Errorf("%d feature vectors, but room for %d answers", len(features), len(probabilities))
	}
	for row := range features {
		if err := model.Predict(&features[row], &probabilities[row]); err != nil {
			return fmt.Errorf("row %d: %w", row, err)
		}
	}
	return nil
}

// Argmax is the most probable choice, the first of equals, and its probability.
func Argmax(probabilities *[CandidateCount]float32) (Choice, float32) {
	best := 0
	for class, probability := range probabilities {
		if probability > probabilities[best] {
			best = class
		}
	}
	return Choice(best), probabilities[best]
}

func (model *Model) treeProbabilities(inputs *[inputSlots]float32) [CandidateCount]float32 {
	var ranks [inputSlots]branch
	for input, thresholds := range model.thresholds {
		ranks[input%inputSlots] = newBranch(rank(thresholds, inputs[input%inputSlots]), 0)
	}
	var margins [CandidateCount]float64
	for class, trees := range model.trees {
		margins[class] = float64(sumTrees(trees, &ranks, model.baseScore[class]))
	}
	return softmax(margins)
}

// order maps finite floats to integers that compare as they do; both zeros are one.
func order(value float32) int32 {
	bits := int32(math.Float32bits(value + 0))
	return bits ^ (bits>>31)&math.MaxInt32
}

// rank is how many of the thresholds are not above value. They are ascending orders,
// filled up with ones above all to one less than a power of two.
func rank(thresholds []int32, value float32) int {
	limit := int64(order(value)) + 1
	count := uint(0)
	for half := uint(len(thresholds)+1) / 2; half > 0; half /= 2 {
		below := uint64(int64(thresholds[count+half-1])-limit) >> 63
		count += half & -uint(below)
	}
	return int(count)
}

// sumTrees adds the leaves that the inputs lead to, to start and in the order of
// the trees, as XGBoost does. Several trees are walked at once, as each step of one
// waits for the step before.
func sumTrees(trees []treeTable, ranks *[inputSlots]branch, start float32) float32 {
	sum := start
	for len(trees) >= treesAtOnce {
		four := (*[treesAtOnce]treeTable)(trees)
		a, b, c, d := uint(1), uint(1), uint(1), uint(1)
		// One line a level: a loop's counter would take a register from the walk.
		a, b, c, d = four[0].step(a, ranks), four[1].step(b, ranks), four[2].step(c, ranks), four[3].step(d, ranks)
		a, b, c, d = four[0].step(a, ranks), four[1].step(b, ranks), four[2].step(c, ranks), four[3].step(d, ranks)
		a, b, c, d = four[0].step(a, ranks), four[1].step(b, ranks), four[2].step(c, ranks), four[3].step(d, ranks)
		a, b, c, d = four[0].step(a, ranks), four[1].step(b, ranks), four[2].step(c, ranks), four[3].step(d, ranks)
		a, b, c, d = four[0].step(a, ranks), four[1].step(b, ranks), four[2].step(c, ranks), four[3].step(d, ranks)
		a, b, c, d = four[0].step(a, ranks), four[1].step(b, ranks), four[2].step(c, ranks), four[3].step(d, ranks)
		a, b, c, d = four[0].step(a, ranks), four[1].step(b, ranks), four[2].step(c, ranks), four[3].step(d, ranks)
		a, b, c, d = four[0].step(a, ranks), four[1].step(b, ranks), four[2].step(c, ranks), four[3].step(d, ranks)
		sum += four[0].leaves[a%treeNodes]
		sum += four[1].leaves[b%treeNodes]
		sum += four[2].leaves[c%treeNodes]
		sum += four[3].leaves[d%treeNodes]
		trees = trees[treesAtOnce:]
	}
	for number := range trees {
		at := uint(1)
		for level := 0; level < treeDepth; level++ {
			at = trees[number].step(at, ranks)
		}
		sum += trees[number].leaves[at%treeNodes]
	}
	return sum
}

// step goes from branch at to one of its two successors, without a branch in the
// code: right if the threshold's place is below the rank, which is x >= threshold.
func (tree *treeTable) step(at uint, ranks *[inputSlots]branch) uint {
	branch := tree.branches[at%treeNodes]
	right := uint32(int32(branch)-int32(ranks[branch%inputSlots])) >> 31
	return 2*at + uint(right)
}

func (model *Model) networkProbabilities(inputs *[inputSlots]float32) [CandidateCount]float32 {
	var first, second [maxUnits]float32
	for slot, mean := range model.mean {
		value := inputs[slot%inputSlots]
		if !(value > 0) {
			value = 0
		}
		logged := float32(math.Log(float64(value + 1)))
		first[slot] = (logged - mean) / model.scale[slot]
	}
	from, to := &first, &second
	last := len(model.layers) - 1
	for number := range model.layers {
		model.layers[number].apply(from, to, number < last)
		from, to = to, from
	}
	var logits [CandidateCount]float64
	for class := range logits {
		logits[class] = float64(from[class])
	}
	return softmax(logits)
}

// apply fills the units of to, rectified if not the last layer's.
func (layer *layer) apply(from, to *[maxUnits]float32, rectify bool) {
	inputs := from[:layer.inputs]
	for block := range layer.bias {
		weights := layer.weights[block*len(inputs):][:len(inputs)]
		sums := layer.bias[block]
		s0, s1, s2, s3 := sums[0], sums[1], sums[2], sums[3]
		for input, value := range inputs {
			row := &weights[input]
			s0 += value * row[0]
			s1 += value * row[1]
			s2 += value * row[2]
			s3 += value * row[3]
		}
		out := (*[lanes]float32)(to[block*lanes:])
		*out = [lanes]float32{s0, s1, s2, s3}
		if rectify {
			for lane, value := range out {
				out[lane] = max(value, 0)
			}
		}
	}
}

func softmax(logits [CandidateCount]float64) (probabilities [CandidateCount]float32) {
	most := logits[0]
	for _, logit := range logits {
		most = math.Max(most, logit)
	}
	var sum float64
	for class, logit := range logits {
		logits[class] = math.Exp(logit - most)
		sum += logits[class]
	}
	for class, share := range logits {
		probabilities[class] = float32(share / sum)
	}
	return probabilities
}
