package selector

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// These tests hold the module against the pipeline itself: tests/release/test_go_*.py build this
// test binary, write real documents, bundles and names, and run it on them.

func fromPipeline(t *testing.T, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		t.Skipf("%s is not set: the pipeline's tests run this", variable)
	}
	return value
}

func TestPipelineBuckets(t *testing.T) {
	text, err := os.ReadFile(fromPipeline(t, "DWCP_TEST_BUCKETS"))
	if err != nil {
		t.Fatal(err)
	}
	var known []struct {
		Node, Object string
		Bucket       int
	}
	if err := json.Unmarshal(text, &known); err != nil {
		t.Fatal(err)
	}
	differ := 0
	for _, one := range known {
		if bucket := RolloutBucket(one.Node, one.Object); bucket != one.Bucket {
			if differ++; differ <= 5 {
				t.Errorf("%q/%q lies in bucket %d, in Python %d", one.Node, one.Object, bucket, one.Bucket)
			}
		}
	}
	fmt.Printf("%d of %d buckets differ\n", differ, len(known))
}

// TestPipelineChannel starts a node on a pipeline's home, polls once, decides once, and
// prints what came of it.
func TestPipelineChannel(t *testing.T) {
	home := fromPipeline(t, "DWCP_TEST_HOME")
	pem, err := os.ReadFile(filepath.Join(home, "keys", "signing.pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePublicKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	selector := New(WithNodeID("node-1"))
	updater, err := NewUpdater(selector, UpdaterConfig{
		Source: DirectorySource(home), PublicKey: key, Region: RegionUSEast, StateDir: os.Getenv("DWCP_TEST_STATE"),
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = updater.Poll(context.Background()) // the status tells
	network, data := wanTransfer()
	decision, decisionErr := selector.SelectCompression(context.Background(), network, data)
	report, err := json.Marshal(map[string]any{
		"status":   updater.Status(),
		"version":  decision.ModelVersion,
		"reason":   decision.Reason.String(),
		"arm":      decision.Arm.String(),
		"bucket":   decision.Bucket,
		"choice":   decision.Choice.String(),
		"features": decision.Features,
		"argmax":   decision.Argmax.String(),
		"sure":     decision.Confidence,
		"error":    fmt.Sprint(decisionErr),
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", report)
}

// TestPipelineMetrics logs transfers of every kind to a real InfluxDB: each choice, measured alone
// and with all engines, each reason, and a shadow.
func TestPipelineMetrics(t *testing.T) {
	url := fromPipeline(t, "DWCP_TEST_INFLUX_URL")
	config := loggerConfig(url, t.TempDir())
	config.Org, config.Token, config.Bucket = os.Getenv("DWCP_TEST_INFLUX_ORG"), os.Getenv("DWCP_TEST_INFLUX_TOKEN"), os.Getenv("DWCP_TEST_INFLUX_BUCKET")
	config.Timeout, config.NodeID, config.Zone = 10*time.Second, `node 1,=é`, "us-east-1a"
	logger := startLogger(t, config)
	measurement, err := NewFullMeasurement(FullMeasurementConfig{
		Engines: &scriptedEngines{takes: time.Millisecond}, Logger: logger, MinShare: 0.5, MaxShare: 0.5,
		IsIdle: func() bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	broken := fakeModel{panics: true}
	selectors := []*CompressionSelectorML{New(WithModel(sureOfHDE)), New(), New(WithModel(broken)), New(WithModel(
		fakeModel{version: "v2", probabilities: [CandidateCount]float32{0, 1, 0}}))}
	shadow := New()
	shadow.install(&release{challenger: shadow.served(sureOfHDE)})
	selectors = append(selectors, shadow)
	late, cancel := context.WithCancel(context.Background())
	cancel()
	began := time.Now()
	const transfers = 400
	payload := make([]byte, 1<<20)
	for n := 0; n < transfers; n++ {
		network, data := wanTransfer()
		network.At, network.Region = began.Add(time.Duration(n)*time.Microsecond), RegionUSEast
		network.PacketLossRate = 0.99 // its float32 is larger
		network.BandwidthMbps = 10_000
		data.ObjectID = fmt.Sprintf(`object "%d" \ é`, n)
		data.SizeBytes = int64(len(payload))
		data.KnownShare = 0.75 // what the engines find too
		ctx := context.Background()
		switch n % 7 {
		case 3:
			data.Probe = Probe{}
		case 4:
			ctx = late
		case 5:
			network.RTTMs, network.LinkType = math.NaN(), LinkTypeMetro
		}
		decision, _ := selectors[n%len(selectors)].SelectCompression(ctx, network, data)
		if n%4 == 3 { // each choice is executed, whatever was decided
			decision.Choice, decision.Reason = Choice(n/4%AlgorithmCount), ReasonRules
		}
		if network.RTTMs != network.RTTMs {
			network.RTTMs = FeatureSpecs[FeatureRTTMs].Default // a node logs what it served
		}
		// Several selectors share a node here, so the test gives the stamps.
		decision.TimestampNs = network.At.UnixNano()
		sent := Measured{CompressedBytes: 1 << 20, CompressionMs: 4, DecompressionMs: 2}
		measurement.Finish(&Record{
			Network: *network, Data: *data, Decision: decision,
			TransferID: fmt.Sprintf("transfer-%d", n), ObjectVersion: int64(n), PayloadDigest: "abc",
			TransferMs: 84, SentBytes: 1 << 20,
			Measured: Measurements{HDE: sent, AMST: sent, Zstd: sent, HDEHitRate: 0.75, AMSTStreams: 4, AMSTCPUMs: 9},
		}, payload, nil, nil)
	}
	eventually(t, "all is measured", func() bool {
		counters := measurement.Counters()
		return counters.Measured == counters.Chosen
	})
	if err := measurement.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if err := logger.Close(context.Background()); err != nil {
		t.Error(err)
	}
	counters := logger.Counters()
	if counters.Sent != transfers || counters.Invalid+counters.Refused+counters.Lost != 0 {
		t.Errorf("%+v, last error %q", counters, logger.LastError())
	}
	fmt.Printf("{\"sent\": %d, \"measured\": %d}\n", counters.Sent, measurement.Counters().Measured)
}
