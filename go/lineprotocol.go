package selector

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// InvalidRowError says which column of a metrics row the contract would refuse,
// and why. Such a row is counted and not sent: it would only end in quarantine.
type InvalidRowError struct {
	Column  string
	Problem string
}

func (err *InvalidRowError) Error() string {
	return fmt.Sprintf("metrics row: %s %s", err.Column, err.Problem)
}

// place is where a column lies: in Tags or in Fields.
type place struct {
	tag   bool
	index int
}

var (
	places        = columnPlaces()
	firstServedAt = places[ServedPrefix+FeatureSpecs[0].Name].index // features are neighbours, in their order
)

func columnPlaces() map[string]place {
	found := make(map[string]place, len(Tags)+len(Fields))
	for index, column := range Tags {
		found[column.Name] = place{true, index}
	}
	for index, column := range Fields {
		found[column.Name] = place{false, index}
	}
	return found
}

// row is one point under construction: its cells, spelled as line protocol, in one
// buffer, and by column where they are. The first problem found stays and is
// returned by appendLine.
type row struct {
	cells   []byte
	tags    []span
	fields  []span
	problem error
}

// span is a cell's place in the buffer; empty: no value.
type span struct{ from, to int }

var rows = sync.Pool{New: func() any { return &row{tags: make([]span, len(Tags)), fields: make([]span, len(Fields))} }}

func newRow() *row {
	r := rows.Get().(*row)
	r.cells, r.problem = r.cells[:0], nil
	clear(r.tags)
	clear(r.fields)
	return r
}

func (r *row) text(name, value string) {
	at, known := places[name]
	if !known {
		r.refuse(name, "is not in the contract")
		return
	}
	columns := Fields
	if at.tag {
		columns = Tags
	}
	column := &columns[at.index]
	switch {
	case column.Kind != String:
		r.refuse(name, "is no text")
	case value == "":
		r.refuse(name, "is empty: a text of no characters says nothing")
	case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
		r.refuse(name, "is no valid UTF-8, or holds a NUL")
	case utf8.RuneCountInString(value) > column.MaxLength:
		r.refuse(name, fmt.Sprintf("is longer than %d characters", column.MaxLength))
	case at.tag && strings.ContainsAny(value, "\r\n\\"):
		r.refuse(name, "holds a line break or a backslash, which no tag can store")
	case at.tag:
		r.tags[at.index] = r.cell(func(cells []byte) []byte { return appendEscaped(cells, value, ",= ") })
	default:
		r.fields[at.index] = r.cell(func(cells []byte) []byte {
			return append(appendEscaped(append(cells, '"'), value, `\"`), '"')
		})
	}
}

// cell adds what spell appends.
func (r *row) cell(spell func(cells []byte) []byte) span {
	from := len(r.cells)
	r.cells = spell(r.cells)
	return span{from, len(r.cells)}
}

// appendEscaped puts a backslash before each of the special characters, all of one byte.
func appendEscaped(cells []byte, value, special string) []byte {
	for index := 0; index < len(value); index++ {
		if strings.IndexByte(special, value[index]) >= 0 {
			cells = append(cells, '\\')
		}
		cells = append(cells, value[index])
	}
	return cells
}

// code logs an enum by its word; the contract has none for code 0.
func (r *row) code(name string, code uint8, word string) {
	if code == 0 {
		r.refuse(name, "is unknown: the contract has no word for it")
		return
	}
	r.text(name, word)
}

func (r *row) float(name string, value float64) {
	if column := r.number(name, Float, value); column >= 0 {
		r.fields[column] = r.cell(func(cells []byte) []byte { return strconv.AppendFloat(cells, value, 'g', -1, 64) })
	}
}

func (r *row) integer(name string, value int64) {
	if column := r.number(name, Integer, float64(value)); column >= 0 {
		r.fields[column] = r.cell(func(cells []byte) []byte { return append(strconv.AppendInt(cells, value, 10), 'i') })
	}
}

// served logs the features as they were served. The shortest text of a float32
// gives the same float32 back, and that of a limit is the limit's own.
func (r *row) served(features *Features) {
	for index, value := range features {
		column := &Fields[firstServedAt+index]
		if !(value >= float32(column.Minimum) && value <= float32(column.Maximum)) {
			r.refuse(column.Name, fmt.Sprintf("is %g, outside %g to %g", value, column.Minimum, column.Maximum))
			return
		}
		r.fields[firstServedAt+index] = r.cell(func(cells []byte) []byte {
			return strconv.AppendFloat(cells, float64(value), 'g', -1, 32)
		})
	}
}

// number returns the place of a field that may hold value, or -1.
func (r *row) number(name string, kind Kind, value float64) int {
	at, known := places[name]
	switch {
	case !known || at.tag || Fields[at.index].Kind != kind:
		r.refuse(name, "is no field of that kind in the contract")
	case !within(value, &Fields[at.index]):
		column := &Fields[at.index]
		r.refuse(name, fmt.Sprintf("is %g, outside %g to %g", value, column.Minimum, column.Maximum))
	default:
		return at.index
	}
	return -1
}

func (r *row) refuse(name, problem string) {
	if r.problem == nil {
		r.problem = &InvalidRowError{name, problem}
	}
}

// within is false for NaN and infinity too.
func within(value float64, column *Column) bool {
	return value >= column.Minimum && value <= column.Maximum && !math.IsInf(value, 0)
}

// appendLine adds the row as one line of line protocol, or returns what is wrong with it.
func (r *row) appendLine(line []byte, timestampNs int64) ([]byte, error) {
	if timestampNs <= 0 {
		r.refuse("timestamp_ns", "is missing: InfluxDB would make one up")
	}
	for index, column := range Tags {
		if r.tags[index] == (span{}) {
			r.refuse(column.Name, "is missing")
		}
	}
	for index, column := range Fields {
		if r.fields[index] == (span{}) && !column.Nullable {
			r.refuse(column.Name, "is missing")
		}
	}
	if r.problem != nil {
		return line, r.problem
	}
	line = append(line, Measurement...)
	for index, cell := range r.tags {
		line = append(line, ',')
		line = append(line, Tags[index].Name...)
		line = append(line, '=')
		line = append(line, r.cells[cell.from:cell.to]...)
	}
	separator := byte(' ')
	for index, cell := range r.fields {
		if cell == (span{}) {
			continue
		}
		line = append(line, separator)
		line = append(line, Fields[index].Name...)
		line = append(line, '=')
		line = append(line, r.cells[cell.from:cell.to]...)
		separator = ','
	}
	line = append(line, ' ')
	line = strconv.AppendInt(line, timestampNs, 10)
	return append(line, '\n'), nil
}
