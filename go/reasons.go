package selector

import (
	"context"
	"errors"
	"fmt"
)

// What kept the model from deciding. An error of SelectCompression wraps one of
// these, *NonFiniteError or *InputError, or the context's error; the decision beside it can be
// used all the same.
var (
	// ErrModelMissing says that no model was ever loaded.
	ErrModelMissing = errors.New("no model is loaded")
	// ErrModelInvalid says that a model should serve, but was refused; see the updater's status.
	ErrModelInvalid = errors.New("the model was refused")
	// ErrModelStale says that the model was released too long ago.
	ErrModelStale = errors.New("the model is too old")
	// ErrInference says that the model failed on this input, or panicked.
	ErrInference = errors.New("the model failed")
	// ErrNoState says that SelectCompression was called with a nil state or payload.
	ErrNoState = errors.New("no network state or no data characteristics")
)

// reasonOf is the contract's word for an error that kept the model from deciding.
func reasonOf(err error) Reason {
	var notFinite *NonFiniteError
	var input *InputError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return ReasonDeadlinePassed
	case errors.As(err, &notFinite), errors.As(err, &input), errors.Is(err, ErrNoState):
		return ReasonNonFiniteInput
	case errors.Is(err, ErrModelMissing):
		return ReasonModelMissing
	case errors.Is(err, ErrModelInvalid):
		return ReasonModelInvalid
	case errors.Is(err, ErrModelStale):
		return ReasonModelStale
	default:
		return ReasonInferenceError
	}
}

// predictSafely turns a predictor's panic into an error, and refuses an answer
// that is no distribution: it would compare as anything.
func predictSafely(model Predictor, features *Features, probabilities *[CandidateCount]float32) (err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("%w: it panicked: %v", ErrInference, problem)
		}
	}()
	if err := model.Predict(features, probabilities); err != nil {
		var notFinite *NonFiniteError
		if errors.As(err, &notFinite) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrInference, err)
	}
	for _, probability := range probabilities {
		if !(probability >= 0 && probability <= 1.0001) {
			return fmt.Errorf("%w: it answers the probability %v", ErrInference, probability)
		}
	}
	return nil
}
