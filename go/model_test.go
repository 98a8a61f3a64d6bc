package selector

import (
	"errors"
	"fmt"
	"math"
	"math/rand"
	"runtime"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"dwcp.internal/selector/internal/cputime"
)

// syntheticModel has the shape of a published one: full trees of treeDepth levels,
// whose branches are all as likely to be taken, and a network with the given units.
func syntheticModel(trees int, units ...int) *Model {
	random := rand.New(rand.NewSource(1))
	model := &Model{version: "synthetic", treesWeight: 0.7, networkWeight: 0.3}
	const thresholds = 255 // as many as XGBoost's histograms have bins
	for column := 0; column < FeatureCount; column++ {
		model.columns = append(model.columns, uint16(column))
		var asked []int32
		for place := 0; place < thresholds; place++ {
			asked = append(asked, order(float32(place+1)/(thresholds+1)))
		}
		model.thresholds = append(model.thresholds, filledUp(asked))
		model.mean, model.scale = append(model.mean, 0.5), append(model.scale, 1)
	}
	for number := 0; number < trees; number++ {
		var tree treeTable
		for branch := 1; branch < treeNodes; branch++ {
			tree.branches[branch] = newBranch(random.Intn(thresholds), random.Intn(FeatureCount))
		}
		for leaf := range tree.leaves {
			tree.leaves[leaf] = random.Float32()*0.1 - 0.05
		}
		class := number % CandidateCount
		model.trees[class] = append(model.trees[class], tree)
	}
	inputs := FeatureCount
	for _, outputs := range units {
		weights, bias := make([]float32, inputs*outputs), make([]float32, outputs)
		for place := range weights {
			weights[place] = float32(random.NormFloat64() / math.Sqrt(float64(inputs)))
		}
		model.layers = append(model.layers, newLayer(weights, bias, inputs))
		inputs = outputs
	}
	return model
}

// largestModel is what a week's training publishes at most.
func largestModel() *Model { return syntheticModel(600, 128, 64, 32, CandidateCount) }

// randomFeatures are vectors that take every way through a synthetic model.
func randomFeatures(count int) []Features {
	random := rand.New(rand.NewSource(2))
	rows := make([]Features, count)
	for row := range rows {
		for column := range rows[row] {
			rows[row][column] = random.Float32()
		}
	}
	return rows
}

func TestRankCountsAsFloatsCompare(t *testing.T) {
	values := []float32{0, float32(math.Copysign(0, -1)), 1, -1, math.MaxFloat32, -math.MaxFloat32,
		math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, 1e-40, 0.1, 1e9}
	for _, value := range values[:len(values):len(values)] {
		values = append(values, math.Nextafter32(value, math.MaxFloat32), math.Nextafter32(value, -math.MaxFloat32))
	}
	random := rand.New(rand.NewSource(3))
	for len(values) < 300 {
		if value := math.Float32frombits(random.Uint32()); value-value == 0 {
			values = append(values, value)
		}
	}
	for count := range values {
		thresholds := values[:count]
		var orders []int32
		for _, threshold := range thresholds {
			orders = append(orders, order(threshold))
		}
		slices.Sort(orders)
		filled := filledUp(orders)
		for _, value := range values {
			expected := 0
			for _, threshold := range thresholds {
				if value >= threshold {
					expected++
				}
			}
			if found := rank(filled, value); found != expected {
				t.Fatalf("%v has rank %d among %d thresholds, not %d", value, found, count, expected)
			}
		}
	}
}

// naiveSum walks trees as one would write it down.
func naiveSum(trees []treeTable, thresholds [][]int32, row *Features, sum float32) float32 {
	for number := range trees {
		at := 1
		for at < treeNodes {
			branch := trees[number].branches[at]
			input, place := int(branch%inputSlots), int(branch/inputSlots)
			if order(row[input]) < thresholds[input][place] {
				at = 2 * at
			} else {
				at = 2*at + 1
			}
		}
		sum += trees[number].leaves[at-treeNodes]
	}
	return sum
}

