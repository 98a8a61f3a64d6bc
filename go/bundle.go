package selector

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
	"slices"
)

// headerBytes are the magic, the format, the length and six counts.
const headerBytes = len(modelMagic) + 4 + 4 + 4*2 + 2*4

// storedTolerance is a difference of probabilities that no rounding explains.
const storedTolerance = 1e-5

// What can be wrong with a bundle. LoadBundle's errors match one of these with
// errors.Is, and are a *BundleError with the place for errors.As.
var (
	ErrBundleTooLarge   = errors.New("the bundle is larger than a node loads")
	ErrNotBundle        = errors.New("this is no bundle")
	ErrBundleFormat     = errors.New("the bundle has a format of another version")
	ErrBundleCorrupt    = errors.New("the bundle is damaged")
	ErrBundleBounds     = errors.New("the bundle is beyond a bound")
	ErrBundleFeatureSet = errors.New("the bundle's model takes other features or decides between other choices")
	ErrBundleSample     = errors.New("the model does not answer as the trained one did")
)

// BundleError is why a bundle was refused, and where.
type BundleError struct {
	Kind   error // one of the errors above
	Offset int   // byte in the file at which it shows
	Detail string
}

// Error says what was wrong and where.
func (err *BundleError) Error() string {
	return fmt.Sprintf("%v: at byte %d, %s", err.Kind, err.Offset, err.Detail)
}

// Unwrap is the kind of error.
func (err *BundleError) Unwrap() error { return err.Kind }

// LoadBundleFile loads the bundle at path; see LoadBundle. It reads no more of the
// file than a bundle may have.
func LoadBundleFile(path string) (*Model, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxModelBytes+1))
	if err != nil {
		return nil, err
	}
	return LoadBundle(data)
}

// LoadBundle checks and loads a model as the pipeline's export writes it
// (dwcp.export.go_bundle describes the layout), and runs its stored samples. Any
// bytes are safe to pass: what is no sound bundle is refused with a *BundleError.
// The model does not keep data.
func LoadBundle(data []byte) (*Model, error) {
	if err := checkEnvelope(data); err != nil {
		return nil, err
	}
	reader := &bundleReader{data: data[:len(data)-sha256.Size], at: len(modelMagic) + 4 + 4}
	model, samples := readModel(reader)
	if reader.err == nil && reader.at != len(reader.data) {
		reader.fail(ErrBundleCorrupt, "%d bytes are left over", len(reader.data)-reader.at)
	}
	if reader.err != nil {
		return nil, reader.err
	}
	if err := model.checkSamples(samples, len(reader.data)); err != nil {
		return nil, err
	}
	return model, nil
}

// checkEnvelope checks everything that can be known without reading the content.
func checkEnvelope(data []byte) error {
	refuse := func(kind error, offset int, detail string, values ...any) error {
		return &BundleError{kind, offset, fmt.Sprintf(detail, values...)}
	}
	if len(data) > MaxModelBytes {
		return refuse(ErrBundleTooLarge, MaxModelBytes, "%d bytes are allowed", MaxModelBytes)
	}
	if len(data) < len(modelMagic) || string(data[:len(modelMagic)]) != modelMagic {
		return refuse(ErrNotBundle, 0, "expected %q", modelMagic)
	}
	if len(data) < headerBytes+sha256.Size {
		return refuse(ErrBundleCorrupt, len(data), "the file ends within its header")
	}
	header := data[len(modelMagic):]
	if format := binary.LittleEndian.Uint32(header); format != modelFormat {
		return refuse(ErrBundleFormat, len(modelMagic), "format %d, this package reads %d: update it", format, modelFormat)
	}
	if length := binary.LittleEndian.Uint32(header[4:]); uint64(length) != uint64(len(data)) {
		return refuse(ErrBundleCorrupt, len(modelMagic)+4, "%d bytes were written, %d are here", length, len(data))
	}
	content := data[:len(data)-sha256.Size]
	if sum := sha256.Sum256(content); !bytes.Equal(sum[:], data[len(content):]) {
		return refuse(ErrBundleCorrupt, len(content), "its SHA-256 does not fit")
	}
	return nil
}

// sample is a stored vector and what the trained model answered there.
type sample struct {
	features Features
	expected [CandidateCount]float32
}

