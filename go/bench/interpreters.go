//go:build cgo

package main

import (
	"errors"
	"os"

	"dwcp.internal/selector"
	"dwcp.internal/selector/litert"
	"dwcp.internal/selector/onnx"
)

func init() {
	forms["onnx"] = func(path, library string) (selector.Predictor, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		return onnx.Load(library, data)
	}
	forms["litert"] = func(path, library string) (selector.Predictor, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		return litert.Load(library, data)
	}
	forms["onnx-a-call"] = openSessionACall
}

// sessionACall makes and frees a session for each decision, as a first draft would.
type sessionACall struct {
	selector.Predictor // version and rule, of a session that stays
	library            string
	data               []byte
}

func openSessionACall(path, library string) (selector.Predictor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	stays, err := onnx.Load(library, data)
	if err != nil {
		return nil, err
	}
	return &sessionACall{stays, library, data}, nil
}

func (s *sessionACall) Predict(features *selector.Features, probabilities *[selector.CandidateCount]float32) error {
	model, err := onnx.Load(s.library, s.data)
	if err != nil {
		return err
	}
	return errors.Join(model.Predict(features, probabilities), model.Close())
}
