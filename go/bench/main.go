// Command bench runs a published model in one of its forms, for the tests that hold the forms
// against one another and for the tables of make bench-go:
//
//	bench predict -form FORM -library LIBRARY MODEL < rows > answers
//	bench measure -form FORM -library LIBRARY [-decide] [-decisions N] MODEL < rows > JSON
//	bench burn
//
// FORM is go, onnx or litert, or one of the naive ways: nested, onnx-a-call. MODEL is the form's
// file. A row is all of the contract's features in their order, little-endian float32. An answer
// is as internal/parity gives it: the candidates' probabilities, float32, and the label, uint8.
// burn keeps one core busy until it is ended.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"

	"dwcp.internal/selector"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string, in io.Reader, out io.Writer) error {
	if len(arguments) == 0 {
		return errors.New("usage: bench predict|measure|burn with flags and a model")
	}
	flags := flag.NewFlagSet(arguments[0], flag.ContinueOnError)
	form := flags.String("form", "go", "what answers")
	library := flags.String("library", "", "the shared library of onnx and litert")
	decide := flags.Bool("decide", false, "measure whole decisions of a selector, not the model alone")
	decisions := flags.Int("decisions", 20_000, "how many are measured")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	switch {
	case arguments[0] == "burn":
		burn()
		return nil
	case flags.NArg() != 1:
		return errors.New("name one model")
	case *decisions < 1:
		return fmt.Errorf("%d are no decisions", *decisions)
	}
	rows, err := readRows(in)
	if err != nil {
		return err
	}
	switch arguments[0] {
	case "predict":
		return predict(*form, flags.Arg(0), *library, rows, out)
	case "measure":
		found, err := measure(*form, flags.Arg(0), *library, rows, *decisions, *decide)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(found)
	}
	return fmt.Errorf("there is no command %s", arguments[0])
}

func readRows(in io.Reader) ([]selector.Features, error) {
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	const size = 4 * selector.FeatureCount
	if len(data) == 0 || len(data)%size != 0 {
		return nil, fmt.Errorf("%d bytes are no rows of %d features", len(data), selector.FeatureCount)
	}
	rows := make([]selector.Features, len(data)/size)
	for number := range rows {
		for place := range rows[number] {
			rows[number][place] = math.Float32frombits(binary.LittleEndian.Uint32(data[number*size+4*place:]))
		}
	}
	return rows, nil
}

func predict(form, path, library string, rows []selector.Features, out io.Writer) error {
	model, err := open(form, path, library)
	if err != nil {
		return err
	}
	writer := bufio.NewWriterSize(out, 1<<20)
	var answer []byte
	for number := range rows {
		var probabilities [selector.CandidateCount]float32
		if err := model.Predict(&rows[number], &probabilities); err != nil {
			return fmt.Errorf("row %d: %w", number, err)
		}
		answer = answer[:0]
		for _, probability := range probabilities {
			answer = binary.LittleEndian.AppendUint32(answer, math.Float32bits(probability))
		}
		label, _ := selector.Argmax(&probabilities)
		if _, err := writer.Write(append(answer, byte(label))); err != nil {
			return err
		}
	}
	return writer.Flush()
}