// readModel reads everything after the envelope; the reader keeps the first error,
// after which it returns zeros and allocates nothing.
func readModel(reader *bundleReader) (*Model, []sample) {
	classes := reader.count("classes", CandidateCount, CandidateCount, 2)
	inputs := reader.count("features", 1, FeatureCount, 2)
	depth := reader.count("levels of a tree", 1, treeDepth, 2)
	layers := reader.count("layers", 1, maxLayers, 2)
	trees := reader.count("trees", 1, maxTrees, 4)
	samples := reader.count("samples", 1, maxSamples, 4)

	model := &Model{version: reader.text()}
	if digest := reader.text(); digest != FeatureSetDigest {
		reader.fail(ErrBundleFeatureSet, "feature set %q, this package serves %q", digest, FeatureSetDigest)
	}
	readNames(reader, model, classes, inputs)
	readRule(reader, &model.rule)
	model.treesWeight, model.networkWeight = reader.share("weight"), reader.share("weight")
	copy(model.baseScore[:], reader.floats("base score", classes))
	readTrees(reader, model, trees, depth, inputs)
	readNetwork(reader, model, layers, inputs)
	return model, readSamples(reader, model, samples)
}

// readNames maps the model's inputs to the contract's features, by name.
func readNames(reader *bundleReader, model *Model, classes, inputs int) {
	for class := 0; class < classes; class++ {
		if name := reader.text(); name != Choice(class).String() {
			reader.fail(ErrBundleFeatureSet, "class %d is %q, not %q", class, name, Choice(class))
		}
	}
	seen := [FeatureCount]bool{}
	for input := 0; input < inputs; input++ {
		name := reader.text()
		column := featureIndex(name)
		if column < 0 || seen[column] {
			reader.fail(ErrBundleFeatureSet, "feature %q is unknown or named twice", name)
			return
		}
		seen[column] = true
		model.columns = append(model.columns, uint16(column))
	}
}

func featureIndex(name string) int {
	for index := range FeatureSpecs {
		if FeatureSpecs[index].Name == name {
			return index
		}
	}
	return -1
}

func readRule(reader *bundleReader, rule *Rule) {
	rule.FallbackConfidence = reader.float64("fallback confidence", 0, 1)
	for source := range rule.GainMargins {
		rule.GainMargins[source] = reader.float64("gain margin", 0, math.MaxFloat64)
	}
}

func readTrees(reader *bundleReader, model *Model, trees, depth, inputs int) {
	branches, leaves := 1<<depth-1, 1<<depth
	classOf := reader.bytes("tree classes", trees)
	thresholds := reader.floats("thresholds", trees*branches)
	features := reader.bytes("tree features", 2*trees*branches)
	values := reader.floats("leaves", trees*leaves)
	if reader.err != nil {
		return
	}
	inputOf := func(branch int) int { return int(binary.LittleEndian.Uint16(features[2*branch:])) }
	model.thresholds = make([][]int32, inputs)
	for branch, threshold := range thresholds {
		input := inputOf(branch)
		if input >= inputs {
			reader.fail(ErrBundleBounds, "a tree asks for input %d of %d", input, inputs)
			return
		}
		model.thresholds[input] = append(model.thresholds[input], order(threshold))
	}
	for input, asked := range model.thresholds {
		slices.Sort(asked)
		if asked = slices.Compact(asked); len(asked) > maxThresholds {
			reader.fail(ErrBundleBounds, "input %d has %d thresholds, allowed are %d", input, len(asked), maxThresholds)
			return
		}
		model.thresholds[input] = filledUp(asked)
	}
	for number, class := range classOf {
		if int(class) >= CandidateCount {
			reader.fail(ErrBundleBounds, "tree %d adds to class %d", number, class)
			return
		}
		var tree treeTable
		for branch := 0; branch < branches; branch++ {
			at := number*branches + branch
			place, _ := slices.BinarySearch(model.thresholds[inputOf(at)], order(thresholds[at]))
			tree.branches[branch+1] = newBranch(place, inputOf(at))
		}
		for leaf := range tree.leaves {
			// A table of fewer levels is filled up: whatever its last branches say, they lead to one leaf.
			tree.leaves[leaf] = values[number*leaves+leaf>>(treeDepth-depth)]
		}
		model.trees[class] = append(model.trees[class], tree)
	}
	for class := range model.trees {
		model.trees[class] = slices.Clip(model.trees[class])
	}
}

// filledUp is a copy of thresholds of the length that rank takes.
func filledUp(thresholds []int32) []int32 {
	filled := make([]int32, 1<<bits.Len(uint(len(thresholds)))-1)
	for place := copy(filled, thresholds); place < len(filled); place++ {
		filled[place] = math.MaxInt32
	}
	return filled
}

func readNetwork(reader *bundleReader, model *Model, layers, inputs int) {
	model.mean = reader.floats("mean", inputs)
	model.scale = reader.floats("scale", inputs)
	for _, scale := range model.scale {
		if !(scale > 0) {
			reader.fail(ErrBundleBounds, "a feature's scale is %v", scale)
		}
	}
	units := make([]int, layers)
	for number := range units {
		units[number] = reader.count("units", 1, maxUnits, 2)
	}
	for number, outputs := range units {
		if number == layers-1 && outputs != CandidateCount {
			reader.fail(ErrBundleBounds, "the network ends in %d units", outputs)
		}
		weights := reader.floats("weights", outputs*inputs)
		bias := reader.floats("bias", outputs)
		if reader.err != nil {
			return
		}
		model.layers = append(model.layers, newLayer(weights, bias, inputs))
		inputs = outputs
	}
}

