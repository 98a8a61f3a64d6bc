package selector_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"dwcp.internal/selector"
)

// What a node knows becomes what the model takes.
func ExampleFeatureExtractor_Extract() {
	extractor := selector.FeatureExtractor{History: selector.NewHistory(selector.Limits{})}

	network := selector.NewNetworkState("node-17")
	network.Region, network.LinkType = selector.RegionEUWest, selector.LinkTypeMetro
	network.RTTMs, network.BandwidthMbps = 4.5, 940
	network.At = time.Date(2026, 8, 3, 17, 30, 0, 0, time.UTC)
	data := &selector.DataCharacteristics{
		ObjectID: "vm-42/disk-0", DataType: selector.DataTypeVMDisk, SizeBytes: 3_000_000,
		AMSTStreams: selector.PlanStreams(3_000_000, 3.5),
	}

	var features selector.Features
	if err := extractor.Extract(network, data, &features); err != nil {
		fmt.Println("the rules decide:", err)
		return
	}
	for _, place := range []int{selector.FeatureTimeOfDay, selector.FeatureRTTBin, selector.FeatureAMSTStreams} {
		fmt.Println(selector.FeatureSpecs[place].Name, features[place])
	}
	// Output:
	// time_of_day 17
	// rtt_bin 2
	// amst_streams 2
}

// What came of a transfer is remembered, and outlives the node.
func ExampleHistory_Observe() {
	directory, err := os.MkdirTemp("", "node")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(directory)
	path := filepath.Join(directory, "history")

	history, err := selector.OpenHistory(path, selector.Limits{}) // nothing there yet: a new node
	if err != nil {
		fmt.Println("the node starts cold:", err)
	}
	network := selector.NewNetworkState("node-17")
	data := &selector.DataCharacteristics{ObjectID: "vm-42/disk-0", DataType: selector.DataTypeVMDisk, SizeBytes: 3_000_000}
	outcome := &selector.Outcome{Zstd: selector.Measured{CompressedBytes: 500_000, CompressionMs: 12, DecompressionMs: 4}}
	if err := history.Observe(network, data, outcome); err != nil {
		fmt.Println(err)
	}
	if err := history.SaveFile(path); err != nil {
		fmt.Println(err)
	}

	history, err = selector.OpenHistory(path, selector.Limits{})
	var features selector.Features
	if err == nil {
		err = (&selector.FeatureExtractor{History: history}).Extract(network, data, &features)
	}
	fmt.Println(features[selector.FeatureBaselineRatio], err)
	// Output: 6 <nil>
}

// A probe takes no longer than it is given, and says what it saw until then.
func ExampleProber_Probe() {
	payload := make([]byte, 1<<20)
	prober := selector.NewProber(exampleEngines{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()

	probe, err := prober.Probe(ctx, selector.Memory(payload), int64(len(payload)), nil)
	if err != nil {
		fmt.Println("the defaults are served:", err)
	}
	fmt.Println(probe.Blocks, probe.Complete, probe.Entropy, probe.CompressibilityScore)
	// Output: 64 true 0 0.984375
}

// exampleEngines stand in for the nested module engines.
type exampleEngines struct{ selector.Engines }

func (exampleEngines) LightBytes([]byte) (int, error) { return 64, nil }
func (exampleEngines) HeavyBytes([]byte) (int, error) { return 40, nil }
