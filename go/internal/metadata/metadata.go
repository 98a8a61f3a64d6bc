// Package metadata reads what an exported model says of itself beside its graph. The
// ONNX and TFLite forms carry the same entries (dwcp.export.onnx_graph, tflite_graph).
package metadata

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"dwcp.internal/selector"
)

// Names of the entries.
const (
	versionKey  = "version"
	featuresKey = "feature_names"
	classesKey  = "classes"
	digestKey   = "feature_set_digest"
	ruleKey     = "rule"
)

// Keys are the entries that Parse needs.
var Keys = []string{versionKey, featuresKey, classesKey, digestKey, ruleKey}

// Metadata is what a Predictor needs to know of its model.
type Metadata struct {
	Version string
	Columns []int // places in a feature vector that the model looks at, in its order
	Rule    selector.Rule
}

// Parse reads the entries, and refuses a model of other features or choices than
// this module's contract.
func Parse(entries map[string]string) (*Metadata, error) {
	for _, key := range Keys {
		if entries[key] == "" {
			return nil, fmt.Errorf("the model's metadata have no %s: it was not written by the pipeline's export", key)
		}
	}
	if digest := entries[digestKey]; digest != selector.FeatureSetDigest {
		return nil, fmt.Errorf("the model was trained on feature set %s, this node serves %s: one of both has to be updated",
			digest, selector.FeatureSetDigest)
	}
	if err := checkClasses(entries[classesKey]); err != nil {
		return nil, err
	}
	found := &Metadata{Version: entries[versionKey]}
	var err error
	if found.Columns, err = parseColumns(entries[featuresKey]); err != nil {
		return nil, err
	}
	found.Rule, err = parseRule(entries[ruleKey])
	return found, err
}

func checkClasses(text string) error {
	var classes []string
	if err := json.Unmarshal([]byte(text), &classes); err != nil {
		return fmt.Errorf("the model's classes cannot be read: %w", err)
	}
	expected := make([]string, selector.CandidateCount)
	for class := range expected {
		expected[class] = selector.Choice(class).String()
	}
	if !slices.Equal(classes, expected) {
		return fmt.Errorf("the model chooses between %v, this node between %v", classes, expected)
	}
	return nil
}

func parseColumns(text string) ([]int, error) {
	var names []string
	if err := json.Unmarshal([]byte(text), &names); err != nil {
		return nil, fmt.Errorf("the model's feature names cannot be read: %w", err)
	}
	if len(names) == 0 || len(names) > selector.FeatureCount {
		return nil, fmt.Errorf("the model takes %d features, not 1 to %d", len(names), selector.FeatureCount)
	}
	columns := make([]int, len(names))
	for place, name := range names {
		columns[place] = slices.IndexFunc(selector.FeatureSpecs[:], func(spec selector.FeatureSpec) bool {
			return spec.Name == name
		})
		if columns[place] < 0 {
			return nil, fmt.Errorf("the model takes a feature %q that the contract does not have", name)
		}
	}
	return columns, nil
}

func parseRule(text string) (rule selector.Rule, err error) {
	var found struct {
		FallbackConfidence *float64  `json:"fallback_confidence"`
		GainMargins        []float64 `json:"gain_margins"`
	}
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return rule, fmt.Errorf("the model's rule cannot be read: %w", err)
	}
	if found.FallbackConfidence == nil || len(found.GainMargins) != len(rule.GainMargins) {
		return rule, errors.New("the model's rule has no fallback_confidence or another number of gain_margins")
	}
	rule.FallbackConfidence = *found.FallbackConfidence
	copy(rule.GainMargins[:], found.GainMargins)
	return rule, nil
}

// Gather copies the model's inputs, in its order, to inputs. It refuses, as the pure Go form
// does, what no model may judge: the runtimes would answer with label 0 and no error.
func (m *Metadata) Gather(features *selector.Features, inputs []float32) error {
	for place, column := range m.Columns {
		value := features[column]
		if value-value != 0 {
			return &selector.NonFiniteError{Feature: column, Value: value}
		}
		inputs[place] = value
	}
	return nil
}

// Answer copies a runtime's output to probabilities, or returns ErrAnswerNotFinite.
func Answer(output []float32, probabilities *[selector.CandidateCount]float32) error {
	copy(probabilities[:], output)
	var sum float32
	for _, probability := range probabilities {
		sum += probability
	}
	if sum-sum != 0 {
		return selector.ErrAnswerNotFinite
	}
	return nil
}
