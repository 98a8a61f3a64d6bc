package main

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"dwcp.internal/selector"
)

// forms are the ways to answer, by name. Those that need C are added by interpreters.go.
var forms = map[string]func(path, library string) (selector.Predictor, error){
	"go":     openGo,
	"nested": openNested,
}

func open(form, path, library string) (selector.Predictor, error) {
	load, found := forms[form]
	if !found {
		names := make([]string, 0, len(forms))
		for name := range forms {
			names = append(names, name)
		}
		sort.Strings(names)
		return nil, fmt.Errorf("there is no form %q in this program: it has %s (onnx and litert need a build with cgo)",
			form, strings.Join(names, ", "))
	}
	return load(path, library)
}

func openGo(path, _ string) (selector.Predictor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return selector.LoadBundle(data)
}
