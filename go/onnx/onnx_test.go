package onnx

import (
	"path/filepath"
	"testing"

	"dwcp.internal/selector/internal/formtest"
)

var form = formtest.Form{
	Library: "DWCP_ONNXRUNTIME_LIBRARY",
	File:    "model.onnx",
	Load:    func(library string, data []byte) (formtest.Model, error) { return Load(library, data) },
	Closed:  ErrClosed,
}

func TestForm(t *testing.T) { form.Run(t) }

func TestAMissingLibraryIsAnError(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "libonnxruntime.so"), []byte("model")); err == nil {
		t.Error("there is no library")
	}
}

func TestOneLibraryAProcess(t *testing.T) {
	_, data := form.Published(t)
	form.Loaded(t)
	if _, err := Load("another.so", data); err == nil {
		t.Error("a second ONNX Runtime was loaded")
	}
}