func TestTreesWalkAsWrittenDown(t *testing.T) {
	for _, count := range []int{0, 1, 3, 4, 7, 50} {
		model := syntheticModel(CandidateCount * count)
		for _, row := range randomFeatures(100) {
			var ranks [inputSlots]branch
			for input, thresholds := range model.thresholds {
				ranks[input] = newBranch(rank(thresholds, row[input]), 0)
			}
			for _, trees := range model.trees {
				found, expected := sumTrees(trees, &ranks, 0.5), naiveSum(trees, model.thresholds, &row, 0.5)
				if found != expected {
					t.Fatalf("%d trees sum up to %v, not %v", count, found, expected)
				}
			}
		}
	}
}

func TestNetworkComputesAsWrittenDown(t *testing.T) {
	random := rand.New(rand.NewSource(4))
	for _, shape := range [][2]int{{1, 1}, {3, 4}, {40, 128}, {128, 63}, {maxUnits, maxUnits}} {
		inputs, outputs := shape[0], shape[1]
		weights, bias := make([]float32, inputs*outputs), make([]float32, outputs)
		for place := range weights {
			weights[place] = float32(random.NormFloat64())
		}
		var from, to [maxUnits]float32
		for place := range from {
			from[place] = float32(random.NormFloat64())
		}
		for unit := range bias {
			bias[unit] = float32(random.NormFloat64())
		}
		made := newLayer(weights, bias, inputs)
		for _, rectify := range []bool{false, true} {
			made.apply(&from, &to, rectify)
			for unit := range bias {
				sum := float64(bias[unit])
				for input := 0; input < inputs; input++ {
					sum += float64(from[input]) * float64(weights[unit*inputs+input])
				}
				if rectify {
					sum = math.Max(sum, 0)
				}
				if math.Abs(sum-float64(to[unit])) > 1e-5*math.Sqrt(float64(inputs)) {
					t.Fatalf("unit %d of %v has %v, not %v", unit, shape, to[unit], sum)
				}
			}
		}
	}
}

func TestPredictRefusesWhatIsNotFinite(t *testing.T) {
	model := loadTestModel(t)
	for column := 0; column < FeatureCount; column++ {
		for _, value := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			var features Features
			features[column] = float32(value)
			var found *NonFiniteError
			err := model.Predict(&features, new([CandidateCount]float32))
			if !errors.As(err, &found) || found.Feature != column {
				t.Fatalf("feature %d of %v: got %v", column, value, err)
			}
		}
	}
}

func TestPredictSaysWhenItsAnswerIsNone(t *testing.T) {
	model := syntheticModel(3, CandidateCount)
	model.layers[0].weights[0] = [lanes]float32{math.MaxFloat32, math.MaxFloat32, -math.MaxFloat32}
	model.scale[0] = math.SmallestNonzeroFloat32
	features := randomFeatures(1)[0]
	features[0] = math.MaxFloat32
	if err := model.Predict(&features, new([CandidateCount]float32)); !errors.Is(err, ErrAnswerNotFinite) {
		t.Errorf("got %v", err)
	}
}

func TestPredictBatch(t *testing.T) {
	model, rows := loadTestModel(t), randomFeatures(50)
	answers := make([][CandidateCount]float32, len(rows))
	if err := model.PredictBatch(rows, answers); err != nil {
		t.Fatal(err)
	}
	for row := range rows {
		var alone [CandidateCount]float32
		if err := model.Predict(&rows[row], &alone); err != nil || alone != answers[row] {
			t.Fatalf("row %d: %v in the batch, %v alone (%v)", row, answers[row], alone, err)
		}
	}
	if err := model.PredictBatch(rows, answers[1:]); err == nil {
		t.Error("an answer too few is no error")
	}
	rows[20][3] = float32(math.NaN())
	var found *NonFiniteError
	if err := model.PredictBatch(rows, answers); !errors.As(err, &found) || found.Feature != 3 {
		t.Errorf("got %v", err)
	}
}

func TestPredictAllocatesNothing(t *testing.T) {
	model, rows := largestModel(), randomFeatures(1)
	rule := model.Rule()
	if allocations := testing.AllocsPerRun(100, func() { decide(t, model, &rule, &rows[0]) }); allocations != 0 {
		t.Errorf("%v allocations a decision", allocations)
	}
}

