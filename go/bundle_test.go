package selector

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

const testModel = "testdata/model.dwcp"

// offsets of the header's counts.
const (
	formatAt  = len(modelMagic)
	lengthAt  = formatAt + 4
	classesAt = lengthAt + 4
	inputsAt  = classesAt + 2
	depthAt   = inputsAt + 2
	layersAt  = depthAt + 2
	treesAt   = layersAt + 2
	samplesAt = treesAt + 4
)

func readTestModel(tb testing.TB) []byte {
	tb.Helper()
	data, err := os.ReadFile(testModel)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func loadTestModel(tb testing.TB) *Model {
	tb.Helper()
	model, err := LoadBundle(readTestModel(tb))
	if err != nil {
		tb.Fatalf("%v (a changed contract or layout needs make generate)", err)
	}
	return model
}

// seal sets length and digest right, so that what was changed is all that is wrong.
func seal(content []byte) []byte {
	sealed := bytes.Clone(content)
	if len(sealed) >= lengthAt+4 {
		binary.LittleEndian.PutUint32(sealed[lengthAt:], uint32(len(sealed)+sha256.Size))
	}
	sum := sha256.Sum256(sealed)
	return append(sealed, sum[:]...)
}

// testSamples are the stored vectors and answers of a bundle.
func testSamples(data []byte) []sample {
	_, samples := readModel(&bundleReader{data: data[:len(data)-sha256.Size], at: classesAt})
	return samples
}

func TestLoadBundle(t *testing.T) {
	model, err := LoadBundleFile(testModel)
	if err != nil {
		t.Fatal(err)
	}
	if model.Version() != "testdata" || model.Rule() != (Rule{0.6, [3]float64{0.3, 0.2, 0.1}}) {
		t.Errorf("loaded %q with %v", model.Version(), model.Rule())
	}
	if inputs := model.Inputs(); len(inputs) != FeatureCount || inputs[FeatureRTTMs] != FeatureRTTMs {
		t.Errorf("inputs are %v", inputs)
	}
	for number, sample := range testSamples(readTestModel(t)) {
		var found [CandidateCount]float32
		if err := model.Predict(&sample.features, &found); err != nil {
			t.Fatal(err)
		}
		for class := range found {
			if math.Abs(float64(found[class]-sample.expected[class])) > 1e-6 {
				t.Errorf("sample %d: %v, trained objects say %v", number, found, sample.expected)
			}
		}
	}
}

func TestLoadBundleFileOfNoFile(t *testing.T) {
	if _, err := LoadBundleFile(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestTruncationsAreRefused(t *testing.T) {
	data := readTestModel(t)
	for length := 0; length < len(data); length += 1 + length/100 {
		for _, cut := range [][]byte{data[:length], seal(data[:length])} {
			if bytes.Equal(cut, data) {
				continue // only the digest was cut off, and sealing brought it back
			}
			refused(t, cut, nil)
		}
	}
}

func TestFlippedBitsAreRefused(t *testing.T) {
	data := readTestModel(t)
	for place := 0; place < len(data); place += 1 + place/1000 {
		data[place] ^= 1 << (place % 8)
		refused(t, data, nil)
		data[place] ^= 1 << (place % 8)
	}
}

// refused checks that data is refused with a *BundleError, of kind if it is given.
func refused(t *testing.T, data []byte, kind error) {
	t.Helper()
	_, err := LoadBundle(data)
	var found *BundleError
	if !errors.As(err, &found) {
		t.Fatalf("%d bytes: got %v, not a *BundleError", len(data), err)
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Fatalf("got %q, expected %q", err, kind)
	}
}

func TestSealedButWrong(t *testing.T) {
	data := readTestModel(t)
	content := data[:len(data)-sha256.Size]
	model := loadTestModel(t)
	put16 := func(at int, value uint16) func([]byte) {
		return func(data []byte) { binary.LittleEndian.PutUint16(data[at:], value) }
	}
	put32 := func(at int, value uint32) func([]byte) {
		return func(data []byte) { binary.LittleEndian.PutUint32(data[at:], value) }
	}
	// The first float in the file that is old becomes new.
	replace := func(old, new float32) func([]byte) {
		pattern := binary.LittleEndian.AppendUint32(nil, math.Float32bits(old))
		at := bytes.Index(content, pattern)
		if at < 0 {
			t.Fatalf("%v is not in the file", old)
		}
		return put32(at, math.Float32bits(new))
	}
	word := func(old, new string) func([]byte) {
		at := bytes.Index(content, []byte(old))
		return func(data []byte) { copy(data[at:], new) }
	}
	leaf, weight := model.trees[0][0].leaves[0], model.layers[0].weights[0][0]
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, wrong := range map[string]struct {
		change func([]byte)
		kind   error
	}{
		"another magic":          {put16(0, 0), ErrNotBundle},
		"another format":         {put32(formatAt, 2), ErrBundleFormat},
		"two classes":            {put16(classesAt, 2), ErrBundleBounds},
		"no inputs":              {put16(inputsAt, 0), ErrBundleBounds},
		"inputs without end":     {put16(inputsAt, 65535), ErrBundleBounds},
		"trees without depth":    {put16(depthAt, 0), ErrBundleBounds},
		"trees of nine levels":   {put16(depthAt, 9), ErrBundleBounds},
		"no layers":              {put16(layersAt, 0), ErrBundleBounds},
		"trees without end":      {put32(treesAt, math.MaxUint32), ErrBundleBounds},
		"more trees than bytes":  {put32(treesAt, maxTrees), ErrBundleCorrupt},
		"fewer trees than bytes": {put32(treesAt, 1), nil},
		"no samples":             {put32(samplesAt, 0), ErrBundleBounds},
		"samples without end":    {put32(samplesAt, math.MaxUint32), ErrBundleBounds},
		"fewer samples":          {put32(samplesAt, 63), ErrBundleCorrupt},
		"a long text":            {put16(samplesAt+4, maxTextBytes+1), ErrBundleBounds},
		"another feature set":    {word(FeatureSetDigest, "0000"), ErrBundleFeatureSet},
		"an unknown feature":     {word("jitter_ms", "jotter_ms"), ErrBundleFeatureSet},
		"a feature named twice":  {word("recent_amst_ratio", "recent_hde_ratio\x00"), ErrBundleFeatureSet},
		"swapped classes":        {word("\x03\x00hde\x04\x00amst", "\x04\x00amst\x03\x00hde"), ErrBundleFeatureSet},
		"a leaf of NaN":          {replace(leaf, nan), ErrBundleBounds},
		"a leaf without end":     {replace(leaf, -inf), ErrBundleBounds},
		"a weight of NaN":        {replace(weight, nan), ErrBundleBounds},
		"a large weight":         {replace(weight, math.MaxFloat32), ErrBundleSample},
		"another weight":         {replace(weight, weight+0.5), ErrBundleSample},
		"a scale of zero":        {replace(model.scale[3], 0), ErrBundleBounds},
		"a negative scale":       {replace(model.scale[3], -model.scale[3]), ErrBundleBounds},
		"another mean":           {replace(model.mean[3], model.mean[3]+1), ErrBundleSample},
		"a share over one":       {replace(model.treesWeight, 1.5), ErrBundleBounds},
		"another share":          {replace(model.treesWeight, 0.6), ErrBundleSample},
		"another base score":     {replace(model.baseScore[1], model.baseScore[1]+0.1), ErrBundleSample},
	} {
		t.Run(name, func(t *testing.T) {
			changed := bytes.Clone(content)
			wrong.change(changed)
			if bytes.Equal(changed, content) {
				t.Fatal("nothing was changed")
			}
			refused(t, seal(changed), wrong.kind)
		})
	}
	refused(t, seal(append(bytes.Clone(content), 0)), ErrBundleCorrupt)
}

func TestTooLarge(t *testing.T) {
	refused(t, make([]byte, MaxModelBytes+1), ErrBundleTooLarge)
	path := filepath.Join(t.TempDir(), "large")
	if err := os.Truncate(touch(t, path), 1<<40); err != nil {
		t.Skipf("no sparse files here: %v", err)
	}
	if _, err := LoadBundleFile(path); !errors.Is(err, ErrBundleTooLarge) {
		t.Errorf("got %v", err)
	}
}

func touch(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A header that promises the most of everything costs nothing before the rest is there.
func TestPromisesTakeNoMemory(t *testing.T) {
	content := bytes.Clone(readTestModel(t))
	binary.LittleEndian.PutUint16(content[depthAt:], treeDepth)
	binary.LittleEndian.PutUint16(content[layersAt:], maxLayers)
	binary.LittleEndian.PutUint32(content[treesAt:], maxTrees)
	binary.LittleEndian.PutUint32(content[samplesAt:], maxSamples)
	hostile := seal(content[:len(content)-sha256.Size])
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	refused(t, hostile, ErrBundleCorrupt)
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 64<<10 {
		t.Errorf("%d bytes were allocated for a file of %d", allocated, len(hostile))
	}
}

// FuzzLoadBundle seals what it is given, so that it comes past length and digest.
func FuzzLoadBundle(f *testing.F) {
	data := readTestModel(f)
	f.Add(data[:len(data)-sha256.Size])
	f.Add(data[:headerBytes])
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, data := range [][]byte{content, seal(content)} {
			model, err := LoadBundle(data)
			var refusal *BundleError
			if err != nil {
				if !errors.As(err, &refusal) {
					t.Fatalf("refused with %v, not a *BundleError", err)
				}
				continue
			}
			var features Features
			var probabilities [CandidateCount]float32
			if err := model.Predict(&features, &probabilities); err != nil && !errors.Is(err, ErrAnswerNotFinite) {
				t.Fatal(err)
			}
		}
	})
}
