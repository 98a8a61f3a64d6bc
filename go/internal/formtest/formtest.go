// Package formtest holds what every interpreter of a published model has to do, beside the pure Go form.
package formtest

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"dwcp.internal/selector"
)

// Model is a form that an interpreter has loaded.
type Model interface {
	selector.Predictor
	Close() error
}

// Form is one of the published files, and the interpreter that runs it.
type Form struct {
	Library string // the environment variable that names the interpreter's shared library
	File    string
	Load    func(library string, data []byte) (Model, error)
	Closed  error // what a closed model answers
}

// Run checks the form. The library and the folder DWCP_FORMS with the published files are provided by
// tests/export/test_go_interpreters.py, or by a person: see docs/compression_selector_integration.md.
func (f Form) Run(t *testing.T) {
	for name, check := range map[string]func(*testing.T){
		"AnswersAsThePureGoForm":        f.answersAsThePureGoForm,
		"DecidesInASelector":            f.decidesInASelector,
		"RefusesWhatIsNotFinite":        f.refusesWhatIsNotFinite,
		"ManyAskAtOnce":                 f.manyAskAtOnce,
		"AllocatesNothing":              f.allocatesNothing,
		"ClosedModelsAnswerWithAnError": f.closedModelsAnswerWithAnError,
		"RefusesDamagedFiles":           f.refusesDamagedFiles,
	} {
		t.Run(name, check)
	}
}

// Published is the shared library and the bytes of the form. Without them the test is skipped.
func (f Form) Published(t testing.TB) (library string, data []byte) {
	t.Helper()
	library, forms := os.Getenv(f.Library), os.Getenv("DWCP_FORMS")
	if library == "" || forms == "" {
		t.Skipf("%s names no shared library or DWCP_FORMS no folder with %s", f.Library, f.File)
	}
	data, err := os.ReadFile(filepath.Join(forms, f.File))
	if err != nil {
		t.Fatal(err)
	}
	return library, data
}

// Loaded is the form's model, closed when the test ends.
func (f Form) Loaded(t testing.TB) Model {
	t.Helper()
	library, data := f.Published(t)
	model, err := f.Load(library, data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := model.Close(); err != nil {
			t.Error(err)
		}
	})
	return model
}

func defaults() *selector.Features {
	var features selector.Features
	for place, spec := range selector.FeatureSpecs {
		features[place] = float32(spec.Default)
	}
	return &features
}

func (f Form) answersAsThePureGoForm(t *testing.T) {
	model := f.Loaded(t)
	pure, err := selector.LoadBundleFile(filepath.Join(os.Getenv("DWCP_FORMS"), "model.dwcp"))
	if err != nil {
		t.Fatal(err)
	}
	if model.Version() != pure.Version() || model.Rule() != pure.Rule() {
		t.Errorf("version %s and rule %v, not %s and %v", model.Version(), model.Rule(), pure.Version(), pure.Rule())
	}
	var found, expected [selector.CandidateCount]float32
	if err := errors.Join(model.Predict(defaults(), &found), pure.Predict(defaults(), &expected)); err != nil {
		t.Fatal(err)
	}
	for class := range found {
		if math.Abs(float64(found[class]-expected[class])) > 1e-6 {
			t.Errorf("%v, not %v", found, expected)
		}
	}
}

func (f Form) decidesInASelector(t *testing.T) {
	node := selector.New(selector.WithNodeID("node-7"), selector.WithModel(f.Loaded(t)))
	decision, err := node.SelectCompression(context.Background(), selector.NewNetworkState("node-8"),
		&selector.DataCharacteristics{ObjectID: "disk-1", SizeBytes: 64 << 20})
	if err != nil || decision.ModelVersion == "" || decision.Confidence <= 0 {
		t.Errorf("%+v, %v", decision, err)
	}
}

func (f Form) refusesWhatIsNotFinite(t *testing.T) {
	model := f.Loaded(t)
	for _, value := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		features := defaults()
		features[selector.FeatureRTTMs] = float32(value)
		var probabilities [selector.CandidateCount]float32
		var refused *selector.NonFiniteError
		if err := model.Predict(features, &probabilities); !errors.As(err, &refused) || refused.Feature != selector.FeatureRTTMs {
			t.Errorf("%v: %v", value, err)
		}
	}
}

func (f Form) manyAskAtOnce(t *testing.T) {
	model := f.Loaded(t)
	rows := [8]selector.Features{}
	var expected [8][selector.CandidateCount]float32
	for row := range rows {
		rows[row] = *defaults()
		rows[row][selector.FeatureRTTMs], rows[row][selector.FeatureEntropy] = float32(1+20*row), float32(row)/8
		if err := model.Predict(&rows[row], &expected[row]); err != nil {
			t.Fatal(err)
		}
	}
	if expected[0] == expected[7] {
		t.Fatal("the rows are alike: mixed up answers would not show")
	}
	var running sync.WaitGroup
	for row := range rows {
		running.Add(1)
		go func(row int) {
			defer running.Done()
			for call := 0; call < 200; call++ {
				var found [selector.CandidateCount]float32
				if err := model.Predict(&rows[row], &found); err != nil || found != expected[row] {
					t.Errorf("row %d: %v, %v", row, found, err)
					return
				}
			}
		}(row)
	}
	running.Wait()
}

func (f Form) allocatesNothing(t *testing.T) {
	model, features := f.Loaded(t), defaults()
	var probabilities [selector.CandidateCount]float32
	if allocations := testing.AllocsPerRun(100, func() { _ = model.Predict(features, &probabilities) }); allocations > 0 {
		t.Errorf("%v allocations a decision", allocations)
	}
}

func (f Form) closedModelsAnswerWithAnError(t *testing.T) {
	library, data := f.Published(t)
	model, err := f.Load(library, data)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(model.Close(), model.Close()); err != nil {
		t.Fatal(err)
	}
	var probabilities [selector.CandidateCount]float32
	if err := model.Predict(defaults(), &probabilities); !errors.Is(err, f.Closed) {
		t.Errorf("%v", err)
	}
}

func (f Form) refusesDamagedFiles(t *testing.T) {
	library, data := f.Published(t)
	for name, damaged := range map[string][]byte{
		"nothing": nil, "text": []byte("no model, but longer than a header"), "cut off": data[:len(data)/2], "a start": data[:64],
	} {
		if model, err := f.Load(library, damaged); err == nil {
			t.Errorf("%s was loaded as %s", name, model.Version())
		}
	}
}
