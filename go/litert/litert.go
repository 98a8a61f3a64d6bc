// Package litert runs the TFLite form of the published model, model.tflite, in LiteRT
// (once TensorFlow Lite), behind the selector's Predictor interface. It is optional: the
// pure Go form answers the same and faster. Use it where a node runs LiteRT already.
//
// The shared library is loaded when the first model is, so a program that imports this package
// builds and starts without it; to build it, cgo and a C compiler are needed. The ai-edge-litert
// wheel brings the library: ai_edge_litert/libLiteRt.so, of release 2.3 or later.
package litert

/*
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "runtime.h"
*/
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"dwcp.internal/selector"
	"dwcp.internal/selector/internal/metadata"
)

// Names in the file, as the pipeline's dwcp.export.tflite_graph writes them.
const (
	inputName    = "features"
	outputName   = "probabilities"
	metadataName = "dwcp"
)

const problemBytes = 512

// identifier stands in a TFLite file after its first four bytes.
const identifier = "TFL3"

// ErrClosed says that a model was asked after Close.
var ErrClosed = errors.New("the model is closed")

// Model is a loaded model.tflite. It is safe for concurrent use; calls take turns, as LiteRT
// has one place for a row and its answer. A call runs on its caller's thread alone.
type Model struct {
	described *metadata.Metadata

	turn    sync.Mutex // guards what follows
	runtime *C.dwcp_model
	data    unsafe.Pointer // the file, which LiteRT reads in place
	inputs  []float32      // LiteRT's memory, as is outputs
	outputs []float32
}

var _ selector.Predictor = (*Model)(nil)

// Load loads a model.tflite with the shared library at libraryPath. The caller has verified the
// bytes: a bundle's manifest names their SHA-256. LiteRT trusts a file's offsets where the
// manifest does not vouch for them, so never load what was not verified. Close frees what the
// runtime holds.
func Load(libraryPath string, data []byte) (*Model, error) {
	if len(data) < 8 || string(data[4:8]) != identifier {
		return nil, errors.New("these bytes are no TFLite file")
	}
	model := &Model{data: C.CBytes(data)}
	if err := model.open(libraryPath, len(data)); err != nil {
		return nil, errors.Join(err, model.Close())
	}
	return model, nil
}

func (model *Model) open(libraryPath string, size int) error {
	library := C.CString(libraryPath)
	defer C.free(unsafe.Pointer(library))
	problem := (*C.char)(C.calloc(1, problemBytes))
	defer C.free(unsafe.Pointer(problem))
	model.runtime = C.dwcp_open(library, model.data, C.size_t(size), problem, problemBytes)
	if model.runtime == nil {
		return errors.New(C.GoString(problem))
	}
	var err error
	if model.described, err = describe(model.runtime); err != nil {
		return err
	}
	input, output := C.CString(inputName), C.CString(outputName)
	defer C.free(unsafe.Pointer(input))
	defer C.free(unsafe.Pointer(output))
	inputs := len(model.described.Columns)
	if C.dwcp_prepare(model.runtime, input, C.int(inputs), output, selector.CandidateCount, problem, problemBytes) != 0 {
		return errors.New(C.GoString(problem))
	}
	model.inputs = unsafe.Slice((*float32)(C.dwcp_input(model.runtime)), inputs)
	model.outputs = unsafe.Slice((*float32)(C.dwcp_output(model.runtime)), selector.CandidateCount)
	return model.run() // what LiteRT makes at the first run is made now
}

func describe(runtime *C.dwcp_model) (*metadata.Metadata, error) {
	key := C.CString(metadataName)
	defer C.free(unsafe.Pointer(key))
	var size C.size_t
	found := C.dwcp_metadata(runtime, key, &size)
	if found == nil {
		return nil, errors.New("the model has no metadata: it was not written by the pipeline's export")
	}
	entries := map[string]string{}
	if err := json.Unmarshal(C.GoBytes(found, C.int(size)), &entries); err != nil {
		return nil, fmt.Errorf("the model's metadata cannot be read: %w", err)
	}
	return metadata.Parse(entries)
}

func (model *Model) run() error {
	if status := C.dwcp_run(model.runtime); status != 0 {
		return fmt.Errorf("LiteRT failed with status %d", int(status))
	}
	return nil
}

// Predict fills probabilities for one feature vector. It returns a
// *selector.NonFiniteError if a feature that the model looks at is NaN or infinite.
func (model *Model) Predict(features *selector.Features, probabilities *[selector.CandidateCount]float32) error {
	model.turn.Lock()
	defer model.turn.Unlock()
	if model.runtime == nil {
		return ErrClosed
	}
	if err := model.described.Gather(features, model.inputs); err != nil {
		return err
	}
	if err := model.run(); err != nil {
		return err
	}
	return metadata.Answer(model.outputs, probabilities)
}

// Version names the model.
func (model *Model) Version() string { return model.described.Version }

// Rule is the never-worse rule that was published with the model.
func (model *Model) Rule() selector.Rule { return model.described.Rule }

// Close frees the model. A later Predict returns ErrClosed; the shared library stays loaded.
func (model *Model) Close() error {
	model.turn.Lock()
	defer model.turn.Unlock()
	if model.runtime != nil {
		C.dwcp_close(model.runtime)
	}
	C.free(model.data)
	model.runtime, model.data, model.inputs, model.outputs = nil, nil, nil, nil
	return nil
}