// newLayer deals units to blocks of lanes; the last block is filled up with zeros.
func newLayer(weights, bias []float32, inputs int) layer {
	blocks := (len(bias) + lanes - 1) / lanes
	made := layer{inputs, make([][lanes]float32, blocks), make([][lanes]float32, blocks*inputs)}
	for unit := range bias {
		block, lane := unit/lanes, unit%lanes
		made.bias[block][lane] = bias[unit]
		for input := 0; input < inputs; input++ {
			made.weights[block*inputs+input][lane] = weights[unit*inputs+input]
		}
	}
	return made
}

func readSamples(reader *bundleReader, model *Model, count int) []sample {
	inputs := len(model.columns)
	rows := reader.floats("samples", count*inputs)
	expected := reader.floats("expected probabilities", count*CandidateCount)
	if reader.err != nil {
		return nil
	}
	samples := make([]sample, count)
	for number := range samples {
		for input, column := range model.columns {
			samples[number].features[column] = rows[number*inputs+input]
		}
		copy(samples[number].expected[:], expected[number*CandidateCount:])
	}
	return samples
}

// checkSamples runs the stored vectors: a model that answers otherwise is another one.
func (model *Model) checkSamples(samples []sample, offset int) error {
	for number := range samples {
		var found [CandidateCount]float32
		if err := model.Predict(&samples[number].features, &found); err != nil {
			return &BundleError{ErrBundleSample, offset, fmt.Sprintf("sample %d: %v", number, err)}
		}
		for class, expected := range samples[number].expected {
			if difference := math.Abs(float64(found[class] - expected)); !(difference <= storedTolerance) {
				return &BundleError{ErrBundleSample, offset, fmt.Sprintf(
					"sample %d: %s has %v, not %v", number, Choice(class), found[class], expected)}
			}
		}
	}
	return nil
}

// bundleReader takes sections off a bundle, and checks that they are there first.
type bundleReader struct {
	data []byte
	at   int
	err  error
}

// fail keeps the first error.
func (reader *bundleReader) fail(kind error, detail string, values ...any) {
	if reader.err == nil {
		reader.err = &BundleError{kind, reader.at, fmt.Sprintf(detail, values...)}
	}
}

// bytes are the next count bytes, or nil after an error.
func (reader *bundleReader) bytes(what string, count int) []byte {
	if reader.err == nil && count > len(reader.data)-reader.at {
		reader.fail(ErrBundleCorrupt, "%s take %d bytes, %d are left", what, count, len(reader.data)-reader.at)
	}
	if reader.err != nil {
		return nil
	}
	section := reader.data[reader.at : reader.at+count]
	reader.at += count
	return section
}

// count is a whole number of size bytes within least and most; least after an error.
func (reader *bundleReader) count(what string, least, most, size int) int {
	section := reader.bytes(what, size)
	if reader.err != nil {
		return least
	}
	value := uint64(binary.LittleEndian.Uint16(section))
	if size == 4 {
		value = uint64(binary.LittleEndian.Uint32(section))
	}
	if value < uint64(least) || value > uint64(most) {
		reader.fail(ErrBundleBounds, "%d %s, allowed are %d to %d", value, what, least, most)
		return least
	}
	return int(value)
}

func (reader *bundleReader) text() string {
	return string(reader.bytes("text", reader.count("bytes of text", 0, maxTextBytes, 2)))
}

// floats are count finite numbers, or nil after an error.
func (reader *bundleReader) floats(what string, count int) []float32 {
	section := reader.bytes(what, 4*count)
	if reader.err != nil {
		return nil
	}
	values := make([]float32, count)
	for index := range values {
		values[index] = math.Float32frombits(binary.LittleEndian.Uint32(section[4*index:]))
		if values[index]-values[index] != 0 {
			reader.fail(ErrBundleBounds, "%s holds %v", what, values[index])
			return nil
		}
	}
	return values
}

// share is a weight of the blend.
func (reader *bundleReader) share(what string) float32 {
	values := reader.floats(what, 1)
	if reader.err != nil {
		return 0
	}
	if values[0] < 0 || values[0] > 1 {
		reader.fail(ErrBundleBounds, "a %s of %v", what, values[0])
	}
	return values[0]
}

func (reader *bundleReader) float64(what string, least, most float64) float64 {
	section := reader.bytes(what, 8)
	if reader.err != nil {
		return 0
	}
	value := math.Float64frombits(binary.LittleEndian.Uint64(section))
	if !(value >= least && value <= most) {
		reader.fail(ErrBundleBounds, "a %s of %v", what, value)
	}
	return value
}