func TestPredictIsSafeForConcurrentUse(t *testing.T) {
	model, rows := loadTestModel(t), randomFeatures(200)
	expected := make([][CandidateCount]float32, len(rows))
	if err := model.PredictBatch(rows, expected); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for row := range rows {
				var found [CandidateCount]float32
				if err := model.Predict(&rows[row], &found); err != nil || found != expected[row] {
					t.Errorf("row %d: %v, not %v (%v)", row, found, expected[row], err)
					return
				}
			}
		}()
	}
	group.Wait()
}

func TestArgmaxTakesTheFirstOfEquals(t *testing.T) {
	for _, wanted := range []struct {
		probabilities [CandidateCount]float32
		choice        Choice
	}{{[3]float32{0.4, 0.4, 0.2}, HDE}, {[3]float32{0.2, 0.4, 0.4}, AMST}, {[3]float32{0, 0, 1}, None}} {
		if choice, confidence := Argmax(&wanted.probabilities); choice != wanted.choice ||
			confidence != wanted.probabilities[wanted.choice] {
			t.Errorf("%v: %v at %v", wanted.probabilities, choice, confidence)
		}
	}
}

// decide is a whole decision of the model, without the features that it begins with.
func decide(tb testing.TB, model *Model, rule *Rule, features *Features) (Choice, Reason) {
	var probabilities [CandidateCount]float32
	if err := model.Predict(features, &probabilities); err != nil {
		tb.Fatal(err)
	}
	argmax, confidence := Argmax(&probabilities)
	return rule.Decide(features, argmax, confidence)
}

// reportPercentiles times every call by itself, by the clock and in CPU time of its
// thread, which does not count what others run on a busy machine meanwhile.
func reportPercentiles(b *testing.B, call func(row int)) {
	b.Helper()
	b.ReportAllocs()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	byClock, byCPU := make([]time.Duration, b.N), make([]time.Duration, b.N)
	b.ResetTimer()
	for row := 0; row < b.N; row++ {
		cpuBegan, began := cputime.Thread(), time.Now()
		call(row)
		byClock[row] = time.Since(began)
		byCPU[row] = cputime.Thread() - cpuBegan
	}
	b.StopTimer()
	for name, times := range map[string][]time.Duration{"µs": byClock, "cpu-µs": byCPU} {
		sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
		for _, percentile := range []float64{50, 99, 99.9} {
			at := min(int(float64(b.N)*percentile/100), b.N-1)
			b.ReportMetric(float64(times[at])/1e3, fmt.Sprintf("p%v-%s", percentile, name))
		}
	}
}

// The shape of the largest model that a week publishes: 600 trees of depth 8 and the
// network, on vectors that take other ways each time.
func BenchmarkModel(b *testing.B) {
	model, rows := largestModel(), randomFeatures(256)
	rule := model.Rule()
	b.Run("decision", func(b *testing.B) {
		reportPercentiles(b, func(row int) { decide(b, model, &rule, &rows[row%len(rows)]) })
	})
	var inputs [inputSlots]float32
	b.Run("600 trees", func(b *testing.B) {
		reportPercentiles(b, func(row int) {
			copy(inputs[:], rows[row%len(rows)][:])
			model.treeProbabilities(&inputs)
		})
	})
	b.Run("network", func(b *testing.B) {
		reportPercentiles(b, func(row int) {
			copy(inputs[:], rows[row%len(rows)][:])
			model.networkProbabilities(&inputs)
		})
	})
	b.Run("batch of 64", func(b *testing.B) {
		answers := make([][CandidateCount]float32, 64)
		reportPercentiles(b, func(int) {
			if err := model.PredictBatch(rows[:64], answers); err != nil {
				b.Fatal(err)
			}
		})
	})
}

func BenchmarkLoadBundle(b *testing.B) {
	data := readTestModel(b)
	b.ReportAllocs()
	for n := 0; n < b.N; n++ {
		if _, err := LoadBundle(data); err != nil {
			b.Fatal(err)
		}
	}
}
