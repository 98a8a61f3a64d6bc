package selector_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"dwcp.internal/selector"
)

// A node makes one selector, and asks it before each transfer.
func ExampleCompressionSelectorML_SelectCompression() {
	model, err := selector.LoadBundleFile("testdata/model.dwcp")
	if err != nil {
		fmt.Println(err)
		return
	}
	node := selector.New(selector.WithNodeID("node-7"), selector.WithModel(model),
		selector.WithHistory(selector.NewHistory(selector.Limits{})))

	network := selector.NewNetworkState("node-8")
	network.LinkType, network.RTTMs, network.BandwidthMbps = selector.LinkTypeWAN, 40, 100
	data := &selector.DataCharacteristics{ObjectID: "disk-1", DataType: selector.DataTypeVMDisk, SizeBytes: 64 << 20}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	decision, err := node.SelectCompression(ctx, network, data)
	fmt.Println(decision.Choice, decision.Reason, decision.Arm, err)
	// Output: zstd not_worth_it champion <nil>
}

// Without a model a node gets a decision all the same; the error says what is amiss.
func ExampleNew() {
	node := selector.New(selector.WithNodeID("node-7"))
	data := &selector.DataCharacteristics{ObjectID: "disk-1", SizeBytes: 64 << 20}
	decision, err := node.SelectCompression(context.Background(), selector.NewNetworkState("node-8"), data)
	fmt.Println(decision.Choice, decision.Reason, errors.Is(err, selector.ErrModelMissing))
	// Output: amst model_missing true
}

// An updater keeps a node's models those that the signed channel names.
func ExampleUpdater() {
	start := func() error {
		pem, err := os.ReadFile("signing.pub.pem")
		if err != nil {
			return err
		}
		key, err := selector.ParsePublicKey(pem)
		if err != nil {
			return err
		}
		source, err := selector.NewHTTPSource("https://models.example/dwcp", nil)
		if err != nil {
			return err
		}
		node := selector.New(selector.WithNodeID("node-7"))
		updater, err := selector.NewUpdater(node, selector.UpdaterConfig{
			Source: source, PublicKey: key, Region: selector.RegionUSEast, StateDir: "/var/lib/dwcp",
		})
		if err != nil {
			return err
		}
		go updater.Run(context.Background())
		return nil
	}
	fmt.Println(errors.Is(start(), os.ErrNotExist)) // here there is no key
	// Output: true
}

// A logger takes every finished transfer; what could not be sent goes to disk and is
// sent later.
func ExampleMetricsLogger() {
	spill, err := os.MkdirTemp("", "spill")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(spill) }()
	logger, err := selector.NewMetricsLogger(selector.LoggerConfig{
		URL: "http://localhost:1", Org: "dwcp", Token: "secret", NodeID: "node-7", Zone: "us-east-1a", SpillDir: spill,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var invalid *selector.InvalidRowError
	fmt.Println(errors.As(logger.Log(&selector.Record{}), &invalid)) // a record of nothing
	fmt.Println(logger.Close(context.Background()), logger.Counters().Invalid)
	// Output:
	// true
	// <nil> 1
}
