package litert

import (
	"path/filepath"
	"testing"

	"dwcp.internal/selector/internal/formtest"
)

var form = formtest.Form{
	Library: "DWCP_LITERT_LIBRARY",
	File:    "model.tflite",
	Load:    func(library string, data []byte) (formtest.Model, error) { return Load(library, data) },
	Closed:  ErrClosed,
}

func TestForm(t *testing.T) { form.Run(t) }

func TestAMissingLibraryIsAnError(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "libLiteRt.so"), []byte("\x1c\x00\x00\x00TFL3")); err == nil {
		t.Error("there is no library")
	}
}

func TestAnotherLibraryIsAnError(t *testing.T) {
	if _, err := Load("libm.so.6", []byte("\x1c\x00\x00\x00TFL3")); err == nil {
		t.Error("the mathematical library was taken for LiteRT")
	}
}
