package selector_test

import (
	"errors"
	"fmt"

	"dwcp.internal/selector"
)

// A model by itself: most nodes let a CompressionSelectorML hold it.
func ExampleLoadBundleFile() {
	model, err := selector.LoadBundleFile("testdata/model.dwcp")
	if err != nil {
		fmt.Println(err)
		return
	}
	var features selector.Features
	for place, spec := range selector.FeatureSpecs {
		features[place] = float32(spec.Default)
	}
	var probabilities [selector.CandidateCount]float32
	if err := model.Predict(&features, &probabilities); err != nil {
		fmt.Println(err)
		return
	}
	argmax, confidence := selector.Argmax(&probabilities)
	rule := model.Rule()
	choice, reason := rule.Decide(&features, argmax, confidence)
	fmt.Printf("the model says %v at %.2f; %v runs: %v\n", argmax, confidence, choice, reason)
	// Output: the model says none at 0.82; zstd runs: not_worth_it
}

// What is wrong with a file can be told apart.
func ExampleLoadBundle() {
	_, err := selector.LoadBundle([]byte("no model at all"))
	var refusal *selector.BundleError
	fmt.Println(errors.Is(err, selector.ErrNotBundle), errors.As(err, &refusal))
	// Output: true true
}
