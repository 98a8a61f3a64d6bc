// Command parity runs a published model on vectors from another language, for the
// tests that hold the Go module against the pipeline:
//
//	parity MODEL < rows > answers
//	parity -decide MODEL < rows > answers
//
// MODEL is a model.dwcp. A row is the model's inputs in their order, little-endian
// float32. For each the answer is the candidates' probabilities, float32, and the
// label, uint8; with -decide followed by what runs for it, the reason, and what the
// rules would run, uint8 each, for which the model must take all of the contract's
// features. A row that the model refuses ends the program.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"

	"dwcp.internal/selector"
)

func main() {
	decide := flag.Bool("decide", false, "answer with decisions, too")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: parity [-decide] MODEL < rows > answers")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *decide, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path string, decide bool, in io.Reader, out io.Writer) error {
	model, err := selector.LoadBundleFile(path)
	if err != nil {
		return err
	}
	columns := model.Inputs()
	if decide && len(columns) != selector.FeatureCount {
		return fmt.Errorf("%s takes %d of the %d features that a decision needs", path, len(columns), selector.FeatureCount)
	}
	row, answer := make([]byte, 4*len(columns)), []byte(nil)
	reader, writer := bufio.NewReaderSize(in, 1<<20), bufio.NewWriterSize(out, 1<<20)
	for number := 0; ; number++ {
		if _, err := io.ReadFull(reader, row); errors.Is(err, io.EOF) {
			return writer.Flush()
		} else if err != nil {
			return fmt.Errorf("row %d: %w", number, err)
		}
		var features selector.Features
		for input, column := range columns {
			features[column] = math.Float32frombits(binary.LittleEndian.Uint32(row[4*input:]))
		}
		if answer, err = appendAnswer(answer[:0], model, &features, decide); err != nil {
			return fmt.Errorf("row %d: %w", number, err)
		}
		if _, err := writer.Write(answer); err != nil {
			return err
		}
	}
}

func appendAnswer(answer []byte, model *selector.Model, features *selector.Features, decide bool) ([]byte, error) {
	var probabilities [selector.CandidateCount]float32
	if err := model.Predict(features, &probabilities); err != nil {
		return nil, err
	}
	for _, probability := range probabilities {
		answer = binary.LittleEndian.AppendUint32(answer, math.Float32bits(probability))
	}
	label, confidence := selector.Argmax(&probabilities)
	answer = append(answer, byte(label))
	if decide {
		rule := model.Rule()
		choice, reason := rule.Decide(features, label, confidence)
		answer = append(answer, byte(choice), byte(reason), byte(selector.ChooseByRules(features)))
	}
	return answer, nil
}
