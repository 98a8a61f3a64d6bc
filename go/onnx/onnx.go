// Package onnx runs the ONNX form of the published model, model.onnx, in ONNX Runtime,
// behind the selector's Predictor interface. It is optional: the pure Go form answers
// the same and faster. Use it where a node runs ONNX Runtime already.
//
// The shared library is loaded when the first model is, so a program that imports this package
// starts without it. The onnxruntime wheel brings one:
// onnxruntime/capi/libonnxruntime.so.<release>.
package onnx

import (
	"errors"
	"fmt"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"dwcp.internal/selector"
	"dwcp.internal/selector/internal/metadata"
)

// Names in the graph, as the pipeline's dwcp.export.onnx_graph writes them.
const (
	inputName  = "features"
	outputName = "probabilities"
)

// ErrClosed says that a model was asked after Close.
var ErrClosed = errors.New("the model is closed")

// Model is a loaded model.onnx. It is safe for concurrent use; calls take turns, as they
// share the memory that is handed to the runtime. A call runs on its caller's thread alone.
type Model struct {
	described *metadata.Metadata

	turn    sync.Mutex // guards what follows
	session *ort.DynamicAdvancedSession
	binding *ort.IoBinding
	input   *ort.Tensor[float32]
	output  *ort.Tensor[float32]
}

var _ selector.Predictor = (*Model)(nil)

var (
	environment     sync.Mutex
	environmentPath string
)

// start loads the shared library once a process.
func start(libraryPath string) error {
	environment.Lock()
	defer environment.Unlock()
	if environmentPath != "" && environmentPath != libraryPath {
		return fmt.Errorf("ONNX Runtime was loaded from %s already: a process has one", environmentPath)
	}
	if environmentPath != "" || ort.IsInitialized() { // by this package, or by the node
		return nil
	}
	ort.SetSharedLibraryPath(libraryPath)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		return fmt.Errorf("ONNX Runtime cannot be loaded from %s: %w", libraryPath, err)
	}
	environmentPath = libraryPath
	return nil
}

// Load loads a model.onnx with the shared library at libraryPath. The caller has verified the
// bytes: a bundle's manifest names their SHA-256. Close frees what the runtime holds.
func Load(libraryPath string, data []byte) (*Model, error) {
	if len(data) == 0 {
		return nil, errors.New("model.onnx is empty")
	}
	if err := start(libraryPath); err != nil {
		return nil, err
	}
	model := &Model{}
	if err := model.open(data); err != nil {
		return nil, errors.Join(err, model.Close())
	}
	return model, nil
}

// open makes a session of one thread, and binds the tensors to it once and for all, so that
// a decision allocates nothing that it does not give back.
func (model *Model) open(data []byte) (err error) {
	options, err := ort.NewSessionOptions()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, options.Destroy()) }()
	if err := errors.Join(
		options.SetIntraOpNumThreads(1),
		options.SetInterOpNumThreads(1),
		options.SetLogSeverityLevel(ort.LoggingLevelError),
		options.SetCpuMemArena(false), // one row at a time needs no arena that grows
	); err != nil {
		return err
	}
	model.session, err = ort.NewDynamicAdvancedSessionWithONNXData(data, []string{inputName}, []string{outputName}, options)
	if err != nil {
		return fmt.Errorf("ONNX Runtime cannot load the model: %w", err)
	}
	if model.described, err = describe(model.session); err != nil {
		return err
	}
	if err := model.bind(); err != nil {
		return err
	}
	// Other names or shapes than ours show here, not at the first decision.
	if err := model.session.RunWithBinding(model.binding); err != nil {
		return fmt.Errorf("the model cannot be run on %d features: %w", len(model.described.Columns), err)
	}
	return nil
}

func describe(session *ort.DynamicAdvancedSession) (described *metadata.Metadata, err error) {
	stored, err := session.GetModelMetadata()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stored.Destroy()) }()
	entries := map[string]string{}
	for _, key := range metadata.Keys {
		if entries[key], _, err = stored.LookupCustomMetadataMap(key); err != nil {
			return nil, fmt.Errorf("the model's %s cannot be read: %w", key, err)
		}
	}
	return metadata.Parse(entries)
}

func (model *Model) bind() (err error) {
	if model.input, err = ort.NewEmptyTensor[float32](ort.NewShape(1, int64(len(model.described.Columns)))); err != nil {
		return err
	}
	if model.output, err = ort.NewEmptyTensor[float32](ort.NewShape(1, selector.CandidateCount)); err != nil {
		return err
	}
	if model.binding, err = model.session.CreateIoBinding(); err != nil {
		return err
	}
	return errors.Join(model.binding.BindInput(inputName, model.input), model.binding.BindOutput(outputName, model.output))
}

// Predict fills probabilities for one feature vector. It returns a
// *selector.NonFiniteError if a feature that the model looks at is NaN or infinite.
func (model *Model) Predict(features *selector.Features, probabilities *[selector.CandidateCount]float32) error {
	model.turn.Lock()
	defer model.turn.Unlock()
	if model.session == nil {
		return ErrClosed
	}
	if err := model.described.Gather(features, model.input.GetData()); err != nil {
		return err
	}
	if err := model.session.RunWithBinding(model.binding); err != nil {
		return err
	}
	return metadata.Answer(model.output.GetData(), probabilities)
}

// Version names the model.
func (model *Model) Version() string { return model.described.Version }

// Rule is the never-worse rule that was published with the model.
func (model *Model) Rule() selector.Rule { return model.described.Rule }

// Close frees the session. A later Predict returns ErrClosed; the shared library stays loaded.
func (model *Model) Close() error {
	model.turn.Lock()
	defer model.turn.Unlock()
	var problems []error
	if model.binding != nil {
		problems = append(problems, model.binding.Destroy())
	}
	if model.session != nil {
		problems = append(problems, model.session.Destroy())
	}
	for _, tensor := range []*ort.Tensor[float32]{model.input, model.output} {
		if tensor != nil {
			problems = append(problems, tensor.Destroy())
		}
	}
	model.session, model.binding, model.input, model.output = nil, nil, nil, nil
	return errors.Join(problems...)
}
